"""A march we can build no golden model for is said to have none, before anything is built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qatladder.errors import ToolchainError
from qatladder.settings import load_settings
from qatladder.toolchains.hmct import Hmct
from qatladder.validation.golden import build


@pytest.mark.parametrize("march", ["nash-e", "nash-m", "nash-p"])
def test_there_is_none_for_nash_unless_the_fleet_names_one(march: str, tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match=f"no golden model of {march}") as caught:
        build(march, tmp_path / march, Hmct(replace(load_settings(), vendor=False)), print)
    assert "name one in the fleet file" in str(caught.value)
    assert not (tmp_path / march).exists()

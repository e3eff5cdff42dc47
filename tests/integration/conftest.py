"""What integration tests need, or the reason they are skipped."""

from __future__ import annotations

import pytest

from qatladder.settings import load_settings
from qatladder.toolchains.hmct import Hmct

TRAINED = load_settings().home / "zoo"
"""The sample zoo of this installation; tests have data folders of their own."""


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("vendor") and (reason := Hmct(load_settings()).unavailable()):
        pytest.skip(reason)
    if request.node.get_closest_marker("zoo") and not (TRAINED / "digits_cnn" / "manifest.json").exists():
        pytest.skip("the sample zoo is not trained: make zoo")

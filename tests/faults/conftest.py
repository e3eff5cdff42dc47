"""A board to break, what it is asked, and what it must answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.boards.conftest import Model, Pictures, models, pictures  # noqa: F401
from tests.integration.conftest import _needs  # noqa: F401

from .lab import LabBoard, laboratory
from .probe import Integers, Probe


@pytest.fixture(autouse=True)
def _climbed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is carried over: these tests break what no key knows of."""
    monkeypatch.setenv("QATLADDER_CARRY_DAYS", "0")


@pytest.fixture
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabBoard]:
    """A board that runs, and this thread in the network of its clients."""
    with laboratory(tmp_path_factory.mktemp("lab")) as (board,):
        yield board


@pytest.fixture(scope="session")
def known() -> dict[bytes, Integers]:
    """What the quantized ONNX said in earlier tests, by its input."""
    return {}


@pytest.fixture
def probe(models: dict[str, Model], pictures: Pictures, tmp_path: Path, known: dict[bytes, Integers]) -> Probe:  # noqa: F811
    """Three pictures for the small NV12 model."""
    files, feed = pictures(3)
    return Probe(models["nv12"], files, feed, tmp_path / "dumps", known)

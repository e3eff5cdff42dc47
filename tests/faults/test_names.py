"""Names are data: on the way to a board no shell reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .lab import LabBoard
from .probe import Probe, client

pytestmark = pytest.mark.vendor

EVIL = "a; rm -rf $HOME; '$(touch x)`touch y`\" & \\ *"


@pytest.mark.parametrize("name", [EVIL, "-rf", "a\nb; touch z", "a b  'c',é%s{0}$1"])
def test_no_name_is_read_by_a_shell(name: str, board: LabBoard, probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = (board.folder / "home", tmp_path / "here")
    for home in homes:
        home.mkdir(exist_ok=True)
        (home / "precious").write_text("still here")
    monkeypatch.chdir(homes[1])
    monkeypatch.setenv("HOME", str(homes[1]))
    folder = tmp_path / name
    folder.mkdir()
    model = folder / f"{name}.hbm"
    shutil.copy(probe.model.hbm, model)
    moved = [[Path(shutil.copy(path, folder / f"{index}{name}.bin"))] for index, (path,) in enumerate(probe.files)]
    evil = Probe(probe.model, moved, probe.feed, folder / "dumps", probe.known).part(0, 1)
    with client(board, run=name) as device:
        evil.ask(device, model)
    board.assert_clean()
    for home in homes:
        assert (home / "precious").read_text() == "still here"
        assert not {"x", "y", "z"} & {path.name for path in home.iterdir()}
    names = {path.name for path in board.path(board.spec.workdir).rglob("*")}
    assert not names & {"x", "y", "z"}
    assert set(names) - {"cache", "jobs"} == {path.name for path in board.path(f"{board.spec.workdir}/cache").iterdir()}

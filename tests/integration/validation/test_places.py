"""Promises: a ladder whose model lives in a container and whose toolchain is on a server over SSH gives the answers of this machine.

Real: Docker's engine, OpenSSH, hb_mapper, hbdk. Both places are on this machine, and the image borrows this machine's libraries.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.runner.test_places import contained, server_of

from qatladder.boards.fleet import BoardSpec
from qatladder.ladder import LadderResult, Status
from qatladder.runner.places import Container
from qatladder.settings import PROJECT, load_settings
from qatladder.toolchains.hmct import STANDIN
from qatladder.validation import finish_ladder, plan, run_rung

pytestmark = [pytest.mark.vendor, pytest.mark.zoo]
RUNGS = ["float", "calib", "qat", "int", "hbm"]


def climb(run_id: str, **changes: Any) -> LadderResult:
    (ladder,) = plan(["wdbc_mlp"], rungs=RUNGS, **changes)
    for rung in ladder["rungs"]:
        run_rung(ladder, rung, run_id, print)
    return finish_ladder(ladder, run_id)


def environments(engine: str, openssh: BoardSpec, folder: Path) -> dict[str, Any]:
    settings = load_settings()
    place = contained(engine)().place
    server = server_of(openssh, folder)
    assert isinstance(place, Container)
    return {
        "trainers": {
            "python": str(PROJECT / ".venv" / "bin" / "python"),
            "memory_gb": 4,
            "container": {"image": place.image, "engine": place.engine, "options": list(place.options)},
        },
        "toolserver": {
            "python": str(settings.vendor_python),
            "path": [str(settings.vendor_python.parent)],
            "paths": [str(STANDIN)],
            "server": {"host": server.host, "options": list(server.options), "folder": server.folder},
        },
    }


def test_a_ladder_spread_over_a_container_and_a_server(
    engine: str, openssh: BoardSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = load_settings().home / "zoo"
    (tmp_path / "home").mkdir()
    shutil.copytree(trained, tmp_path / "home" / "zoo", symlinks=False)
    zoo = tmp_path / "my zoo"
    shutil.copytree(PROJECT / "include" / "zoo", zoo)
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QATLADDER_ZOO", str(zoo))
    monkeypatch.delenv("QATLADDER_STORE", raising=False)
    here = climb("here")

    entry = yaml.safe_load((zoo / "wdbc_mlp.yaml").read_text())
    entry["environment"] = "trainers"
    for target in entry["targets"]:
        target["environment"] = "toolserver"
    (zoo / "wdbc_mlp.yaml").write_text(yaml.safe_dump(entry))
    shared = yaml.safe_load((zoo / "zoo.yaml").read_text())
    (zoo / "zoo.yaml").write_text(yaml.safe_dump({**shared, "environments": environments(engine, openssh, tmp_path)}))
    there = climb("there", force=True)

    unanswered = [
        (check.id, check.reason or check.measured) for check in there.checks if check.required and check.status is not Status.PASSED
    ]
    assert unanswered == []
    assert [(check.id, check.status) for check in here.checks] == [(check.id, check.status) for check in there.checks]
    for rung in ("int", "hbm"):
        ours, theirs = (next(item for item in result.rungs if item.rung == rung) for result in (here, there))
        assert ours.facts.get("identity") == theirs.facts.get("identity")
    assert measured(here) == measured(there)
    trained = next(item for item in there.rungs if item.rung == "float").facts
    assert trained["peak_memory_mb"] > 100, "torch alone takes more"
    assert len(trained["environments"]["trainers"]["sha256"]) == 64
    assert list((tmp_path / "there" / "jobs").iterdir()) == [], "the server keeps no job"


def measured(result: LadderResult) -> dict[str, str]:
    """What each check measured, except the path and time of things."""
    return {
        check.id: check.measured
        for check in result.checks
        if check.id in ("float.accuracy", "int.accuracy", "int.fidelity", "hbm.bit_exact")
    }

"""docs/toolchain-hmct.md, followed to the letter: its blocks are the whole zoo."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from qatladder.ladder import Status
from qatladder.settings import PROJECT, load_settings
from qatladder.validation import finish_ladder, plan, run_rung
from qatladder.zoo import load_zoo
from qatladder.zoo.lint import lint_entry

pytestmark = [pytest.mark.vendor, pytest.mark.timeout(600)]
GUIDE = PROJECT / "docs" / "toolchain-hmct.md"


def write_blocks(guide: Path, folder: Path) -> list[str]:
    """Every fenced block whose first line is a comment with a file name, as that file."""
    names = []
    for name, text in re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```", guide.read_text(), re.MULTILINE | re.DOTALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        names.append(name)
    return names


def test_the_guide_builds_an_entry_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo_folder, home = tmp_path / "zoo", tmp_path / "home"
    assert write_blocks(GUIDE, zoo_folder) == ["adapters/stripes.py", "train.py", "stripes.yaml"]
    adapter = [line for line in (zoo_folder / "adapters" / "stripes.py").read_text().splitlines() if line.strip()]
    assert len(adapter) <= 40
    monkeypatch.setenv("QATLADDER_ZOO", str(zoo_folder))
    monkeypatch.setenv("QATLADDER_HOME", str(home))
    monkeypatch.setenv("QATLADDER_FLEET", str(PROJECT / "include" / "zoo" / "fleet.yaml"))
    subprocess.run([sys.executable, "train.py", str(home / "zoo")], cwd=zoo_folder, check=True, capture_output=True)

    zoo = load_zoo(load_settings())
    (entry,) = zoo.entries.values()
    assert lint_entry(zoo, entry) == []

    (ladder,) = plan(["stripes"], rungs=["float", "calib", "qat", "int", "hbm"])
    for rung in ladder["rungs"]:
        run_rung(ladder, rung, "guide", print)
    result = finish_ladder(ladder, "guide")
    unmet = [(check.id, check.reason) for check in result.checks if check.status is not Status.PASSED and check.required]
    assert unmet == []
    by_id = {check.id: check for check in result.checks}
    assert "1 on the CPU" in by_id["hbm.compile"].measured
    assert by_id["calib.accuracy"].status is Status.SKIPPED

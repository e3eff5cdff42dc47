"""docs/toolchain-openexplorer.md, followed to the letter: its blocks are the whole zoo. Only three folders are other ones.

Stand-ins: horizon_plugin_pytorch, hbdk-model-verifier, and the script that traces the int model. Python 3.8, compiler and simulator are real.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.integration.toolchains.test_guide_hmct import write_blocks
from tests.standins.openexplorer import environment, zoo

from qatladder.ladder import Status
from qatladder.settings import PROJECT, load_settings
from qatladder.toolchains.hmct import Hmct
from qatladder.validation import finish_ladder, plan, run_rung
from qatladder.zoo import load_zoo
from qatladder.zoo.lint import lint_entry

pytestmark = [pytest.mark.vendor, pytest.mark.timeout(900)]
GUIDE = PROJECT / "docs" / "toolchain-openexplorer.md"


def test_the_guide_builds_an_entry_from_nothing(hmct: Hmct, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    try:
        python = environment.prepare(settings.home)
    except RuntimeError as error:
        pytest.skip(str(error))
    folder = tmp_path / "zoo"
    assert write_blocks(GUIDE, folder) == ["zoo.yaml", "adapters/segments.py", "segments.yaml"]
    adapter = [line for line in (folder / "adapters" / "segments.py").read_text().splitlines() if line.strip()]
    assert len(adapter) <= 40
    zoo.build(tmp_path / "data", hmct, python)
    elsewhere = {
        "/opt/j5/bin": str(python.parent),
        "/opt/hbdk/bin": str(settings.vendor_python.parent),
        "/data/segments": str(tmp_path / "data"),
    }
    for name in ("zoo.yaml", "segments.yaml"):
        text = (folder / name).read_text()
        for ours, theirs in elsewhere.items():
            text = text.replace(ours, theirs)
        (folder / name).write_text(text)
    shared = yaml.safe_load((folder / "zoo.yaml").read_text())
    shared["environments"]["j5"]["paths"] = [str(environment.STANDIN)]  # where the stand-in of the plugin is; yours is installed
    (folder / "zoo.yaml").write_text(yaml.safe_dump(shared))
    monkeypatch.setenv("QATLADDER_ZOO", str(folder))
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("QATLADDER_STORE", raising=False)

    read = load_zoo(load_settings())
    (entry,) = read.entries.values()
    assert lint_entry(read, entry) == []
    (ladder,) = plan(["segments"], rungs=["float", "qat", "int", "hbm"])
    for rung in ladder["rungs"]:
        run_rung(ladder, rung, "guide", print)
    result = finish_ladder(ladder, "guide")
    assert [(check.id, check.reason) for check in result.checks if check.status is not Status.PASSED and check.required] == []

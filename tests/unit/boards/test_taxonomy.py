"""Every failure of a board has a kind that says what to do, in the code and in the guide."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qatladder.boards.taxonomy import TAXONOMY, kind_of
from qatladder.errors import BrokenError
from qatladder.settings import PROJECT

SOURCES = [
    *(PROJECT / "include" / "qatladder" / "boards").rglob("*.py"),
    *(PROJECT / "include" / "qatladder" / "validation" / name for name in ("fleet.py", "onboard.py", "onboard_app.py", "app_outputs.py")),
    PROJECT / "include" / "qatladder" / "airflow" / "ssh.py",
]
NOT_OF_A_LADDER = {"port_taken", "not_started"}
"""Of starting a virtual board."""


def raised(path: Path) -> set[str]:
    """Kinds a module raises: `kind="..."`, and the second argument of the helpers that make errors."""
    text = path.read_text()
    found = set(re.findall(r'kind="(\w+)"', text))
    found |= set(re.findall(r'(?:\.error|self\._broken)\(\s*f?"[^"]*"(?: if [^"]*else "[^"]*")?,\s*"(\w+)"', text))
    return found - NOT_OF_A_LADDER


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_kind_that_is_raised_is_in_the_taxonomy(path: Path) -> None:
    assert raised(path) <= set(TAXONOMY), f"{path} raises kinds nobody explains"


def test_the_search_finds_kinds() -> None:
    found = set().union(*(raised(path) for path in SOURCES))
    assert {"timeout", "disk_full", "corrupt_transfer", "golden_mismatch", "bad_board", "board_busy"} <= found


def test_every_kind_helps() -> None:
    for kind, what in TAXONOMY.items():
        assert len(what.help) > 20, kind
        assert what.retry != "never" or not what.blames_board, f"{kind}: a board that is to blame can be replaced"


def test_the_guide_lists_every_kind() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| (yes|no) \| (.+) \|$", (PROJECT / "docs" / "board-failures.md").read_text(), re.MULTILINE)
    words = {"same": "the same board", "elsewhere": "another board", "never": "no"}
    expected = [(kind, words[what.retry], "yes" if what.blames_board else "no", what.help) for kind, what in TAXONOMY.items()]
    assert rows == expected


def test_a_kind_of_somebody_else_is_tried_again_and_blames_no_board() -> None:
    found = kind_of(BrokenError("the store is down", kind="store"))
    assert (found.retry, found.blames_board) == ("same", False)


def test_no_host_key_is_ever_taken_on_trust() -> None:
    for path in (PROJECT / "include").rglob("*.py"):
        assert not re.search(r"AutoAddPolicy|WarningPolicy|StrictHostKeyChecking.?.?no\b", path.read_text()), path

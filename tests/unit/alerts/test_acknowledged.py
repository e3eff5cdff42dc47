"""Promises of qatladder.alerts.acknowledged: strict, dated, reviewed; a mistake names file, entry, expected and found."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from qatladder.alerts.acknowledged import MAX_DAYS, acknowledge, build, load_acknowledged, parse_expiry
from qatladder.alerts.findings import Finding, Kind, Ladder
from qatladder.errors import ConfigError

TODAY = date(2026, 11, 23)

FILE = """# who answers for what

acknowledged:
  # the retraining, see the meeting of Monday
  - model: lane_net
    version: "1"        # the old head
    target: bayes-e
    check: [int.accuracy, board.accuracy]
    owner: lanes
    reason: the new head is being retrained
    expires: 2026-12-24
    issue: https://example.com/issues/12
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "acknowledged.yaml").write_text(FILE)
    return tmp_path / "acknowledged.yaml"


def finding(check: str = "int.accuracy", model: str = "lane_net", version: str = "1", target: str = "bayes-e") -> Finding:
    return Finding(Kind.NO_SHIP, Ladder(model, version, target), "lanes", check)


def entry(**fields: Any) -> Any:
    data = {"model": "other", "check": "int.input", "owner": "lanes", "reason": "it is being looked at", "expires": date(2026, 12, 1)}
    return build(**(data | fields))


def test_an_entry_covers_its_ladder_and_its_checks(path: Path) -> None:
    found = load_acknowledged(path, TODAY)
    assert found.problems == ()
    assert found.of(finding()) is not None
    assert found.of(finding("board.accuracy")) is not None
    for other in (finding("board.runtime"), finding(model="lane"), finding(version="2"), finding(target="bayes")):
        assert found.of(other) is None


def test_version_and_target_may_be_left_out(path: Path) -> None:
    path.write_text("acknowledged: [{model: a, check: missing, owner: o, reason: it left the zoo, expires: 2026-12-01}]")
    found = load_acknowledged(path, TODAY)
    assert found.of(finding("missing", "a", "7", "x3")) is not None


def test_it_holds_through_its_last_day_and_no_longer(path: Path) -> None:
    last = date(2026, 12, 24)
    assert load_acknowledged(path, last).of(finding()) is not None
    after = load_acknowledged(path, last + timedelta(days=1))
    assert after.of(finding()) is None
    expired = after.expired_of(finding())
    assert expired is not None
    assert expired.owner == "lanes"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("    owner: lanes\n", "", ["owner", "entry 1, line 5", "found: nothing"]),
        ("owner: lanes", "owner: ''", ["owner", "entry 1, line 5"]),
        ("int.accuracy, ", "int.acuracy, ", ["there is no check int.acuracy", "int.accuracy"]),
        ("2026-12-24", "christmas", ["expires", "'christmas'"]),
        ("2026-12-24", "2027-12-24", ["expires", "2027-12-24", f"at most {MAX_DAYS} days"]),
        ("    expires: 2026-12-24\n", "", ["expires", "found: nothing"]),
        ("the new head is being retrained", "wip", ["reason", "'wip'"]),
        ("    issue:", "    isue:", ["isue"]),
        ("https://example.com", "example.com", ["issue"]),
        ('    version: "1"', "    version: 1", ["version", "string"]),
        ("    target: bayes-e", "    target: bayes-e\n    target: bayes", ["target", "line"]),
        ("acknowledged:\n", "acknowledge:\n", ["one key `acknowledged`", "found: acknowledge"]),
        ("  - model: lane_net", "  - just words\n  - model: lane_net", ["entry 1, line 5", "'just words'"]),
        ("    owner: lanes", "   owner: lanes", ["not YAML", "line"]),
    ],
)
def test_a_mistake_names_itself(path: Path, old: str, new: str, named: list[str]) -> None:
    assert old in FILE
    path.write_text(FILE.replace(old, new))
    found = load_acknowledged(path, TODAY)
    text = "\n".join(map(str, found.problems))
    for part in [*named, str(path), "expected", "found", "next: correct it"]:
        assert part in text, text


def test_an_entry_with_a_mistake_acknowledges_nothing_and_leaves_the_others(path: Path) -> None:
    good = "  - {model: other, check: int.input, owner: o, reason: it is being looked at, expires: 2026-12-01}\n"
    path.write_text(FILE.replace("2026-12-24", "soon") + good)
    found = load_acknowledged(path, TODAY)
    assert len(found.problems) == 1
    assert found.of(finding()) is None
    assert found.of(finding("int.input", "other")) is not None


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "acknowledged: []\n", "acknowledged:\n"])
def test_nothing_is_nothing(path: Path, text: str) -> None:
    path.write_text(text)
    assert load_acknowledged(path, TODAY).problems == ()
    path.unlink()
    assert load_acknowledged(path, TODAY).problems == ()


def test_bytes_that_are_no_text_are_a_mistake(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")
    assert len(load_acknowledged(path, TODAY).problems) == 1


def test_writing_keeps_what_is_there_comments_included(path: Path) -> None:
    path.chmod(0o640)
    acknowledge(path, entry(issue="https://example.com/1"), TODAY)
    text = path.read_text()
    for line in FILE.splitlines():
        assert line in text.splitlines()
    found = load_acknowledged(path, TODAY)
    assert [item.model for item in found.active] == ["lane_net", "other"]
    assert found.active[1] == entry(issue="https://example.com/1")
    assert path.stat().st_mode & 0o777 == 0o640
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("before", [None, "", "# a comment\nacknowledged: []\n", "acknowledged:\n"])
def test_the_first_entry_makes_the_file(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "zoo" / "acknowledged.yaml"
    if before is not None:
        path.parent.mkdir()
        path.write_text(before)
    acknowledge(path, entry(), TODAY)
    acknowledge(path, entry(model="second", check=["int.input", "int.accuracy"]), TODAY)
    assert [item.model for item in load_acknowledged(path, TODAY).active] == ["other", "second"]
    assert "\n  - model: other\n" in path.read_text(), "one line per field, for review"


def test_a_file_with_mistakes_is_not_written_to(path: Path) -> None:
    path.write_text(FILE.replace("2026-12-24", "soon"))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="an acknowledgement is wrong"):
        acknowledge(path, entry(), TODAY)
    assert path.read_bytes() == before


def test_an_interrupted_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        acknowledge(path, entry(), TODAY)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("expires", [TODAY - timedelta(days=1), TODAY + timedelta(days=MAX_DAYS + 1)])
def test_an_expiry_that_is_past_or_far_is_refused(path: Path, expires: date) -> None:
    with pytest.raises(ConfigError, match="must expire soon"):
        acknowledge(path, entry(expires=expires), TODAY)


def test_expiries_are_days() -> None:
    assert parse_expiry("2026-12-01", TODAY) == date(2026, 12, 1)
    assert parse_expiry("30d", TODAY) == date(2026, 12, 23)
    with pytest.raises(ConfigError, match="not a day"):
        parse_expiry("soon", TODAY)

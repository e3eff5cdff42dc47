"""Promises of qatladder.alerts.tell: what is new is told in full and once, what is unchanged is one line, and everybody hears of their own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.alerts.nights import HMCT, START, Lab, ladder, movement, report, trend

from qatladder.alerts.memory import load
from qatladder.alerts.send import Message
from qatladder.alerts.tell import MAX_MESSAGES, in_report
from qatladder.settings import load_settings

ACK = """
acknowledged:
  - model: lane_net
    check: int.accuracy
    owner: lanes
    reason: the new head is being retrained
    expires: {expires}
"""


def titles(found: list[Message]) -> list[str]:
    return [message.title for message in found]


def test_a_night_that_ships_tells_nobody(lab: Lab) -> None:
    assert lab.night(ladder()) == []
    assert list(lab.store.keys("alerts/main/open/")) == []


def test_a_thousand_ladders_with_one_cause_are_one_message(lab: Lab) -> None:
    broken = [ladder(f"m{index}", ["int.fidelity"], trend=trend("regression", suspects=[HMCT])) for index in range(1000)]
    (message,) = lab.night(*broken)
    assert message.title == "QATLadder no-ship: int.fidelity, 1000 ladders, toolchain hmct 1.1.0 -> 1.2.0"
    assert len(message.body) < 3000
    before = {entry.key: entry.modified for entry in lab.store.items("alerts/main/open/")}
    assert titles(lab.night(*broken)) == ["QATLadder: still open: 1 cluster, 1000 ladders, since 2026-11-23"]
    assert {entry.key: entry.modified for entry in lab.store.items("alerts/main/open/")} == before, "what did not change is not written"


def test_a_week_of_nights(lab: Lab) -> None:
    bad, worse = ladder("a", ["int.accuracy"], values={"fingerprint": "x"}), ladder("b", ["int.accuracy"], values={"fingerprint": "x"})
    board = ladder("c", broken="board.health", values={"kind": "unreachable"})
    good = [ladder(name) for name in "abc"]
    assert lab.night(*good) == []
    assert titles(lab.night(bad, good[1], good[2])) == ["QATLadder no-ship: int.accuracy, a 1 @ bayes-e"]
    assert titles(lab.night(bad, good[1], good[2])) == ["QATLadder: still open: 1 cluster, 1 ladder, since 2026-11-24"]
    (grown,) = lab.night(bad, worse, good[2])
    assert grown.title == "QATLadder no-ship: int.accuracy, 1 more, 2 ladders"
    assert "new b 1 @ bayes-e" in grown.body and "- a 1 @ bayes-e" in grown.body
    (away,) = lab.night(bad, worse, board)
    assert away.title == "QATLadder undecided: board.health, c 1 @ bayes-e"
    assert "still open: 1 cluster, 2 ladders, since 2026-11-24" in away.body
    assert titles(lab.night(good[0], worse, good[2])) == [
        "QATLadder recovered: int.accuracy, a 1 @ bayes-e",
        "QATLadder recovered: board.health, c 1 @ bayes-e",
    ]
    assert titles(lab.night(good[0], worse, good[2])) == ["QATLadder: still open: 1 cluster, 1 ladder, since 2026-11-26"]
    assert titles(lab.night(*good)) == ["QATLadder recovered: int.accuracy, b 1 @ bayes-e"]
    assert lab.night(*good) == []
    assert list(lab.store.keys("alerts/main/open/")) == []


def test_an_unchanged_finding_is_told_again_after_a_week(lab: Lab) -> None:
    bad = ladder(fails=["int.accuracy"])
    kinds = [lab.night(bad)[0].title.split(":")[0] for _ in range(9)]
    assert kinds == ["QATLadder no-ship", *["QATLadder"] * 6, "QATLadder no-ship, open since 2026-11-23", "QATLadder"]


def test_the_reminder_period_and_the_line_a_night_are_settings(lab: Lab) -> None:
    lab.routing("reminder_days: 2\nstill_open: false\n")
    bad = ladder(fails=["int.accuracy"])
    assert [len(lab.night(bad)) for _ in range(5)] == [1, 0, 1, 0, 1]


def test_a_regression_that_becomes_a_no_ship_is_told_again_and_not_the_other_way_round(lab: Lab) -> None:
    moved = ladder(trend=trend("regression", movement()))
    failed = ladder(fails=["int.accuracy"], trend=trend("regression", movement()))
    assert titles(lab.night(moved)) == ["QATLadder regression: int.accuracy, lane_net 1 @ bayes-e"]
    assert titles(lab.night(failed)) == ["QATLadder no-ship: int.accuracy, lane_net 1 @ bayes-e"]
    assert all("still open" in title for title in titles(lab.night(moved)))
    assert titles(lab.night(failed)) == ["QATLadder no-ship: int.accuracy, lane_net 1 @ bayes-e"]


def test_another_check_that_fails_behind_a_known_one_is_told(lab: Lab) -> None:
    lab.night(ladder(fails=["int.accuracy"]))
    (message,) = lab.night(ladder(fails=["int.accuracy", "board.runtime"]))
    assert message.title == "QATLadder no-ship: board.runtime, lane_net 1 @ bayes-e"
    assert "also int.accuracy" in message.body


def test_a_night_that_answers_nothing_neither_closes_nor_repeats_a_finding(lab: Lab) -> None:
    bad = ladder(fails=["board.accuracy"])
    away = ladder(broken="board.health", values={"kind": "unreachable"})
    away["checks"] = [check for check in away["checks"] if check["id"] != "board.accuracy"]
    lab.night(bad)
    assert titles(lab.night(away)) == ["QATLadder undecided: board.health, lane_net 1 @ bayes-e"]
    assert all("still open" in title for title in titles(lab.night(bad))), "it was told before the board went away"


def test_a_run_of_some_models_leaves_the_others_alone(lab: Lab) -> None:
    lab.night(ladder("a", ["int.accuracy"]), ladder("b", ["int.accuracy"]))
    assert titles(lab.night(ladder("c"), days=0.1)) == []
    assert titles(lab.night(ladder("b"), days=0.1)) == ["QATLadder recovered: int.accuracy, b 1 @ bayes-e"]
    assert titles(lab.night(ladder("a", rungs=["float"]), days=0.1)) == ["QATLadder: still open: 1 cluster, 1 ladder, since 2026-11-23"]


def test_a_recovery_says_what_the_history_knows_of_it_and_is_told_once(lab: Lab) -> None:
    back = ladder(trend=trend(recovered={"since": "n7", "time": "2026-11-20T01:00:00+00:00"}))
    lab.night(ladder(fails=["int.input"]))
    (message,) = lab.night(back)
    assert message.title == "QATLadder recovered: int.input, lane_net 1 @ bayes-e"
    assert "was no-ship since 2026-11-23 at int.input, last in n7 (2026-11-20T01:00:00+00:00)" in message.body
    assert lab.night(back) == []


def test_a_ladder_of_which_only_some_rungs_were_asked_before_did_not_recover(lab: Lab) -> None:
    assert lab.night(ladder(rungs=["float"])) == []
    assert lab.night(ladder(trend=trend(recovered={"since": "n1", "time": "2026-11-23T01:00:00+00:00"}))) == []


def test_what_somebody_answered_for_is_told_when_it_is_over(lab: Lab) -> None:
    lab.acknowledged(ACK.format(expires="2026-12-25"))
    assert lab.night(ladder(fails=["int.accuracy"])) == []
    assert titles(lab.night(ladder())) == ["QATLadder recovered: int.accuracy, lane_net 1 @ bayes-e"]


def test_progressions_are_told_once(lab: Lab) -> None:
    better = ladder(trend=trend("progression", movement("progression", value=0.97)))
    (message,) = lab.night(better)
    assert message.title == "QATLadder progression: int.accuracy, lane_net 1 @ bayes-e"
    assert "top1 0.95 -> 0.97 (+0.02) since n0" in message.body
    assert lab.night(better) == []


def test_a_regression_that_nobody_compared_tonight_stays_open(lab: Lab) -> None:
    lab.night(ladder(trend=trend("regression", movement())))
    assert "still open" in lab.night(ladder())[0].title
    assert "still open" in lab.night(ladder(trend=trend("insufficient_data")))[0].title
    assert "still open" in lab.night(ladder(trend=trend("new", {**movement("new"), "check_id": ""})))[0].title
    elsewhere = trend("progression", movement("insufficient_data"), movement("progression", check="float.accuracy"))
    assert "still open" in lab.night(ladder(trend=elsewhere))[0].body
    assert "no longer found" in lab.night(ladder(trend=trend("no_regression")))[0].body


def test_a_missing_ladder_is_told_once_and_again_when_it_is_back(lab: Lab) -> None:
    gone = [{"model": "lane_net", "version": "1", "target": "bayes-e", "owner": "lanes", "last_run": "n0", "last_time": "2026-11-22"}]
    assert titles(lab.night(ladder("other"), missing=gone)) == ["QATLadder missing: lane_net 1 @ bayes-e"]
    assert "still open" in lab.night(ladder("other"), missing=gone)[0].title
    assert titles(lab.night(ladder("other"), ladder())) == ["QATLadder recovered: lane_net 1 @ bayes-e"]


def test_a_ladder_that_went_missing_keeps_what_was_wrong_with_it(lab: Lab) -> None:
    gone = [{"model": "lane_net", "version": "1", "target": "bayes-e", "owner": "lanes", "last_run": "n1", "last_time": "2026-11-23"}]
    lab.night(ladder(fails=["int.input"]))
    assert titles(lab.night(ladder("other"), missing=gone)) == ["QATLadder missing: lane_net 1 @ bayes-e"]
    assert titles(lab.night(ladder(fails=["int.input"]))) == ["QATLadder: still open: 1 cluster, 1 ladder, since 2026-11-23"]


def test_an_old_run_told_again_does_not_bring_its_findings_back(lab: Lab) -> None:
    old = report(ladder(fails=["int.input"]), run="n1")
    lab.tell(old, "n1")
    lab.count = 1
    assert len(lab.night(ladder())) == 2  # the finding, and that it is over
    lab.tell(old, "n1")
    assert lab.night(ladder()) == []


def test_more_clusters_than_messages_end_in_a_digest(lab: Lab) -> None:
    found = lab.night(*[ladder(f"m{index:02}", ["int.input"], cause=f"cause {chr(97 + index)}") for index in range(MAX_MESSAGES + 3)])
    assert len(found) == MAX_MESSAGES + 1
    assert found[-1].title == "QATLadder: 3 more clusters tonight"
    assert found[-1].body.count("- no-ship: int.input, 1 ladder") == 3


OWNERS = """
owners:
  lanes: {addresses: [$LANES]}
  signs: {addresses: [$SIGNS], minimum: error}
"""


@pytest.fixture
def owners(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("LANES", "json://lanes")
    monkeypatch.setenv("SIGNS", "json://signs")
    lab.routing(OWNERS)
    return lab


def test_owners_get_the_clusters_with_their_ladders_and_the_default_gets_all(owners: Lab) -> None:
    owners.tell(
        report(
            ladder("l", ["int.input"], owner="lanes"),
            ladder("s", ["int.input"], owner="signs"),
            ladder("x", ["hbm.compile"], owner="lanes"),
            ladder("y", broken="board.health", owner="signs"),
            ladder("nobody", ["float.accuracy"], owner="unheard of"),
        ),
        "n1",
    )
    shared = "QATLadder no-ship: int.input, 2 ladders"
    assert titles(owners.take("json://lanes")) == [shared, "QATLadder no-ship: hbm.compile, x 1 @ bayes-e"]
    signs = owners.take("json://signs")
    assert titles(signs) == [shared]  # undecided is below the minimum
    assert "2 ladders:\n- s 1 @ bayes-e (owner signs)" in signs[0].body
    assert len(owners.take("json://chat")) == 4


def test_a_cluster_that_grew_by_somebody_elses_ladder_is_no_news_for_an_owner(owners: Lab) -> None:
    lanes, signs = ladder("l", ["int.input"], owner="lanes"), ladder("s", ["int.input"], owner="signs")
    owners.night(lanes)
    owners.tell(report(lanes, signs, run="n2"), "n2")
    assert titles(owners.take("json://lanes")) == []
    assert titles(owners.take("json://signs")) == ["QATLadder no-ship: int.input, 1 more, 2 ladders"]


def test_an_address_that_is_an_owners_and_the_default_gets_a_cluster_once(lab: Lab) -> None:
    lab.routing("owners:\n  lanes: {addresses: [$QATLADDER_ALERTS]}\n")
    assert len(lab.night(ladder(fails=["int.input"]))) == 1


def test_addresses_given_by_the_caller_win_and_have_a_memory_of_their_own(lab: Lab, tmp_path: Any) -> None:
    from qatladder.alerts.messages import StoreLinks
    from qatladder.alerts.tell import tell

    data = report(ladder(fails=["int.input"]))
    lab.tell(data, "n1")
    assert len(lab.take("json://chat")) == 1
    for _ in range(2):
        tell(data, lab.store, load_settings(), StoreLinks("x"), "n1", ["json://mine"], now=lambda: lab.now, send=lab.send)
    assert [place for place, _ in lab.arrived] == ["json://mine"]


def test_the_same_run_told_again_is_told_once_and_a_run_that_was_judged_again_is_told_anew(lab: Lab) -> None:
    for _ in range(3):
        lab.tell(report(ladder(fails=["int.input"])), "n1")
    assert len(lab.take()) == 1
    lab.tell(report(ladder(fails=["float.accuracy"])), "n1")
    assert titles(lab.take()) == ["QATLadder no-ship: float.accuracy, lane_net 1 @ bayes-e"]


@pytest.mark.parametrize("dies_at", range(1, 12))
def test_a_process_that_dies_anywhere_loses_and_doubles_nothing(owners: Lab, monkeypatch: pytest.MonkeyPatch, dies_at: int) -> None:
    """Every write to the store in turn is the one the process dies at; the next try goes on."""
    data = report(ladder("l", ["int.input"], owner="lanes"), ladder("s", ["int.input"], owner="signs"), ladder("x", ["hbm.compile"]))
    writes = 0
    whole = type(owners.store)._upload

    def dying(store: Any, key: str, path: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == dies_at:
            raise KeyboardInterrupt
        whole(store, key, path)

    monkeypatch.setattr(type(owners.store), "_upload", dying)
    with pytest.raises(KeyboardInterrupt):
        owners.tell(data, "n1")
    at_the_mark = owners.arrived.copy()
    from datetime import timedelta

    owners.now += timedelta(minutes=11)
    owners.tell(data, "n1")
    owners.deliver()
    got = sorted((place, message.title) for place, message in owners.arrived)
    wanted = ("json://chat", "json://lanes", "json://signs", "json://chat", "json://lanes")
    assert sorted(set(got)) == sorted({(place, title) for place, title in got})
    assert {place for place, _ in got} == set(wanted)
    assert len(set(got)) == 5
    # At least once: only the one accepted right before the write that died may come twice.
    assert len(got) - 5 <= 1
    assert len(got) == 5 or (at_the_mark and got.count((at_the_mark[-1][0], at_the_mark[-1][1].title)) == 2)
    assert list(owners.store.keys("alerts/outbox/")) == []


def test_an_acknowledged_finding_is_counted_not_told_until_it_expires(lab: Lab) -> None:
    lab.acknowledged(ACK.format(expires="2026-11-25"))
    bad, other = ladder(fails=["int.accuracy"]), ladder("other", ["float.accuracy"])
    assert lab.night(bad) == []
    (message,) = lab.night(bad, other)  # 24th
    assert message.title == "QATLadder no-ship: float.accuracy, other 1 @ bayes-e"
    assert "acknowledged: 1 ladder" not in message.body or "still open" not in message.body
    lab.night(bad, other)  # 25th: its last day
    found = lab.night(bad, other)  # 26th
    assert found[0].title == "QATLadder no-ship: int.accuracy, lane_net 1 @ bayes-e"
    assert "the acknowledgement by lanes expired on 2026-11-25: the new head is being retrained" in found[0].body


def test_acknowledged_ladders_are_counted_beside_the_news(lab: Lab) -> None:
    lab.acknowledged(ACK.format(expires="2026-12-25"))
    (message,) = lab.night(ladder(fails=["int.accuracy"]), ladder("other", ["float.accuracy"]))
    assert "acknowledged: 1 ladder" in message.body


def test_an_acknowledgement_covers_its_check_and_nothing_else(lab: Lab) -> None:
    lab.acknowledged(ACK.format(expires="2026-12-25"))
    (message,) = lab.night(ladder(fails=["int.accuracy", "board.runtime"]))
    assert message.title == "QATLadder no-ship: board.runtime, lane_net 1 @ bayes-e"
    assert "int.accuracy is acknowledged by lanes until 2026-12-25" in message.body


def test_a_finding_that_was_told_before_it_was_acknowledged_is_told_again_when_that_expires(lab: Lab) -> None:
    bad = ladder(fails=["int.accuracy"])
    assert len(lab.night(bad)) == 1
    lab.acknowledged(ACK.format(expires="2026-11-24"))
    assert lab.night(bad) == []
    assert "expired on 2026-11-24" in lab.night(bad)[0].body


@pytest.mark.parametrize("text", ["acknowledged: [", ACK.replace("{expires}", "someday"), "- what\n", ACK.format(expires="2028-01-01")])
def test_a_malformed_file_silences_nothing_and_is_told(lab: Lab, text: str) -> None:
    lab.acknowledged(text)
    (message,) = lab.night(ladder(fails=["int.accuracy"]))
    assert message.title == "QATLadder no-ship: int.accuracy, lane_net 1 @ bayes-e"
    assert "PROBLEM: " in message.body and "acknowledged.yaml" in message.body
    assert lab.night(ladder(), days=0)[0].title.startswith("QATLadder recovered")
    (alone,) = lab.night(ladder())
    assert alone.title == "QATLadder: its own settings are wrong"


def test_a_malformed_routing_sends_everything_to_the_default(lab: Lab) -> None:
    lab.routing("owners: {lanes: {addresses: ['slack://hunter2/hunter2/hunter2']}}")
    (message,) = lab.night(ladder(fails=["int.accuracy"]))
    assert "PROBLEM: the routing of alerts is wrong" in message.body
    assert "hunter2" not in message.body


def test_the_report_lists_who_answers_for_what_what_is_stale_and_what_was_not_delivered(lab: Lab) -> None:
    lab.acknowledged(ACK.format(expires="2999-01-01").replace("2999-01-01", f"{START:%Y}-12-25") + ACK_STALE)
    lab.down.add("json://chat")
    lab.tell(report(ladder("other", ["float.accuracy"])), "n0")
    found = in_report(report(ladder(fails=["int.accuracy"]), ladder("well")), load_settings(), lab.store)
    json.dumps(found)
    (row,) = [*found["acknowledged"], *found["expired"]]
    assert (row["ladder"], row["check"], row["owner"]) == ("lane_net 1 @ bayes-e", "int.accuracy", "lanes")
    assert [row["model"] for row in found["stale"]] == ["well", "left_the_zoo"]
    (lost,) = found["undelivered"]
    assert (lost["state"], lost["address"], lost["reason"]) == ("waiting", "$QATLADDER_ALERTS", "json://****: error=500")


ACK_STALE = """
  - {model: well, check: int.input, owner: lanes, reason: it was so once upon a time, expires: 2026-12-01}
  - {model: left_the_zoo, check: int.input, owner: lanes, reason: it was so once upon a time, expires: 2026-12-01}
  - {model: not_in_this_run, check: int.input, owner: lanes, reason: it was so once upon a time, expires: 2026-12-01}
"""


@pytest.fixture(autouse=True)
def _zoo(lab: Lab) -> None:
    (lab.zoo / "entry.yaml").write_text("model: not_in_this_run\nversion: '1'\n")


def test_a_ladder_nobody_saw_for_two_months_is_forgotten(lab: Lab) -> None:
    lab.night(ladder("old", ["int.input"]), days=61)
    lab.night(ladder("new"))
    assert load(lab.store, "main") == {}


def test_a_record_that_cannot_be_read_is_told_again(lab: Lab, tmp_path: Any) -> None:
    lab.night(ladder(fails=["int.input"]))
    (tmp_path / "store" / "alerts" / "main" / "open" / "lane_net@1@bayes-e.json").write_text("{")
    assert titles(lab.night(ladder(fails=["int.input"]))) == ["QATLadder no-ship: int.input, lane_net 1 @ bayes-e"]

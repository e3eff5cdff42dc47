"""Promises of qatladder.alerts.findings and messages: one cluster per cause, worst first, in one order; the text says what to do."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.alerts.nights import HMCT, ladder, movement, report, trend
from tests.unit.reports.ladders import RUN, no_ship, ship, undecided

from qatladder.alerts.findings import Cluster, Kind, candidates, clusters, generic, missing
from qatladder.alerts.messages import MAX_LENGTH, MAX_NAMED, StoreLinks, cluster_message
from qatladder.alerts.send import shorten
from qatladder.history.baselines import Baseline
from qatladder.history.trends import Past, Policy, judge_night
from qatladder.ladder import Status
from qatladder.reports.report import report_json

LINKS = StoreLinks("s3://qatladder/runs/n1/report.html")


def told(*ladders: dict[str, Any], suspicious: bool = False) -> list[Cluster]:
    return clusters(finding for item in ladders for finding in candidates(item, suspicious)[:1])


def test_a_ladder_that_ships_is_no_finding() -> None:
    assert candidates(ladder()) == []
    assert candidates(ladder(trend=trend("no_regression"))) == []
    assert candidates(ladder(trend=trend("insufficient_data", movement("insufficient_data")))) == []


def test_the_message_of_a_real_ladder_says_what_failed_and_what_to_do() -> None:
    data = report_json((ship(), undecided(), no_ship()), RUN)
    worst, other = told(*data["ladders"])
    message = cluster_message(worst, LINKS)
    check = no_ship().deciding_check
    assert check is not None
    assert message.title == "QATLadder no-ship: int.input, lane_net 2026.11.2 @ x3"
    for part in (
        "first failing check: int.input failed",
        f"measured: {check.measured}",
        f"expected: {check.expected}",
        f"probable cause: {check.cause}",
        f"next step: {check.next_steps[0]}",
        "lane_net 2026.11.2 @ x3 (owner lanes)",
        f"evidence: {check.evidence[0].name} {check.evidence[0].uri}",
        "report: s3://qatladder/runs/n1/report.html",
    ):
        assert part in message.body
    assert check.next_steps[1] not in message.body  # one next step: compact
    assert cluster_message(other, LINKS).title == "QATLadder undecided: board.health, digits_cnn 2 @ bayes-e"
    assert "left open by: board.health broken" in cluster_message(other, LINKS).body


def test_two_hundred_models_broken_by_one_toolchain_upgrade_are_one_cluster() -> None:
    broke = {"since": "n0", "time": "2026-11-22T01:00:00+00:00"}
    ladders = [
        ladder(
            f"model_{index}", ["int.fidelity"], trend=trend("regression", suspects=[HMCT], broke=broke), cause=f"layer conv{index} differs"
        )
        for index in range(180)
    ]
    ladders += [ladder(f"bits_{index}", ["hbm.bit_exact"], trend=trend("regression", suspects=[HMCT])) for index in range(20)]
    (cluster,) = told(*ladders)
    message = cluster_message(cluster, LINKS)
    assert message.title == "QATLadder no-ship: int.fidelity hbm.bit_exact, 200 ladders, toolchain hmct 1.1.0 -> 1.2.0"
    assert "suspect: toolchain hmct 1.1.0 -> 1.2.0 (the only thing that changed for all of them)" in message.body
    assert "checks: int.fidelity 180, hbm.bit_exact 20" in message.body
    assert "last good night: n0 (2026-11-22T01:00:00+00:00)" in message.body
    assert message.body.count("(owner lanes)") == MAX_NAMED + 1  # the worst of them once more
    assert f"... and {200 - MAX_NAMED} more in the report" in message.body
    assert max(len(line) for line in message.body.splitlines()) <= MAX_LENGTH


def test_an_upgrade_that_the_history_found_is_the_cause_of_all_it_broke() -> None:
    """The trends as `qatladder.history.trends` makes them of real ladders, through the report."""
    night = []
    for name in ("a", "b", "c"):
        before = replace(ship(), model=name)
        rung = before.rungs[3]
        fidelity = replace(rung.checks[2], status=Status.FAILED, measured="cosine 0.97", cause="rounding")
        versions = {"hmct": "1.2.0", "horizon_tc_ui": "1.24.3"}
        after = replace(rung, checks=(*rung.checks[:2], fidelity), facts={**rung.facts, "versions": versions})
        result = replace(before, rungs=(*before.rungs[:3], after, *before.rungs[4:]))
        past = Past(Baseline(name, "3", "bayes-e", "n0", "2026-11-22T01:00:00+00:00"), {item.rung: item for item in before.rungs})
        night.append((result, past))
    data = report_json([result for result, _ in night], RUN, judge_night(night, Policy()), [])
    (cluster,) = told(*data["ladders"])
    message = cluster_message(cluster, LINKS)
    assert message.title == "QATLadder no-ship: int.fidelity, 3 ladders, toolchain: hmct 1.1.0 -> 1.2.0"
    assert "suspect: toolchain: hmct 1.1.0 -> 1.2.0 (other versions convert, compile and simulate)" in message.body
    assert "last good night: n0 (2026-11-22T01:00:00+00:00)" in message.body
    assert "passed at the baseline" in message.body
    new = [(result, Past()) for result, _ in night]
    assert [
        finding.suspects
        for cluster in told(*report_json([new[0][0]], RUN, judge_night(new[:1], Policy()), [])["ladders"])
        for finding in cluster.findings
    ] == [()]


def test_digests_of_a_suspect_are_short() -> None:
    changed = trend("regression", suspects=[{"what": "weights qat", "was": "ab" * 32, "now": "cd" * 32, "why": ""}])
    (cluster,) = told(ladder(fails=["qat.accuracy"], trend=changed))
    assert "suspect: weights qat abababababab -> cdcdcdcdcdcd" in cluster_message(cluster, LINKS).body.splitlines()


def test_a_model_whose_own_weights_changed_is_not_put_down_to_the_toolchain() -> None:
    weights = {"what": "weights", "was": "aa", "now": "bb", "why": "its checkpoint is new"}
    both = [ladder(f"m{index}", ["int.fidelity"], trend=trend("regression", suspects=[HMCT])) for index in range(3)]
    own = ladder("own", ["int.fidelity"], trend=trend("regression", suspects=[weights, HMCT]))
    found = told(*both, own)
    assert [len(cluster.findings) for cluster in found] == [3, 1]


def test_a_board_that_is_away_is_not_put_down_to_the_toolchain_that_changed_the_same_night() -> None:
    changed = trend("no_regression", suspects=[HMCT])
    both = [ladder(f"m{index}", ["int.fidelity"], trend=changed) for index in range(2)]
    away = [ladder(f"b{index}", broken="board.health", trend=changed, values={"kind": "unreachable"}) for index in range(2)]
    assert [str(cluster.kind) for cluster in told(*both, *away)] == ["no-ship", "undecided"]


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [
        ({"values": {"fingerprint": "channel_swap"}}, {"values": {"fingerprint": "channel_swap"}}, 1),
        ({"values": {"fingerprint": "channel_swap"}}, {"values": {"fingerprint": "offset"}}, 2),
        ({"cause": "layer 3 of m0 clamps at 12.5"}, {"cause": "layer 14 of m1 clamps at 0.25"}, 1),
        ({"cause": "the colours are exchanged"}, {"cause": "the mean is missing"}, 2),
        ({"cause": "", "reason": "'conv1' and /tmp/a/x.onnx"}, {"cause": "", "reason": "'conv9' and /tmp/b/y.onnx"}, 1),
    ],
)
def test_the_cause_decides_what_belongs_together(first: dict[str, Any], second: dict[str, Any], count: int) -> None:
    assert len(told(ladder("m0", ["int.input"], **first), ladder("m1", ["int.input"], **second))) == count


def test_broken_ladders_belong_together_by_board_and_kind() -> None:
    def away(model: str, board: str, kind: str) -> dict[str, Any]:
        return ladder(model, broken="board.health", board=board, values={"kind": kind}, reason=f"{board} did not answer")

    found = told(
        away("a", "x5-1", "unreachable"), away("b", "x5-1", "unreachable"), away("c", "x5-2", "unreachable"), away("d", "x5-2", "auth")
    )
    assert [len(cluster.findings) for cluster in found] == [2, 1, 1]


def test_the_first_failing_check_leads_and_regressions_come_after_it() -> None:
    item = ladder(fails=["int.accuracy", "board.accuracy"], trend=trend("regression", movement(check="float.accuracy"), movement()))
    found = candidates(item)
    assert [(finding.kind, finding.check) for finding in found] == [
        (Kind.NO_SHIP, "int.accuracy"),
        (Kind.NO_SHIP, "board.accuracy"),
        (Kind.REGRESSION, "float.accuracy"),
    ]
    assert "top1 0.95 -> 0.91 (-0.04) since n0; exact McNemar on 14 flipped samples, p = 0.0003" in found[0].movements[0]


def test_a_regression_of_a_ladder_that_ships_is_a_finding_of_its_own() -> None:
    (cluster,) = told(ladder(trend=trend("regression", movement())))
    message = cluster_message(cluster, LINKS)
    assert message.title == "QATLadder regression: int.accuracy, lane_net 1 @ bayes-e"
    assert "moved: top1 0.95 -> 0.91 (-0.04) since n0; exact McNemar on 14 flipped samples, p = 0.0003: 14 samples" in message.body


def test_a_number_that_is_not_finite_is_a_word_and_no_obstacle() -> None:
    moved = {**movement(), "value": "nan", "delta": "nan", "p_value": None, "baseline_run": ""}
    (cluster,) = told(ladder(trend=trend("regression", moved)))
    assert "moved: top1 0.95 -> nan (nan); exact McNemar" in cluster_message(cluster, LINKS).body


def test_a_trend_without_details_is_a_finding_all_the_same() -> None:
    (cluster,) = told(ladder(trend={"verdict": "regression"}))
    assert cluster_message(cluster, LINKS).title == "QATLadder regression: lane_net 1 @ bayes-e"


def test_the_representative_is_the_one_that_fell_the_most() -> None:
    values = {"a": 0.94, "b": 0.60, "c": 0.90}
    (cluster,) = told(*[ladder(name, trend=trend("regression", movement(value=value))) for name, value in values.items()])
    assert [finding.ladder.model for finding in cluster.findings] == ["b", "c", "a"]
    assert "worst of them: b 1 @ bayes-e" in cluster_message(cluster, LINKS).body


def test_suspicious_numbers_are_told_only_where_asked_for() -> None:
    item = ladder(trend=trend("suspicious", movement("suspicious")))
    assert told(item) == []
    assert [cluster.kind for cluster in told(item, suspicious=True)] == [Kind.SUSPICIOUS]


def test_a_run_that_was_not_asked_for_a_rung_says_nothing_about_it() -> None:
    item = ladder(rungs=["float"])
    assert candidates(item) == []
    assert [finding.check for finding in candidates(ladder(broken="float.accuracy", rungs=["float"]))] == ["float.accuracy"]


def test_missing_ladders_are_one_cluster() -> None:
    gone = [
        {"model": f"m{index}", "version": "1", "target": "x3", "owner": "lanes", "last_run": "n0", "last_time": "2026-11-22"}
        for index in range(4)
    ]
    (cluster,) = clusters(missing(report(missing=gone)))
    message = cluster_message(cluster, LINKS)
    assert message.title == "QATLadder missing: 4 ladders"
    assert "last ran: n0 (2026-11-22)" in message.body


def test_the_order_is_the_same_whatever_the_reports_order_and_the_worst_is_first() -> None:
    ladders = [ladder(f"m{index}", ["int.input"], values={"fingerprint": name}) for index, name in enumerate("aabbbc")]
    ladders += [ladder("r", trend=trend("regression", movement())), ladder("u", broken="board.health", values={"kind": "auth"})]
    expected = [(cluster.key, [str(finding.ladder) for finding in cluster.findings]) for cluster in told(*ladders)]
    assert [len(names) for _, names in expected] == [3, 2, 1, 1, 1]
    for seed in range(5):
        random.Random(seed).shuffle(ladders)
        assert [(cluster.key, [str(finding.ladder) for finding in cluster.findings]) for cluster in told(*ladders)] == expected


def test_generic_texts_lose_names_and_numbers_and_keep_words() -> None:
    assert generic("lane_net: conv1 clamps 12.5 of 3e-4 in 'a b' at deadbeef01", ["lane_net"]) == "*: conv# clamps # of # in * at #"


def test_a_body_is_shortened_by_whole_lines_and_keeps_head_and_links() -> None:
    body = (
        "first failing check: x\n" + "\n".join(f"- ladder {index} 车道" for index in range(500)) + "\n\nlog: http://a/b\nreport: http://a/c"
    )
    short = shorten(body, 900)
    assert len(short.encode()) <= 900
    assert short.startswith("first failing check: x\n- ladder 0 车道\n")
    assert short.endswith("... shortened; the report has all of it\n\nlog: http://a/b\nreport: http://a/c")
    assert all(line in body.splitlines() or line.startswith("... shortened") for line in short.splitlines())
    assert shorten("short\n\nlog", 900) == "short\n\nlog"
    assert len(shorten("车" * 5000, 100).encode()) <= 100


def test_owners_see_their_own_ladders_first() -> None:
    ladders = [ladder(f"a{index}", ["int.input"], owner="lanes") for index in range(MAX_NAMED)] + [
        ladder("z", ["int.input"], owner="signs")
    ]
    (cluster,) = told(*ladders)
    assert " z 1 @ bayes-e" not in cluster_message(cluster, LINKS).body
    assert cluster_message(cluster, LINKS, frozenset({"signs"})).body.split("11 ladders:\n- ")[1].startswith("z 1 @ bayes-e (owner signs)")

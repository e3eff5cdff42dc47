"""hbm.compile: growth since the last accepted compilation, versions that differ, operators on the CPU."""

from __future__ import annotations

from typing import Any

from tests.unit.fakes import Lab

from qatladder.ladder import CheckResult, RungResult, Status
from qatladder.validation import plan, run_rung
from qatladder.validation.run import finish_run


def compiled(run_id: str) -> tuple[CheckResult, RungResult]:
    (ladder,) = plan(rungs=["float", "calib", "qat", "int", "hbm"])
    for rung in ladder["rungs"]:
        answer = run_rung(ladder, rung, run_id, print)
    finish_run([ladder], run_id)
    check = answer.check("hbm.compile")
    assert check is not None
    return check, answer


def target(**perf: Any) -> list[dict[str, Any]]:
    return [{"march": "bayes", "perf": perf}]


def test_growth_is_held_against_the_newest_compilation_that_passed(lab: Lab) -> None:
    lab.entry(targets=target(max_growth=1.1, max_latency_ms=3))
    first, _ = compiled("cli-20261101T000000Z-aaaa")
    assert first.status is Status.PASSED
    assert "not judged: no earlier compilation of this ladder passed" in first.expected

    lab.toolchain.report = {"latency_ms": 1.3, "ddr_mb": 0.55}  # within 1.1 x 1.25 and 0.5
    second, _ = compiled("cli-20261102T000000Z-aaaa")
    assert second.status is Status.PASSED
    assert "cli-20261101T000000Z-aaaa" in second.expected

    lab.toolchain.report = {"latency_ms": 1.3, "ddr_mb": 0.62}
    third, _ = compiled("cli-20261103T000000Z-aaaa")
    assert third.status is Status.FAILED
    assert third.reason == "ddr_mb 0.62 is 1.13 x the 0.55 of cli-20261102T000000Z-aaaa"
    assert "slower, larger or hungrier" in third.cause

    lab.toolchain.report = {"latency_ms": 1.45}  # what failed is no baseline: 1.3 is
    fourth, _ = compiled("cli-20261104T000000Z-aaaa")
    assert "latency_ms 1.45 is 1.12 x the 1.3 of cli-20261102T000000Z-aaaa" in fourth.reason


def test_a_frame_rate_that_falls_is_growth_although_the_latency_stays(lab: Lab) -> None:
    lab.entry(targets=target(max_growth=1.1))
    lab.toolchain.report = {"fps": 1600.0}
    compiled("cli-20261101T000000Z-aaaa")
    lab.toolchain.report = {"fps": 1500.0}
    second, _ = compiled("cli-20261102T000000Z-aaaa")
    assert second.status is Status.PASSED
    assert "fps >= those / 1.1" in second.expected
    lab.toolchain.report = {"fps": 800.0}
    third, _ = compiled("cli-20261103T000000Z-aaaa")
    assert third.status is Status.FAILED
    assert third.reason == "fps 800 is 0.53 x the 1500 of cli-20261102T000000Z-aaaa"


def test_without_the_gate_growth_is_recorded_only(lab: Lab) -> None:
    compiled("cli-20261101T000000Z-aaaa")
    lab.toolchain.report = {"ddr_mb": 0.9}
    check, _ = compiled("cli-20261102T000000Z-aaaa")
    assert check.status is Status.PASSED
    assert check.values["ddr_mb"] == 0.9


def test_an_hbm_of_another_compiler_is_not_spoken_for(lab: Lab) -> None:
    lab.toolchain.report = {"versions": {"fake": "0.9", "only_in_the_hbm": "3"}}
    check, answer = compiled("run")
    assert check.status is Status.FAILED
    assert "version skew: the hbm was built with fake 0.9, installed is 1.0" in check.reason
    assert "another version of the compiler" in check.cause
    assert answer.facts["versions"] == {"hbm": {"fake": "0.9", "only_in_the_hbm": "3"}, "installed": {"fake": "1.0"}}


def test_operators_on_the_cpu_are_named_with_their_share(lab: Lab) -> None:
    lab.toolchain.report = {"operators": {"bpu": 3, "cpu": 1, "rim": 2}, "cpu_operators": ("/head/Softmax (Softmax)",)}
    check, _ = compiled("run")
    assert check.status is Status.FAILED
    assert "3 operators on the BPU, 1 on the CPU (25%)" in check.measured
    assert "/head/Softmax (Softmax)" in check.reason
    lab.entry(targets=target(max_cpu_ops=1))
    allowed, _ = compiled("again")
    assert allowed.status is Status.PASSED


def test_where_operators_run_is_not_claimed_by_tools_that_do_not_say_it(lab: Lab) -> None:
    placed, _ = compiled("run")
    assert "every operator accepted, at most 0 on the CPU" in placed.expected
    lab.toolchain.report = {"operators": {}, "cpu_operators": ()}
    check, _ = compiled("again")
    assert "at most" not in check.expected
    assert "operators on the CPU not judged: the tools do not place them" in check.expected
    assert "operators not placed by the tools" in check.measured

"""Promises: a sound model on a sound board ships, and each thing that can be wrong is answered by exactly the check that asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.unit.fakes import Lab, model_data

from qatladder.evidence import open_store
from qatladder.ladder import CheckResult, LadderResult, Verdict
from qatladder.settings import load_settings
from qatladder.validation import finish_ladder, plan, run_rung
from qatladder.validation import fleet as fleet_module
from qatladder.validation.fleet import board_state

NOT_ASKED = {"board.app_input": "skipped", "board.app_output": "skipped"}


def climb() -> LadderResult:
    (ladder,) = plan()
    for rung in ladder["rungs"]:
        run_rung(ladder, rung, "run", print)
    return finish_ladder(ladder, "run")


def not_passed(result: LadderResult) -> dict[str, str]:
    """Status of every check that did not pass, the two nobody asks for apart."""
    found = {check.id: str(check.status) for check in result.checks if not check}
    assert {key: value for key, value in found.items() if key in NOT_ASKED} == NOT_ASKED
    return {key: value for key, value in found.items() if key not in NOT_ASKED}


def check_of(result: LadderResult, check_id: str) -> CheckResult:
    return next(check for check in result.checks if check.id == check_id)


def words(check: CheckResult) -> str:
    return " | ".join([check.measured, check.expected, check.reason])


def only_failed(result: LadderResult, check_id: str) -> CheckResult:
    """The one check that failed while every other required check passed, and the verdict that follows."""
    assert not_passed(result) == {check_id: "failed"}
    assert result.verdict is Verdict.NO_SHIP
    assert result.first_failed_check == check_id
    assert result.why.startswith(f"{check_id} failed: ")
    check = check_of(result, check_id)
    assert check.cause and check.next_steps
    return check


def only_broken(result: LadderResult, check_id: str, *skipped: str) -> CheckResult:
    """The one check that broke, those that were skipped for it, and that nothing is held against the model."""
    assert not_passed(result) == {check_id: "broken", **dict.fromkeys(skipped, "skipped")}
    assert result.verdict is Verdict.UNDECIDED
    assert result.first_failed_check is None
    assert result.why.startswith(f"{check_id} broken: ")
    check = check_of(result, check_id)
    for other in skipped:
        assert f"{check_id} was broken: {check.reason}" in check_of(result, other).reason
        assert check_of(result, other).required
    return check


def add_one(sample: int) -> Callable[[np.ndarray], np.ndarray]:
    """One integer of one sample is one too large."""

    def change(integers: np.ndarray) -> np.ndarray:
        changed = integers.copy()
        changed.reshape(len(changed), -1)[sample, 5] += 1
        return changed

    return change


# --- nothing is wrong --------------------------------------------------------------------------------------------------------


def test_a_sound_model_on_a_sound_board_ships(slow_lab: Lab) -> None:
    result = climb()
    assert not_passed(result) == {}
    assert result.verdict is Verdict.SHIP
    assert result.why == "every required check passed"
    assert len([check for check in result.checks if check]) == 14
    said = {check.id: check.measured for check in result.checks}
    assert said["float.accuracy"] == "accuracy 0.9167 on 12 samples"
    assert said["int.accuracy"] == "accuracy 0.9167 on 12 samples (+0.0000 from qat)"
    assert said["int.fidelity"].startswith("y cosine 1.000000, mean 0.000 LSB") and said["int.fidelity"].endswith("on 8 samples")
    assert "a: quantised by 0.125 (half to even), padded [1, 1, 2, 3] -> 32 bytes: 0 of 48 integers differ" in said["hbm.input"]
    assert said["hbm.bit_exact"].startswith("y: 0 of 64 integers differ on 8 samples")
    assert said["board.runtime"].startswith("y: 0 of 64 integers differ on 8 samples")
    assert said["board.accuracy"] == "accuracy 0.8750 on 8 samples (+0.0000 from int); a subset of 12"
    assert said["board.perf"].startswith(
        "latency 1.3 ms, 769 FPS median of 5 x 200 frames after a warm-up, spread 0.0%, 1 thread (measured on"
    )
    assert slow_lab.bench.asked == ["health", "model_info", "infer", "perf", "health", *["perf"] * 5, "health", "close"]
    int_rung, board = result.rungs[3], result.rungs[5]
    assert {"int", "hbm", "hbir", "config", "log", "raw/y_int", "raw/a_int", "fed/b", "targets"} <= set(int_rung.products)
    assert {"dumps", "data_docs", "statistics"} <= set(board.products)


def test_jobs_in_this_process_answer_as_those_of_their_own(lab: Lab) -> None:
    assert climb().verdict is Verdict.SHIP


def test_at_its_limit_a_gate_holds(lab: Lab) -> None:
    lab.toolchain.report = {"latency_ms": 2.0, "fps": 500.0, "ddr_mb": 1.0, "size_mb": 5.0}
    lab.bench.perf = {"average_ms": 2.0, "fps": 500.0}
    assert climb().verdict is Verdict.SHIP


@pytest.mark.parametrize(
    "said",
    [
        {"march": None},
        {"bpu_ratio": None, "bpu_users": None},
        {"disk_free_mb": 200.0, "memory_free_mb": 50.0},
        {"clock_skew_s": -300.0},
    ],
)
def test_what_a_board_does_not_say_and_its_limits_keep_it_fit(lab: Lab, said: dict[str, Any]) -> None:
    lab.bench.health = said
    assert climb().verdict is Verdict.SHIP


@pytest.mark.parametrize("inputs", [("a", "b"), ("b", "a")])
def test_the_board_is_fed_by_the_names_it_states(lab: Lab, inputs: tuple[str, str]) -> None:
    lab.bench.inputs = inputs
    assert climb().verdict is Verdict.SHIP


# --- int ---------------------------------------------------------------------------------------------------------------------


def test_an_int_model_that_takes_another_type_fails_its_input(lab: Lab) -> None:
    lab.toolchain.int_inputs = {"dtype": "int8"}
    assert "the int model takes int8 [1, 2, 3]" in words(only_failed(climb(), "int.input"))


def test_an_int_model_that_answers_otherwise_fails_accuracy_and_fidelity(lab: Lab) -> None:
    lab.toolchain.integers = lambda integers: np.ascontiguousarray(integers[..., ::-1])
    lab.toolchain.simulated = lambda integers: np.ascontiguousarray(integers[..., ::-1])
    lab.bench.dump = lambda sample, integers: np.ascontiguousarray(integers[..., ::-1])
    result = climb()
    assert not_passed(result) == {"int.accuracy": "failed", "int.fidelity": "failed"}
    assert result.first_failed_check == "int.accuracy"
    assert "accuracy 0.0000 on 12 samples (-0.9167 from qat)" in words(check_of(result, "int.accuracy"))
    assert "drop from qat (0.9167) <= 0" in words(check_of(result, "int.accuracy"))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, "cosine >= 0.999 and mean difference <= 1 LSB of qat"),
        ({"max_mean_lsb": 1e6}, "cosine >= 0.999"),
        ({"min_cosine": -1}, "mean difference <= 1 LSB"),
    ],
)
def test_a_fake_quant_model_with_other_weights_fails_fidelity(lab: Lab, limits: dict[str, float], expected: str) -> None:
    data = model_data()
    data["weights"]["a"][1] = [3 * value for value in data["weights"]["a"][1]]
    lab.artifact("qat", data)
    lab.entry(fidelity=limits)
    check = only_failed(climb(), "int.fidelity")
    assert expected in check.expected
    assert "does not follow the qat model" in check.reason
    found = check.values["outputs"]["y"]
    assert found["cosine"] < 0.999 and found["mean_lsb"] > 1
    assert f"y cosine {found['cosine']:.6f}, mean {found['mean_lsb']:.3f} LSB" in check.measured


def test_a_fake_quant_model_with_another_scale_fails_fidelity_by_its_lsb_alone(lab: Lab) -> None:
    lab.artifact("qat", {**model_data(), "weight_scale": [1.1 * value for value in model_data()["weight_scale"]]})
    check = only_failed(climb(), "int.fidelity")
    assert "y cosine 1.000000, mean " in check.measured
    assert check.values["outputs"]["y"]["mean_lsb"] > 1


def test_too_few_samples_prove_nothing(lab: Lab) -> None:
    lab.entry(samples={"probe": 4, "board": 8, "evaluation": 3})
    result = climb()
    asked = ("int.fidelity", "hbm.bit_exact", "board.runtime")
    assert {key: value for key, value in not_passed(result).items() if key in asked} == dict.fromkeys(asked, "unprovable")
    assert not [check.id for check in result.checks if check.status == "failed"]
    assert result.verdict is Verdict.UNDECIDED
    for check_id in asked:
        assert check_of(result, check_id).reason == "only 3 sample(s) to compare, the entry asks for 4 (samples.probe)"


# --- hbm ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"latency_ms": 2.5}, "latency_ms 2.5 misses latency_ms <= 2"),
        ({"fps": 499.0}, "fps 499 misses fps >= 500"),
        ({"ddr_mb": 1.01}, "ddr_mb 1.01 misses ddr_mb <= 1"),
        ({"size_mb": 5.5}, "size_mb 5.5 misses size_mb <= 5"),
        ({"cpu_operators": ("Softmax_3 (Softmax)",), "operators": {"bpu": 1, "cpu": 1}}, "1 operator(s) on the CPU: Softmax_3 (Softmax)"),
        ({"march": "bayes-e"}, "the hbm is compiled for bayes-e, the target is bayes"),
        ({"problems": ("Conv_1: kernel 33 is too large",)}, "Conv_1: kernel 33 is too large"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_compiler_says_is_held_against_the_gates(lab: Lab, answer: dict[str, Any], said: str) -> None:
    lab.toolchain.report = answer
    check = only_failed(climb(), "hbm.compile")
    assert check.reason == said
    assert check.expected == (
        "every operator accepted, at most 0 on the CPU; march bayes; latency_ms <= 2; fps >= 500; ddr_mb <= 1; size_mb <= 5"
    )
    for key in {"latency_ms", "ddr_mb", "size_mb"} & set(answer):
        assert f"{answer[key]:g}" in check.measured


def test_an_operator_on_the_cpu_passes_where_the_entry_allows_it(lab: Lab) -> None:
    lab.toolchain.report = {"cpu_operators": ("Softmax_3 (Softmax)",)}
    lab.entry(targets=[{"march": "bayes", "perf": {"max_cpu_ops": 1}}])
    assert climb().verdict is Verdict.SHIP


def test_another_rounding_of_the_input_fails_the_hbm_input_alone(lab: Lab) -> None:
    """Element 0 of every sample lies half way between two integers, and no output depends on it: only the bytes can tell."""
    lab.toolchain.quantised = lambda values: np.floor(values + np.float32(0.5))
    check = only_failed(climb(), "hbm.input")
    assert "a: quantised by 0.125 (half to even), padded [1, 1, 2, 3] -> 32 bytes: 8 of 48 integers differ" in check.measured
    assert "; b: quantised by 0.125 (half to even), padded [1, 1, 2, 3] -> 32 bytes: 0 of 48 integers differ" in check.measured
    assert "0 differ" in check.expected
    assert "first at [0, 0, 0]: expected 3, found 2" in check.reason


def test_an_hbm_that_reads_its_input_elsewhere_fails_the_hbm_input(lab: Lab) -> None:
    """The drift between entry and hbm is one finding, that between compiler and board another."""
    lab.toolchain.features = {"b_int": {"source": "pyramid"}}
    result = climb()
    assert not_passed(result) == {"hbm.input": "failed", "board.runtime": "failed"}
    check = check_of(result, "hbm.input")
    assert check.reason.startswith("b: the contract drifted: source: the entry states ddr, the hbm pyramid")
    assert check.values["b drift"]["source"] == ["ddr", "pyramid"]
    assert check.cause.startswith("two tools describe the same tensor differently")
    assert check_of(result, "board.runtime").reason == "b_int: the contract drifted: source: the compiler states pyramid, the board ddr"


def test_an_hbm_that_wants_another_input_size_fails_the_hbm_input(lab: Lab) -> None:
    lab.toolchain.features = {"a_int": {"valid_shape": (1, 1, 2, 4)}}
    result = climb()
    check = check_of(result, "hbm.input")
    assert check.status == "failed"
    assert "a tensor of the hbm has another shape than the int model's" in check.reason
    assert (check.expected, check.measured) == ("[8, 1, 2, 4]", "[8, 2, 3]")
    assert result.first_failed_check == "hbm.input"
    assert [key for key, value in not_passed(result).items() if value == "failed" and key.startswith("hbm")] == ["hbm.input"]
    assert check_of(result, "hbm.bit_exact").status in ("broken", "skipped")


@pytest.mark.parametrize("feature", ["a_int", "b_int"])
def test_without_input_bytes_the_rungs_above_are_skipped_not_blamed(lab: Lab, feature: str) -> None:
    lab.toolchain.features = {feature: {"valid_shape": (1, 1, 2, 4)}}
    result = climb()
    left = not_passed(result)
    assert left["hbm.input"] == "failed"
    assert left["hbm.bit_exact"] == "skipped"
    assert {left[f"board.{name}"] for name in ("health", "runtime", "accuracy", "perf", "quality")} == {"skipped"}
    assert "no input bytes" in check_of(result, "board.runtime").reason
    assert check_of(result, "board.runtime").required


def test_a_simulator_that_is_one_integer_off_by_one_fails_bit_exactness(lab: Lab) -> None:
    lab.toolchain.simulated = add_one(7)
    check = only_failed(climb(), "hbm.bit_exact")
    assert check.measured.startswith("y: 1 of 64 integers differ on 8 samples")
    assert check.expected.startswith("0 integers differ, no tolerance")
    assert (
        "y: 1 of 64 integers differ, first at [7, 1, 1]: expected " in check.reason
        and "largest difference 1; looks like: rounding" in check.reason
    )
    assert check.cause.startswith("no value is more than one LSB off")
    assert any(item.name == "difference.html" for item in check.evidence)
    assert check.values["y"]["stats"]["mismatches"] == 1


def test_a_simulator_that_answers_another_type_fails_bit_exactness(lab: Lab) -> None:
    lab.toolchain.simulated = lambda integers: integers.astype(np.int16)
    check = only_failed(climb(), "hbm.bit_exact")
    assert (check.expected, check.measured) == ("int32", "int16")


def test_an_hbm_of_other_weights_fails_bit_exactness_on_simulator_and_board(lab: Lab) -> None:
    stale = model_data()
    stale["weights"]["b"][3][2] += 1
    lab.toolchain.stale = stale
    result = climb()
    assert not_passed(result) == {"hbm.bit_exact": "failed", "board.runtime": "failed"}
    assert result.first_failed_check == "hbm.bit_exact"
    check = check_of(result, "hbm.bit_exact")
    assert check.values["y"]["stats"]["mismatches"] and "the hbm was not compiled from this int model: other weights" in check.reason


def test_an_hbm_of_other_weights_that_no_sample_shows_fails_bit_exactness_on_simulator_and_board(lab: Lab) -> None:
    lab.toolchain.report = {"contradiction": "weight 3 of Conv_1 differs"}
    result = climb()
    assert not_passed(result) == {"hbm.bit_exact": "failed", "board.runtime": "failed"}
    for check_id in ("hbm.bit_exact", "board.runtime"):
        check = check_of(result, check_id)
        assert check.measured.startswith("y: 0 of 64 integers differ on 8 samples")
        assert check.reason == "the hbm was not compiled from this int model: weight 3 of Conv_1 differs"


@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda integers: integers[:7], "dumps are missing"), (lambda integers: None, "an output has no dump")],
    ids=["one sample", "the output"],
)
def test_what_the_simulator_leaves_out_is_broken(lab: Lab, change: Callable[[np.ndarray], np.ndarray | None], said: str) -> None:
    lab.toolchain.simulated = change
    check = only_broken(climb(), "hbm.bit_exact")
    assert said in check.reason
    assert check.values["kind"] == "dump_missing"


# --- board -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"march": "bayes-e"}, "its march is bayes-e, not bayes"),
        ({"disk_free_mb": 150.0}, "only 150 MB free on disk"),
        ({"memory_free_mb": 20.0}, "only 20 MB of memory free"),
        ({"clock_skew_s": 400.0}, "the clock is +400 s off"),
        ({"clock_skew_s": -400.0}, "the clock is -400 s off"),
        ({"temperatures": {"bpu": 101.0}}, "bpu at 101 °C"),
    ],
)
def test_an_unfit_board_judges_nothing(lab: Lab, answer: dict[str, Any], said: str) -> None:
    lab.bench.health = answer
    check = only_broken(climb(), "board.health", "board.runtime", "board.accuracy", "board.perf", "board.quality")
    assert check.reason == f"the board is not fit: {said} (board virtual-j5)"
    assert check.values["kind"] == "unfit_board"
    assert lab.bench.asked == ["health", "close"]


@pytest.mark.parametrize("answer", [{"bpu_users": ("pid 812 model yolo",)}, {"bpu_ratio": (0, 35)}])
def test_a_board_somebody_else_uses_judges_nothing_and_is_not_blamed(
    lab: Lab, answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "BUSY_WAIT_S", 0.0)
    lab.bench.health = answer
    check = only_broken(climb(), "board.health", "board.runtime", "board.accuracy", "board.perf", "board.quality")
    assert check.reason.startswith("somebody else uses the BPU")
    assert check.values["kind"] == "board_busy"
    assert board_state(open_store(load_settings()), "virtual-j5", 3).failures == 0


@pytest.mark.parametrize(
    ("file", "kind", "said"),
    [
        (lambda sample, data: data[:-1] if sample == 3 else data, "dump_truncated", "a dump is truncated"),
        (lambda sample, data: data + b"\0" if sample == 3 else data, "dump_size", "a dump holds more bytes than its tensor"),
        (lambda sample, data: None if sample == 3 else data, "dump_missing", "a dump is missing"),
    ],
    ids=["truncated", "too long", "missing"],
)
def test_a_dump_that_is_not_whole_is_broken(lab: Lab, file: Callable[[int, bytes], bytes | None], kind: str, said: str) -> None:
    lab.bench.file = file
    check = only_broken(climb(), "board.runtime", "board.accuracy", "board.perf", "board.quality")
    assert said in check.reason and "sample 3" in check.reason
    assert check.values["kind"] == kind


def test_a_dump_that_is_one_integer_off_fails_the_runtime_and_not_the_accuracy(lab: Lab) -> None:
    lab.bench.dump = lambda sample, array: add_one(0)(array) if sample == 2 else array
    check = only_failed(climb(), "board.runtime")
    assert check.measured.startswith("y: 1 of 64 integers differ on 8 samples")
    assert check.measured.endswith("on virtual-j5")
    assert "y: 1 of 64 integers differ, first at [2, 1, 1]: expected " in check.reason


def test_inputs_in_another_order_fail_the_runtime(lab: Lab) -> None:
    lab.bench.inputs, lab.bench.named = ("b", "a"), False  # a board that names nothing can be fed by position only
    result = climb()
    assert result.first_failed_check == "board.runtime"
    assert not_passed(result) == {"board.runtime": "failed", "board.accuracy": "failed"}


def test_a_board_that_wants_other_input_bytes_fails_the_runtime(lab: Lab) -> None:
    lab.bench.input = {"byte_size": 48}
    result = climb()
    assert not_passed(result) == {"board.runtime": "failed", "board.accuracy": "skipped", "board.quality": "skipped"}
    check = check_of(result, "board.runtime")
    assert (check.expected, check.measured) == ("48 bytes", "32 bytes")
    assert "input b" in check.reason
    assert "infer" not in lab.bench.asked


def test_padding_the_board_states_otherwise_than_it_dumps_is_seen(lab: Lab) -> None:
    lab.bench.output = {"stride": (64, 64, 16, 4)}
    result = climb()
    assert result.first_failed_check == "board.runtime"
    assert result.verdict is Verdict.NO_SHIP


def test_a_worse_metric_on_the_board_fails_its_accuracy(lab: Lab) -> None:
    """Two samples answer another class: the integers show it, and so does the metric."""
    lab.bench.dump = lambda sample, array: np.ascontiguousarray(array[..., ::-1]) if sample in (1, 2) else array
    result = climb()
    assert not_passed(result) == {"board.runtime": "failed", "board.accuracy": "failed"}
    check = check_of(result, "board.accuracy")
    assert check.measured == "accuracy 0.6250 on 8 samples (-0.2500 from int); a subset of 12"
    assert check.expected == "drop from int (0.8750) <= 0 on the same samples"
    assert check.reason == "accuracy misses its gate"


def test_the_boards_own_minimum_is_held(lab: Lab) -> None:
    lab.entry(gates={"float": {"min": 0.9}, "board": {"min": 0.9}})
    check = only_failed(climb(), "board.accuracy")
    assert check.measured.startswith("accuracy 0.8750 on 8 samples")
    assert check.expected.startswith("accuracy >= 0.9")


@pytest.mark.parametrize(
    ("answer", "said"),
    [({"average_ms": 2.5}, "latency_ms 2.5 misses latency_ms <= 2"), ({"fps": 400.0}, "fps 400 misses fps >= 500")],
)
def test_a_slow_board_fails_its_gates(lab: Lab, answer: dict[str, float], said: str) -> None:
    lab.bench.perf = answer
    check = only_failed(climb(), "board.perf")
    assert check.reason == said
    assert check.expected == "latency_ms <= 2; fps >= 500"
    assert f"{next(iter(answer.values())):g}" in check.measured


@pytest.mark.parametrize("answer", [{"frames": 0}, {"frames": 199}, {"average_ms": 0.0}, {"fps": 0.0}])
def test_a_performance_run_that_did_not_happen_is_broken(lab: Lab, answer: dict[str, float]) -> None:
    lab.bench.perf = answer
    check = only_broken(climb(), "board.perf", "board.quality")
    assert "performance run is not what was asked for" in check.reason
    assert check.values["kind"] == "console"


def test_a_blank_sample_fails_the_quality_alone(lab: Lab) -> None:
    """Every rung agrees on it, and its label happens to be right: only the data say that nothing was seen."""
    lab.entry(adapter_options={"blank": 0})
    check = only_failed(climb(), "board.quality")
    assert "y_int: no sample is constant" in check.reason
    assert "hold over 8 samples" in check.measured and check.values["failed"] == 1
    assert "not constant" in check.expected


def test_saturated_dumps_fail_the_quality(lab: Lab) -> None:
    def saturate(sample: int, array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.reshape(-1)[:5] = np.iinfo(np.int32).max
        return array

    lab.bench.dump = saturate
    result = climb()
    assert set(not_passed(result)) == {"board.runtime", "board.accuracy", "board.quality"}
    check = check_of(result, "board.quality")
    assert check.status == "failed"
    assert "y_int: few values sit at the representable limits" in check.reason
    assert "at most 50% saturated" in check.expected

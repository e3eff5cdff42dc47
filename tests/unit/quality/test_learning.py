"""Promises of qatladder.quality.learning: sound nights raise no alarm, each kind of change fails its own statistic, a taught night passes.

`outcome` holds a table against what was learnt in plain Python, for thousands of nights; real Great Expectations judges a few of
them, in its own process, and must say the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qatladder.errors import ConfigError
from qatladder.numerics.statistics import describe
from qatladder.quality import learning
from qatladder.quality.expectations import WORDS, plan
from qatladder.quality.learning import DRIFT_FLOOR, drift, learn, margin, mostly
from qatladder.quality.statistics import Table, write_table
from qatladder.runner.client import LIBRARY
from qatladder.zoo.schema import Expectation

Arrays = dict[str, np.ndarray]

MANY = """
import json, sys
from pathlib import Path
from qatladder.quality.expectations import judge

cases, answers = json.loads(Path(sys.argv[1]).read_text()), []
for case in cases:
    found = judge(**case)
    answers.append({**found, "kept": json.loads(Path(found["suite"]).read_text())})
Path(sys.argv[1]).write_text(json.dumps(answers))
"""
"""Importing great_expectations takes 3 s: one process for all nights. tests/unit/quality/test_expectations.py runs the job by the runner."""


def night(seed: int, samples: int = 24) -> Arrays:
    """A detector's heads on frames drawn anew: boxes of normal spread, scores behind a ReLU, a small head with long tails, floats."""
    random = np.random.default_rng(seed)
    loud = random.uniform(0.7, 1.3, (samples, 1, 1))  # frames differ from each other
    return {
        "box": np.clip(random.normal(0, 25, (samples, 40, 30)) * loud, -128, 127).astype(np.int8),
        "score": np.maximum(random.normal(-200, 900, (samples, 20, 20)) * loud, 0).astype(np.int32),
        "logits": (random.exponential(300, (samples, 10)) - random.exponential(300, (samples, 10))).astype(np.int32),
        "heat": (random.normal(0.1, 0.5, (samples, 16, 16)) * loud).astype(np.float32),
    }


def table(arrays: Arrays) -> Table:
    found = Table()
    for output, array in arrays.items():
        found.add(output, describe(array))
    return found


def outcome(learnt: dict[str, Any], tonight: Table) -> set[tuple[str, str]]:
    """(output, statistic) of every limit that does not hold."""
    wrong = set()
    for output, known in learnt.items():
        rows = [row for row in tonight.rows if row["output"] == output]
        allowed = round(len(rows) * (1 - mostly(len(rows))))
        for statistic, limit in known["limits"].items():
            low, high = (-np.inf if limit["low"] is None else limit["low"]), (np.inf if limit["high"] is None else limit["high"])
            if sum(not low <= row[statistic] <= high for row in rows) > allowed:
                wrong.add((output, statistic))
        if drift(known, tonight.histograms[output]) > known["drift"]["high"]:
            wrong.add((output, "drift"))
    return wrong


# --- no false alarm ----------------------------------------------------------------------------------------------------------


def test_sound_nights_of_frames_drawn_anew_raise_no_alarm() -> None:
    """200 sound nights after 3, and after 8: 4 outputs, 6 statistics each."""
    for teachers in (3, 8):
        for block in range(20):
            learnt = learn([table(night(1000 * block + seed)) for seed in range(teachers)])
            for seed in range(10):
                assert outcome(learnt, table(night(1000 * block + 500 + seed))) == set(), (teachers, block, seed)


@pytest.mark.parametrize("tails", ["normal", "uniform", "gumbel", "logistic", "exponential"])
def test_the_margin_holds_what_the_module_says_of_it(tails: str) -> None:
    """The share of sound nights called wrong for one statistic of independent samples, against the figures of the docstring."""
    random = np.random.default_rng(3)
    for seen, tonight, most in ((72, 24, 1e-4), (24, 8, 5e-3)):
        before, values = (getattr(random, tails)(size=(20_000, size)) for size in (seen, tonight))
        width = (before.max(axis=1) - before.min(axis=1)) * (margin([0.0, 1.0] * (seen // 2), 0.0))
        beyond = [values > (before.max(axis=1) + width)[:, None], values < (before.min(axis=1) - width)[:, None]]
        allowed = round(tonight * (1 - mostly(tonight)))
        alarms = np.mean((beyond[0] | beyond[1]).sum(axis=1) > allowed)
        assert alarms <= most, (seen, alarms)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True), st.integers(1, 7))
def test_a_night_that_taught_always_passes(seeds: list[int], samples: int) -> None:
    tables = [table(night(seed, samples)) for seed in seeds]
    learnt = learn(tables)
    assert all(outcome(learnt, one) == set() for one in tables)


def test_equal_nights_leave_the_floors_and_rounding_passes() -> None:
    """One table, taught by however many nights, and tonight one LSB beside it everywhere."""
    arrays = night(1)
    learnt = learn([table(arrays)])
    assert all(known["drift"] == {"high": DRIFT_FLOOR, "seen": 0.0} for known in learnt.values())
    rounded = {name: array + (np.random.default_rng(0).integers(-1, 2, array.shape).astype(array.dtype)) for name, array in arrays.items() if name != "heat"}  # fmt: skip
    rounded["box"] = np.clip(arrays["box"].astype(np.int16) + 1, -128, 127).astype(np.int8)
    rounded["score"][arrays["score"] == 0] = 0  # behind a ReLU nothing is below 0
    assert outcome(learnt, table({**rounded, "heat": arrays["heat"]})) == set()


# --- what is planted is found ------------------------------------------------------------------------------------------------


def shifted(arrays: Arrays) -> None:
    arrays["logits"] += 15_000


def saturated(arrays: Arrays) -> None:
    flat = arrays["box"].reshape(len(arrays["box"]), -1)
    flat[:, ::6] = 127


def dead(arrays: Arrays) -> None:
    arrays["heat"][:, 8:] = 0


def collapsed(arrays: Arrays) -> None:
    """Two values are left, of many."""
    arrays["box"] = np.where(arrays["box"] > 0, 60, -60).astype(np.int8)


def reshaped(arrays: Arrays) -> None:
    """As wide as before, each sample's ends where they were, and most of the values elsewhere."""
    box = arrays["box"].astype(np.float64)
    ends = np.abs(box).max(axis=(1, 2), keepdims=True)
    arrays["box"] = np.rint(np.sign(box) * np.abs(box / ends) ** 0.4 * ends).astype(np.int8)


PLANTED = [
    (shifted, {("logits", "max"), ("logits", "min"), ("logits", "drift"), ("logits", "entropy")}, {("logits", "max")}),
    (saturated, {("box", "saturation_share"), ("box", "entropy"), ("box", "drift")}, {("box", "saturation_share")}),
    (dead, {("heat", "zero_share"), ("heat", "entropy"), ("heat", "drift")}, {("heat", "zero_share")}),
    (collapsed, {("box", "entropy"), ("box", "drift"), ("box", "zero_share")}, {("box", "entropy")}),
    (reshaped, {("box", "drift")}, {("box", "drift")}),
]
"""What is done to a night, what may fail, what must."""


@pytest.mark.parametrize(("damage", "may", "must"), PLANTED, ids=[item[0].__name__ for item in PLANTED])
def test_every_planted_change_fails_its_own_statistic(damage: Any, may: set[Any], must: set[Any]) -> None:
    for seed in range(10):
        learnt = learn([table(night(seed * 10 + teacher)) for teacher in range(3)])
        arrays = night(seed * 10 + 5)
        damage(arrays)
        found = outcome(learnt, table(arrays))
        assert must <= found <= may, seed


def test_one_odd_frame_of_many_is_no_other_model() -> None:
    learnt = learn([table(night(seed)) for seed in range(3)])
    arrays = night(7)
    arrays["logits"][3] += 40_000
    assert outcome(learnt, table(arrays)) == set()
    arrays["logits"][4:6] += 40_000
    assert ("logits", "max") in outcome(learnt, table(arrays))


def test_the_drift_of_the_nights_sets_how_much_drift_is_too_much() -> None:
    """Nights that wander teach that wandering is normal; steady ones do not."""

    def wandering(step: float) -> list[Table]:
        return [
            table({"x": (np.random.default_rng(seed).normal(100 * step * (seed % 2), 100, (8, 500))).astype(np.int16)}) for seed in range(4)
        ]

    tonight = table({"x": np.random.default_rng(9).normal(60, 100, (8, 500)).astype(np.int16)})
    assert outcome(learn(wandering(0)), tonight) == {("x", "drift")}
    assert outcome(learn(wandering(0.8)), tonight) == set()


def test_limits_that_could_never_fail_are_not_asked() -> None:
    everywhere = np.random.default_rng(0).integers(-128, 128, (9, 1000)).astype(np.int8)
    limits = learn([table({"x": everywhere})])["x"]["limits"]
    assert limits["min"]["low"] is None and limits["max"]["high"] is None  # int8 holds nothing beyond
    assert limits["zero_share"]["low"] is None and limits["saturation_share"]["low"] is None
    assert limits["entropy"]["low"] > 0 and limits["entropy"]["high"] is not None


def test_outputs_of_two_kinds_or_of_some_nights_only_teach_nothing() -> None:
    one = table(
        {"x": np.ones((3, 4), np.int8), "y": np.arange(12, dtype=np.int8).reshape(3, 4), "nan": np.full((2, 2), np.nan, np.float32)}
    )
    other = table({"x": np.ones((3, 4), np.int16), "y": np.arange(12, dtype=np.int8).reshape(3, 4), "nan": np.full((2, 2), np.nan, np.float32), "z": np.ones((3, 4), np.int8)})  # fmt: skip
    assert set(learn([one, other])) == {"y"}


# --- Great Expectations ------------------------------------------------------------------------------------------------------


def case(folder: Path, arrays: Arrays, learnt: dict[str, Any] | None, written: Sequence[dict[str, Any]] = (), advisory: bool = False) -> dict[str, Any]:  # fmt: skip
    folder.mkdir()
    files = {}
    for index, (name, array) in enumerate(arrays.items()):
        files[name] = folder / f"{index}.npy"
        np.save(files[name], array)
    write_table(files, folder / "table.json")
    outputs = {name: {"count": int(np.prod(array.shape[1:])), "dtype": str(array.dtype)} for name, array in arrays.items()}
    rules = {"samples": len(next(iter(arrays.values()))), "max_saturation_share": 0.5, "outputs": outputs, "written": list(written)}
    rules["learnt"] = None if learnt is None else {"outputs": learnt, "source": "3 good nights", "advisory": advisory}
    return {"tables": [str(folder / "table.json")], "rules": rules, "out_dir": str(folder / "out"), "record": {"state": "learnt"}}


def judged(folder: Path, cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All of them by great_expectations, in one process of its own."""
    (folder / "cases.json").write_text(json.dumps(list(cases)))
    subprocess.run([sys.executable, "-c", MANY, str(folder / "cases.json")], check=True, env={**os.environ, "PYTHONPATH": str(LIBRARY)})
    answer: list[dict[str, Any]] = json.loads((folder / "cases.json").read_text())
    return answer


def wrong(answer: dict[str, Any]) -> set[tuple[str, str]]:
    return {(item["output"], item["column"]) for item in answer["expectations"] if not item["success"]}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What great_expectations says of sound nights, of every planted change, of a warning, and of a zoo entry's own expectations."""
    folder = tmp_path_factory.mktemp("gx")
    learnt = learn([table(night(seed)) for seed in range(3)])
    cases, plain = {}, {}
    for seed in (10, 11, 12, 13, 14):
        cases[f"sound {seed}"] = case(folder / f"sound{seed}", night(seed), learnt)
        plain[f"sound {seed}"] = outcome(learnt, table(night(seed)))
    for damage, _, _ in PLANTED:
        arrays = night(20)
        damage(arrays)
        cases[damage.__name__] = case(folder / damage.__name__, arrays, learnt)
        plain[damage.__name__] = outcome(learnt, table(arrays))
    cases["sound 10 again"] = case(folder / "again", night(10), learnt)
    arrays = night(20)
    shifted(arrays)
    cases["warning"] = case(folder / "warning", arrays, learnt, advisory=True)
    entry = [
        {"output": "logits", "statistic": "max", "min": 0, "max": 5000, "mostly": 1.0},
        {"output": "logits", "statistic": "drift", "min": None, "max": 1.0, "mostly": 1.0},
        {"output": "heat", "statistic": "mean", "min": -1, "max": 1, "mostly": 0.9},
    ]
    cases["written"] = case(folder / "written", arrays, learnt, entry)
    cases["learning"] = case(folder / "learning", arrays, None)
    found = dict(zip(cases, judged(folder, list(cases.values())), strict=True))
    return {"found": found, "plain": plain, "learnt": learnt}


def test_great_expectations_says_the_same_of_every_night(answers: dict[str, Any]) -> None:
    for name, expected in answers["plain"].items():
        found = answers["found"][name]
        assert wrong(found) == expected, name
        assert found["success"] is (not expected) and found["failed"] == len(expected)
        assert len({(item["output"], item["column"]) for item in found["expectations"] if item["source"] == "learnt"}) > 15


def test_a_failure_says_statistic_measurement_limits_and_nights(answers: dict[str, Any]) -> None:
    items = answers["found"]["shifted"]["expectations"]
    item = next(item for item in items if (item["output"], item["column"]) == ("logits", "max") and item["source"] == "learnt")
    limit = answers["learnt"]["logits"]["limits"]["max"]
    assert item["title"] == "the maximum is as learnt"
    assert item["expected"] == (
        f"max <= {limit['high']:.6g} in 91.7% of the samples (3 good nights: {limit['seen'][0]:.6g} to {limit['seen'][1]:.6g})"
    )
    assert item["observed"].startswith("max 15") and "over 24 samples" in item["observed"]
    assert item["unexpected_count"] == 24
    moved = next(item for item in answers["found"]["reshaped"]["expectations"] if item["column"] == "drift" and item["output"] == "box")
    assert moved["title"] == "the share of values that lie elsewhere than on the learnt nights is as learnt"
    assert float(moved["observed"].removeprefix("drift ")) > answers["learnt"]["box"]["drift"]["high"]


def test_a_warning_fails_nothing_and_is_one_in_the_suite(answers: dict[str, Any]) -> None:
    found = answers["found"]["warning"]
    assert found["success"] is True and found["failed"] == 0
    assert found["warned"] == len(wrong(found)) == len(wrong(answers["found"]["shifted"]))
    assert {item["severity"] for item in found["kept"]["expectations"] if item["meta"]["source"] == "learnt"} == {"warning"}
    assert {item["severity"] for item in found["kept"]["expectations"] if item["meta"]["source"] == "fixed"} == {"critical"}


def test_what_the_zoo_entry_says_is_added_and_takes_the_place_of_what_was_learnt(answers: dict[str, Any]) -> None:
    found = answers["found"]["written"]
    about = {(item["output"], item["column"]): item for item in found["expectations"] if item["source"] == "written"}
    assert set(about) == {("logits", "max"), ("logits", "drift"), ("heat", "mean")}
    assert not about["logits", "max"]["success"] and about["logits", "max"]["expected"] == "max in 0 .. 5000 (the zoo entry)"
    assert about["logits", "drift"]["success"], "a drift up to 1 is allowed by the entry, though not by the nights"
    assert about["heat", "mean"]["success"]
    asked = [(item["output"], item["column"]) for item in found["expectations"] if item["source"] == "learnt"]
    assert not set(asked) & set(about)
    assert ("logits", "min") in asked


def test_while_nothing_is_learnt_only_what_holds_for_every_model_judges(answers: dict[str, Any]) -> None:
    found = answers["found"]["learning"]
    assert found["success"] and {item["source"] for item in found["expectations"]} == {"fixed"}


def test_the_suite_is_great_expectations_own_and_holds_what_was_asked(answers: dict[str, Any]) -> None:
    found = answers["found"]["shifted"]
    suite = found["kept"]
    assert suite["meta"]["qatladder"] == {"state": "learnt"} and suite["meta"]["great_expectations_version"] == found["version"]
    assert [item["type"] for item in suite["expectations"]] == [item["expectation"] for item in found["expectations"]]
    limit = next(
        item for item in suite["expectations"] if item["kwargs"].get("column") == "max" and item["meta"] == {**item["meta"], "source": "learnt", "output": "logits"}
    )  # fmt: skip
    assert limit["kwargs"]["max_value"] == answers["learnt"]["logits"]["limits"]["max"]["high"]


def test_equal_nights_have_equal_suites_to_the_last_byte(answers: dict[str, Any]) -> None:
    one, other = (Path(answers["found"][name]["suite"]).read_bytes() for name in ("sound 10", "sound 10 again"))
    assert one == other


def test_data_docs_name_the_output_the_limits_and_the_nights(answers: dict[str, Any]) -> None:
    text = Path(answers["found"]["shifted"]["page"]).read_text()
    limit = answers["learnt"]["logits"]["limits"]["max"]["high"]
    assert f"logits: the maximum is as learnt: max &lt;= {limit:.6g} in 91.7% of the samples (3 good nights:" in text


# --- words -------------------------------------------------------------------------------------------------------------------


def test_the_zoo_schema_and_the_suite_know_the_same_statistics() -> None:
    field = Expectation.model_json_schema()["properties"]["statistic"]
    assert field["enum"] == list(WORDS)
    assert set(learning.STATISTICS) <= set(WORDS)
    rows = describe(np.ones((1, 2), np.int8)).samples
    assert set(WORDS) - {"drift"} <= set(rows[0])


def test_an_expectation_of_something_else_is_refused() -> None:
    rules = {"samples": 1, "max_saturation_share": 0.5, "outputs": {"x": {"count": 2}}}
    for item in ({"output": "y", "statistic": "max"}, {"output": "x", "statistic": "mode"}):
        with pytest.raises(ConfigError, match="the dumps do not have"):
            list(plan({**rules, "written": [{"min": None, "max": 1, "mostly": 1.0, **item}]}))


def test_what_is_learnt_is_plain_json() -> None:
    learnt = learn([table(night(0)), table(night(1))])
    assert json.loads(json.dumps(learnt, allow_nan=False)) == learnt

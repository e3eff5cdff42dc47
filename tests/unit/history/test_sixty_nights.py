"""Promises: in sixty simulated nights every planted event is found in its night, and nothing else is called a regression."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from qatladder.evidence import open_store
from qatladder.history import History
from qatladder.history.baselines import baseline_of, promote
from qatladder.settings import load_settings

from .nights import Zoo, verdicts

NIGHTS = 60


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The reports of sixty nights with planted events, and the zoo they are of."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("nights")
        patch.setenv("QATLADDER_HOME", str(home))
        patch.delenv("QATLADDER_STORE", raising=False)
        patch.setattr(os, "fsync", lambda handle: None)  # sixty nights in a minute: nobody pulls the plug here
        zoo = Zoo(open_store(load_settings()), home, seed=7)
        models = {model.name: model for model in zoo.zoo}
        kept = []
        for night in range(NIGHTS):
            if night in EVENTS:
                EVENTS[night](zoo, models)
            kept.append(zoo.sweep())
        yield zoo, kept


def _version(zoo: Zoo, models: dict[str, Any]) -> None:
    models["m08"].version = "2"
    zoo.retrain(models["m08"], -0.05)


def _accept(zoo: Zoo, models: dict[str, Any]) -> None:
    promote(zoo.store, "nightly_sweep@022", "m05", None, None, "a lead", "the new labels are stricter")


def _latency(name: str, factor: float, **changes: Any) -> Any:
    def event(zoo: Zoo, models: dict[str, Any]) -> None:
        models[name].latency *= factor
        for field, value in changes.items():
            setattr(models[name], field, value)

    return event


def _set(name: str, **changes: Any) -> Any:
    return _latency(name, 1.0, **changes)


EVENTS: dict[int, Any] = {
    5: _set("m03", scatter=0.012),
    14: lambda zoo, models: zoo.retrain(models["m00"], -0.05),
    18: lambda zoo, models: zoo.retrain(models["m00"], 0.05),
    16: lambda zoo, models: zoo.retrain(models["m01"], 0.05),
    20: lambda zoo, models: zoo.retrain(models["m05"], -0.04),
    23: _accept,
    24: _latency("m02", 1.1),
    26: _latency("m03", 1.04),
    30: lambda zoo, models: zoo.add("m12"),
    33: _set("m06", absent=True),
    34: _set("m06", absent=False),
    37: _set("m04", nondeterministic=True),
    38: _set("m04", nondeterministic=False),
    41: lambda zoo, models: zoo.retrain(models["m07"], -0.04),
    45: _version,
    50: lambda zoo, models: zoo.retrain(models["m11"], 0.05),
}

REGRESSIONS = {
    "m00": range(14, 18),
    "m02": range(24, NIGHTS),
    "m03": range(26, NIGHTS),
    "m04": range(37, 38),
    "m05": range(20, 23),
    "m07": range(41, NIGHTS),
    "m08": range(45, NIGHTS),
}
"""Nights on which a model is worse than its baseline."""

FOUND_THE_SAME_NIGHT = {"m00": 14, "m02": 24, "m05": 20, "m07": 41, "m08": 45}
PROGRESSIONS = {"m01": 16, "m11": 50}


def test_every_planted_regression_is_found_in_its_night(reports: Any) -> None:
    _, nights = reports
    found = {name: verdicts(nights[night])[name] for name, night in FOUND_THE_SAME_NIGHT.items()}
    assert found == dict.fromkeys(FOUND_THE_SAME_NIGHT, "regression")


def test_every_planted_progression_is_found_in_its_night(reports: Any) -> None:
    _, nights = reports
    assert {name: verdicts(nights[night])[name] for name, night in PROGRESSIONS.items()} == dict.fromkeys(PROGRESSIONS, "progression")


def test_nothing_else_is_called_a_regression(reports: Any) -> None:
    _, nights = reports
    false = [
        (night, name)
        for night, report in enumerate(nights)
        for name, verdict in verdicts(report).items()
        if verdict == "regression" and night not in REGRESSIONS.get(name, ())
    ]
    assert false == []
    suspicious = [
        (night, name) for night, report in enumerate(nights) for name, verdict in verdicts(report).items() if verdict == "suspicious"
    ]
    print(f"{sum(len(report['ladders']) for report in nights)} ladders, 0 false alarms, suspicious: {suspicious}")


def test_a_regression_stays_one_until_it_is_better_or_accepted(reports: Any) -> None:
    _, nights = reports
    assert {verdicts(nights[night])["m00"] for night in range(14, 18)} == {"regression"}
    assert verdicts(nights[18])["m00"] == "no_regression"
    assert {verdicts(nights[night])["m05"] for night in range(20, 23)} == {"regression"}
    assert verdicts(nights[23])["m05"] == "no_regression"


def test_a_small_change_of_level_in_noise_is_found_within_days(reports: Any) -> None:
    """4 % on a board that scatters by 1.2 %: no single night can say so."""
    _, nights = reports
    first = next(night for night in range(26, NIGHTS) if verdicts(nights[night])["m03"] == "regression")
    assert first <= 34
    (ladder,) = [item for item in nights[first]["ladders"] if item["model"] == "m03"]
    (movement,) = [item for item in ladder["trend"]["movements"] if item["verdict"] == "regression"]
    assert movement["check_id"] == "board.perf"


def test_one_flipped_sample_is_one_too_many_where_nothing_has_changed(reports: Any) -> None:
    _, nights = reports
    assert verdicts(nights[37])["m04"] in ("regression", "suspicious")
    (ladder,) = [item for item in nights[37]["ladders"] if item["model"] == "m04"]
    assert any("nothing that determines it has changed" in item["why"] for item in ladder["trend"]["movements"])
    assert ladder["trend"]["suspects"] == []


def test_new_and_missing_models_are_named(reports: Any) -> None:
    _, nights = reports
    assert verdicts(nights[30])["m12"] == "new"
    assert verdicts(nights[31])["m12"] == "no_regression"
    assert [item["model"] for item in nights[33]["missing"]] == ["m06"]
    assert "missing" not in nights[34]
    # the old version of m08 is named as missing for a week
    assert {(item["model"], item["version"]) for item in nights[46]["missing"]} == {("m08", "1")}
    assert "missing" not in nights[55]


def test_a_new_version_is_held_against_the_old_one_and_the_weights_are_the_suspect(reports: Any) -> None:
    _, nights = reports
    (ladder,) = [item for item in nights[45]["ladders"] if item["model"] == "m08"]
    movement = next(item for item in ladder["trend"]["movements"] if item["verdict"] == "regression")
    assert movement["check_id"] == "float.accuracy"
    assert movement["baseline_run"] == "nightly_sweep@044"
    assert movement["p_value"] < 1e-6
    assert [item["what"] for item in ladder["trend"]["suspects"]] == ["weights float"]


def test_the_metric_that_is_no_mean_was_judged_by_a_paired_bootstrap(reports: Any) -> None:
    _, nights = reports
    (ladder,) = [item for item in nights[20]["ladders"] if item["model"] == "m05"]
    movement = next(item for item in ladder["trend"]["movements"] if item["metric"] == "mIoU")
    assert movement["method"].startswith("paired bootstrap of 200 resamples")


def test_baselines_follow_good_nights_and_stay_where_somebody_put_them(reports: Any) -> None:
    zoo, _ = reports
    last = baseline_of(zoo.store, "m09", "1", "bayes-e")
    assert last is not None and last.run_id == f"nightly_sweep@{NIGHTS - 1:03d}"
    stuck = baseline_of(zoo.store, "m07", "1", "bayes-e")
    assert stuck is not None and stuck.run_id == "nightly_sweep@040"
    accepted = baseline_of(zoo.store, "m05", "1", "bayes-e")
    assert accepted is not None
    assert (accepted.run_id, accepted.by, accepted.why) == ("nightly_sweep@022", "a lead", "the new labels are stricter")
    assert accepted.before[0]["run_id"] == "nightly_sweep@019"


def test_the_history_holds_every_trend(reports: Any, tmp_path: Path) -> None:
    zoo, nights = reports
    rows = History(zoo.store, tmp_path).refresh().ask("SELECT run_id, model, any_value(trend) AS trend FROM facts GROUP BY ALL")
    assert len(rows) == sum(len(report["ladders"]) for report in nights)
    trends = {(row["run_id"], row["model"]): row["trend"] for row in rows}
    assert trends["nightly_sweep@041", "m07"] == "regression"


def test_small_losses_do_not_add_up_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.8 % a week, of which no single one is beyond chance: the last accepted result is the anchor."""
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path))
    monkeypatch.delenv("QATLADDER_STORE", raising=False)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    zoo = Zoo(open_store(load_settings()), tmp_path, seed=3, models=1, retrained=0.0, samples=1200)
    (model,) = zoo.zoo
    found = [verdicts(zoo.sweep())["m00"]]
    for _ in range(10):
        zoo.retrain(model, -0.008)
        report = zoo.sweep()
        found.append(verdicts(report)["m00"])
        if found[-1] == "regression":
            break
    assert found[1] != "regression"
    assert found[-1] == "regression"
    moved = {item["metric"] for item in report["ladders"][0]["trend"]["movements"] if item["verdict"] == "regression"}
    assert "top1 in the long run" in moved
    held = baseline_of(zoo.store, "m00", "1", "bayes-e")
    assert held is not None and held.anchor["run_id"] == "nightly_sweep@000"
    promote(zoo.store, f"nightly_sweep@{zoo.night - 1:03d}", "m00", None, None, "a lead", "good enough")
    assert verdicts(zoo.sweep())["m00"] == "no_regression"

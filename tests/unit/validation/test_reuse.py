"""What is unchanged is not converted again, and is proven to be the same all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.fakes import Lab, model_data

from qatladder.evidence import open_store
from qatladder.ladder import RungResult, Status
from qatladder.settings import load_settings
from qatladder.validation import plan, reuse, run_rung
from qatladder.validation.run import finish_run


@pytest.fixture
def converted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sources that were really converted, in order."""
    sources: list[str] = []
    real = lab.toolchain.convert

    def convert(entry: Any, target: Any, onnx: Path, *rest: Any, **options: Any) -> Any:
        sources.append(onnx.name)
        return real(entry, target, onnx, *rest, **options)

    monkeypatch.setattr(lab.toolchain, "convert", convert)
    return sources


def climb(run_id: str, force: bool = False, log: Callable[[str], None] = lambda line: None) -> dict[str, RungResult]:
    """All rungs up to the hbm."""
    (ladder,) = plan(rungs=["float", "calib", "qat", "int", "hbm"], force=force)
    answers = {rung: run_rung(ladder, rung, run_id, log) for rung in ladder["rungs"]}
    finish_run([ladder], run_id)
    return answers


def passed(answers: dict[str, RungResult]) -> None:
    assert all(check.status is Status.PASSED for rung in answers.values() for check in rung.checks), answers


def test_the_second_night_compiles_nothing_and_proves_it(lab: Lab, converted: list[str]) -> None:
    first, second = climb("first"), climb("second")
    passed(first)
    passed(second)
    assert converted == ["onnx.json"]
    said = second["int"].check("int.input").measured
    assert "not converted again: unchanged since first (" in said
    assert "converted in this run" in first["int"].check("int.input").measured
    assert second["int"].products == first["int"].products
    assert second["int"].facts["int_model"] == first["int"].facts["int_model"]
    assert second["int"].facts["conversion"]["run_id"] == "first"
    assert second["int"].facts["conversion"]["key"] == first["int"].facts["conversion"]["key"]


def test_the_manifest_of_a_run_lists_what_it_carried_over(lab: Lab, converted: list[str]) -> None:
    import json

    climb("first")
    answers = climb("second")
    manifest = json.loads(open_store(load_settings()).read_run_file("second", "manifest.json"))
    assert {answers["int"].products[role].sha256 for role in ("int", "hbm")} <= manifest["objects"].keys()


def test_force_converts_in_any_case(lab: Lab, converted: list[str]) -> None:
    climb("first")
    climb("second", force=True)
    assert len(converted) == 2


@pytest.mark.parametrize("what", ["weights", "option", "version", "input", "code"])
def test_whatever_determines_a_conversion_makes_it_another(
    what: str, lab: Lab, converted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    climb("first")
    if what == "weights":
        for which in ("float", "calib", "qat", "onnx"):
            data = model_data()
            data["weights"]["a"][1][0] += 1
            lab.artifact(which, data)
    elif what == "option":
        lab.entry(targets=[{"march": "bayes", "optimize_level": "O3"}])
    elif what == "version":
        monkeypatch.setattr(lab.toolchain, "versions", lambda: {"fake": "1.1"})
    elif what == "code":
        monkeypatch.setattr(reuse, "_code", lambda: "other")
    else:
        plain = {"shape": [1, 2, 3], "layout": "none", "type_train": "featuremap", "type_rt": "featuremap", "source": "ddr"}
        lab.entry(inputs=[{"name": name, **plain} for name in ("b", "a")])
    passed(climb("second"))
    assert len(converted) == 2


def test_gates_boards_and_programs_do_not(lab: Lab, converted: list[str]) -> None:
    climb("first")
    lab.entry(targets=[{"march": "bayes", "name": "car", "perf": {"max_latency_ms": 3}, "boards": ["virtual-j5"]}])
    passed(climb("second"))
    assert len(converted) == 1


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_damaged_product_is_made_anew(damage: str, lab: Lab, converted: list[str]) -> None:
    (found,) = (climb("first")["int"].products["hbm"],)
    (path,) = Path(load_settings().store).glob(f"objects/*/{found.sha256}*")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?") if damage == "flipped" else path.unlink()
    lines: list[str] = []
    passed(climb("second", log=lines.append))
    assert len(converted) == 2
    assert any("converted again" in line and "hbm" in line for line in lines)
    assert path.read_bytes() == whole
    passed(climb("third"))
    assert len(converted) == 2


def test_a_stale_hbm_in_the_record_is_found(lab: Lab, converted: list[str]) -> None:
    """What is carried over is not believed: the origin is proven every night."""
    lab.toolchain.stale = {**model_data(), "input_scale": 0.5}
    first, second = climb("first"), climb("second")
    assert len(converted) == 1
    for answers in (first, second):
        assert answers["hbm"].check("hbm.bit_exact").status is Status.FAILED

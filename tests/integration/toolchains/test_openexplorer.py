"""A J5 team's model from its own environment, float to board.

Stand-ins: horizon_plugin_pytorch (tests/standins/openexplorer) and hrt_model_exec of the virtual board. Python 3.8, torch, the compiler and the
simulator are real.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.integration.toolchains import nets
from tests.standins.openexplorer import environment, zoo

from qatladder.boards.fleet import load_fleet
from qatladder.boards.virtual import control
from qatladder.ladder import LadderResult, Status, Verdict
from qatladder.settings import PROJECT, load_settings
from qatladder.toolchains.hmct import Hmct
from qatladder.validation import finish_ladder, plan, run_rung

pytestmark = [pytest.mark.vendor, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return environment.prepare(load_settings().home)
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def entry(hmct: Hmct, python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return zoo.build(tmp_path_factory.mktemp("j5"), hmct, python)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    fleet = yaml.safe_load((PROJECT / "include" / "zoo" / "fleet.yaml").read_text())
    boards = [{**board, "port": 0} for board in fleet["boards"] if board["march"] == "bayes"]
    (home / "fleet.yaml").write_text(yaml.safe_dump({"boards": boards}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QATLADDER_HOME", str(home))
        patch.setenv("QATLADDER_FLEET", str(home / "fleet.yaml"))
        patch.delenv("QATLADDER_STORE", raising=False)
        settings = load_settings()
        (board,) = load_fleet(settings.fleet).boards
        control.start_background(board, settings)
        yield home
        control.stop(board, settings)


@pytest.fixture
def climb(home: Path, entry: dict[str, Any], python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LadderResult]:
    """climb(rungs, **changes of the entry)."""

    def run(rungs: list[str] | None = None, **changes: Any) -> LadderResult:
        zoo.write_zoo(tmp_path / "zoo", [{**entry, **changes}], {"j5": environment.zoo_file(python, load_settings())})
        monkeypatch.setenv("QATLADDER_ZOO", str(tmp_path / "zoo"))
        (ladder,) = plan(["j5_head"], rungs=rungs)
        run_id = f"run-{tmp_path.name}"
        for rung in ladder["rungs"]:
            run_rung(ladder, rung, run_id, print)
        return finish_ladder(ladder, run_id)

    return run


def checks(result: LadderResult) -> dict[str, Any]:
    return {check.id: check for check in result.checks}


def test_a_model_of_python_3_8_climbs_from_float_to_the_board(climb: Callable[..., LadderResult]) -> None:
    result = climb()
    found = checks(result)
    assert result.verdict is Verdict.SHIP, [(check.id, check.reason) for check in result.checks if check.status is not Status.PASSED]
    assert result.rungs[0].facts["environments"]["j5"]["python"].startswith("3.8.")
    assert (
        "on 4 samples; compiled from this int model; hbdk-model-verifier 3.49.15: out: 0 of 6144 integers differ"
        in found["hbm.bit_exact"].measured
    )
    assert found["hbm.bit_exact"].values["verifier"]["agrees"]
    assert " 0 of " in found["hbm.bit_exact"].measured
    assert " 0 of " in found["board.runtime"].measured
    assert result.rungs[3].facts["versions"]["horizon_plugin_pytorch"] == "1.8.2+standin"
    assert found["int.fidelity"].values["outputs"]["out"]["cosine"] > 0.999


def test_torchscript_quantized_onnx_and_simulator_agree(
    hmct: Hmct, entry: dict[str, Any], python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in's int model is no imitation: it repeats the vendor's own quantized ONNX, integer for integer."""
    from qatladder.runner.client import Environment
    from qatladder.toolchains.openexplorer import OpenExplorer
    from qatladder.zoo.schema import Entry

    settings = load_settings()
    explorer = OpenExplorer(settings, Environment("j5", python, paths=[environment.STANDIN], path=[settings.vendor_python.parent]))
    parsed = Entry.model_validate(entry)
    folder = Path(entry["artifacts"]["int"]).parent
    conversion = explorer.convert(parsed, parsed.targets[0], folder / "int.pt", tmp_path / "convert", print)
    frames = nets.nv12_pictures(np.random.default_rng(3), 5, *zoo.SIZE)
    fed = nets.yuv444_128(frames)
    np.save(tmp_path / "nhwc.npy", fed)
    np.save(tmp_path / "nchw.npy", np.ascontiguousarray(fed.transpose(0, 3, 1, 2)))
    ours = explorer.run_int(folder / "int.pt", {"data": tmp_path / "nchw.npy"}, tmp_path / "torch", True, print, conversion.model)
    (tmp_path / "onnx").mkdir()
    (int_model,) = (folder / "integers").glob("*_quantized_model.onnx")
    theirs = hmct.run_int(int_model, {"data": tmp_path / "nhwc.npy"}, tmp_path / "onnx", True, print)
    np.testing.assert_array_equal(np.load(ours["out"]), np.load(theirs["out"]))
    files = []
    for index, frame in enumerate(frames):
        files.append(tmp_path / f"{index}.yuv")
        frame.tofile(files[-1])
    name = conversion.model.outputs[0].raw_name
    simulated = explorer.simulate(conversion.products["hbm"], {conversion.model.inputs[0].raw_name: files}, tmp_path / "simulate", print)
    np.testing.assert_array_equal(np.load(simulated[name]), np.load(ours[name]))
    assert len(np.unique(np.load(ours[name]))) > 1000


@pytest.mark.parametrize("suffix", [".yuv", ".png", ".jpg"])
def test_the_verifier_is_driven_with_every_kind_of_picture(entry: dict[str, Any], python: Path, tmp_path: Path, suffix: str) -> None:
    """Our numerics judge what it left, against the int model on the very frame the tool makes of the picture."""
    from qatladder.runner.client import Environment, run_job
    from qatladder.toolchains.openexplorer import OpenExplorer
    from qatladder.zoo.schema import Entry

    settings = load_settings()
    path = [python.parent, settings.vendor_python.parent]
    lab = Environment("j5", python, paths=[environment.STANDIN, environment.STANDIN.parents[2]], path=path)
    explorer = OpenExplorer(settings, lab)
    parsed = Entry.model_validate(entry)
    folder = Path(entry["artifacts"]["int"]).parent
    conversion = explorer.convert(parsed, parsed.targets[0], folder / "int.pt", tmp_path / "convert", print)
    (output,) = conversion.model.outputs
    picture = tmp_path / f"picture{suffix}"
    if suffix == ".yuv":
        nets.nv12_pictures(np.random.default_rng(3), 1, *zoo.SIZE)[0].tofile(picture)
    else:
        script = f"import numpy, PIL.Image; PIL.Image.fromarray(numpy.load({str(folder / 'pictures.npy')!r})[3]).save({str(picture)!r})"
        subprocess.run([python, "-c", script], check=True)
    script = (
        f"import sys, numpy; sys.path.insert(0, {str(environment.STANDIN)!r}); import model_verifier; "
        f"numpy.save({str(tmp_path / 'nv12.npy')!r}, model_verifier.nv12_of({str(picture)!r}, {zoo.SIZE!r}))"
    )
    subprocess.run([python, "-c", script], check=True)
    fed = nets.yuv444_128(np.load(tmp_path / "nv12.npy")[None])
    np.save(tmp_path / "fed.npy", np.ascontiguousarray(fed.transpose(0, 3, 1, 2)))
    ours = explorer.run_int(folder / "int.pt", {"data": tmp_path / "fed.npy"}, tmp_path / "torch", True, print, conversion.model)
    arguments = {
        "hbm": str(conversion.products["hbm"]),
        "model_pt": str(folder / "int.pt"),
        "samples": [[str(picture)]],
        "outputs": [
            {
                "raw_name": output.raw_name,
                "raw_dtype": output.raw_dtype,
                "shape": output.shape,
                "scale": output.scale,
                "axis": output.axis,
            }
        ],
        "options": {"yuv_shape": zoo.SIZE if suffix == ".yuv" else None, "ip": "192.0.2.1"},
        "folder": str(tmp_path / "verify"),
    }
    (tmp_path / "verify").mkdir()
    value = run_job(lab, "qatladder.toolchains.model_verifier:verify", arguments, tmp_path / "verify").value
    assert value["version"] == "3.49.15"
    assert sorted(value["dumps"]) == ["bpu_output", "simulator_output"]
    for dumps in value["dumps"].values():
        np.testing.assert_array_equal(np.load(dumps[output.raw_name]), np.load(ours[output.raw_name]))


def test_a_verifier_of_another_version_cannot_speak_for_the_hbm(
    climb: Callable[..., LadderResult], python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = environment.zoo_file
    variables = {"STANDIN_VERIFIER_VERSION": "3.46.4"}
    monkeypatch.setattr(environment, "zoo_file", lambda *args: {**given(*args), "variables": variables})
    check = checks(climb(["float", "qat", "int", "hbm"]))["hbm.bit_exact"]
    assert check.status is Status.FAILED
    assert "hbdk-model-verifier is 3.46.4, the hbm was built with hbdk 3.49.15" in check.reason
    assert "another version" in check.cause


class TestWrong:
    """Each fault is said precisely, at the rung where it is."""

    @pytest.fixture
    def other(self, hmct: Hmct, python: Path, tmp_path: Path) -> Path:
        """The int model of another training."""
        zoo.build(tmp_path / "other", hmct, python, seed=5)
        return tmp_path / "other"

    def test_an_hbm_of_another_training(self, climb: Callable[..., LadderResult], other: Path, entry: dict[str, Any]) -> None:
        (stale,) = (other / "integers").glob("*.hbm")
        result = climb(["float", "qat", "int", "hbm"], artifacts={**entry["artifacts"], "hbm": str(stale)})
        check = checks(result)["hbm.bit_exact"]
        assert check.status is Status.FAILED
        assert "not compiled from this int model" in check.measured
        assert "leads to an hbir with CRC-32" in check.reason

    def test_its_own_hbm_is_taken(self, climb: Callable[..., LadderResult], entry: dict[str, Any]) -> None:
        (own,) = (Path(entry["artifacts"]["int"]).parent / "integers").glob("*.hbm")
        result = climb(["float", "qat", "int", "hbm"], artifacts={**entry["artifacts"], "hbm": str(own)})
        assert checks(result)["hbm.bit_exact"].status is Status.PASSED, checks(result)["hbm.bit_exact"].reason

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            ("truncated", "no TorchScript file"),
            ("pickled", "no TorchScript file"),
            ("missing", "the artifact does not exist"),
        ],
    )
    def test_a_file_that_is_no_int_model(
        self, damage: str, said: str, climb: Callable[..., LadderResult], entry: dict[str, Any], python: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "int.pt"
        if damage == "truncated":
            whole = Path(entry["artifacts"]["int"]).read_bytes()
            file.write_bytes(whole[: len(whole) // 2])
        elif damage == "pickled":
            subprocess.run([str(python), "-c", f"import torch; torch.save(torch.nn.Linear(2, 2), {str(file)!r})"], check=True)
        check = checks(climb(["int"], artifacts={**entry["artifacts"], "int": str(file)}))["int.input"]
        assert check.status is Status.FAILED
        assert said in check.reason
        assert str(file) in check.reason

    def test_another_march(self, climb: Callable[..., LadderResult]) -> None:
        check = checks(climb(["int"], targets=[{"march": "bernoulli2", "toolchain": "openexplorer"}]))["int.input"]
        assert check.status is Status.FAILED
        assert (check.expected, check.measured) == ("bernoulli2", "bayes")

    def test_another_shape(self, climb: Callable[..., LadderResult]) -> None:
        check = checks(climb(["int"], inputs=[nets.nv12_input(32, 96)]))["int.input"]
        assert check.status is Status.FAILED
        assert "32, 96" in check.reason + check.expected + check.measured or "32x96" in check.expected

    def test_outputs_that_are_not_the_models(self, climb: Callable[..., LadderResult]) -> None:
        check = checks(climb(["int"], outputs=["a", "b"]))["int.input"]
        assert check.status is Status.FAILED
        assert "another number of outputs" in check.reason

    def test_what_check_model_refuses(
        self, climb: Callable[..., LadderResult], python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It says so on the console and returns 0, as tools do."""
        package = tmp_path / "plugin"
        shutil.copytree(environment.STANDIN / "horizon_plugin_pytorch", package / "horizon_plugin_pytorch")
        version = package / "horizon_plugin_pytorch" / "__init__.py"
        version.write_text(version.read_text().replace("1.8.2", "1.8.3"))
        file = package / "horizon_plugin_pytorch" / "quantization.py"
        file.write_text(
            file.read_text()
            + "\n\ndef check_model(*_, **__):\n    print('ERROR: layer /head/Conv: kernel 9x9 is not supported')\n    return 0\n"
        )
        monkeypatch.setattr(environment, "STANDIN", package)
        check = checks(climb(["int"]))["int.input"]
        assert check.status is Status.FAILED
        assert "check_model refuses the int model" in check.reason
        assert "kernel 9x9 is not supported" in check.measured

    def test_an_environment_without_the_plugin(
        self, climb: Callable[..., LadderResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(environment, "STANDIN", tmp_path)
        check = checks(climb(["int"]))["int.input"]
        assert check.status is Status.SKIPPED and check.required
        assert "the environment j5 does not work" in check.reason
        assert "horizon_plugin_pytorch" in check.reason

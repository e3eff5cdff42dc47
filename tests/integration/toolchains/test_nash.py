"""A J6 team's model, float to hbm.

Stand-ins: hb_compile, hb_verifier and hbdk4 (tests/standins/nash). Below them the compiler, its ONNX Runtime and the simulator are the vendor's
own, for another BPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.toolchains import nets
from tests.standins.nash import environment, zoo
from tests.standins.openexplorer.zoo import write_zoo

from qatladder.errors import ArtifactError, BrokenError, ToolchainError
from qatladder.ladder import LadderResult, Status
from qatladder.runner.client import Environment
from qatladder.settings import PROJECT, load_settings
from qatladder.toolchains.base import Conversion, SecondOpinion
from qatladder.toolchains.hmct import Hmct
from qatladder.toolchains.nash import Nash
from qatladder.validation import finish_ladder, plan, run_rung
from qatladder.zoo import load_zoo
from qatladder.zoo.lint import lint_entry
from qatladder.zoo.schema import Entry

pytestmark = [pytest.mark.vendor, pytest.mark.timeout(600)]
GUIDE = PROJECT / "docs" / "toolchain-nash.md"


@pytest.fixture(scope="module")
def python(hmct: Hmct) -> Path:
    return environment.prepare(load_settings())


@pytest.fixture(scope="module")
def entry(hmct: Hmct, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return zoo.build(tmp_path_factory.mktemp("j6"))


@pytest.fixture
def climb(entry: dict[str, Any], python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LadderResult]:
    """climb(rungs, **changes of the entry)."""

    def run(rungs: list[str], **changes: Any) -> LadderResult:
        write_zoo(tmp_path / "zoo", [{**entry, **changes}], {"j6": environment.zoo_file(python)})
        monkeypatch.setenv("QATLADDER_ZOO", str(tmp_path / "zoo"))
        monkeypatch.setenv("QATLADDER_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("QATLADDER_FLEET", str(PROJECT / "include" / "zoo" / "fleet.yaml"))
        (ladder,) = plan(["j6_head"], rungs=rungs)
        for rung in ladder["rungs"]:
            run_rung(ladder, rung, "run", print)
        return finish_ladder(ladder, "run")

    return run


def toolchain(python: Path, front: Path | None = None) -> Nash:
    """`front`: a folder whose programs are found before the environment's."""
    path = [*([front] if front else []), python.parent]
    return Nash(load_settings(), Environment("j6", python, path=path))


@pytest.fixture(scope="module")
def conversion(python: Path, entry: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    parsed = Entry.model_validate(entry)
    folder = tmp_path_factory.mktemp("converted")
    return toolchain(python).convert(parsed, parsed.targets[0], Path(entry["artifacts"]["onnx"]), folder, print)


def unmet(result: LadderResult) -> list[tuple[str, str]]:
    return [(check.id, check.reason) for check in result.checks if check.status is not Status.PASSED and check.required]


def test_a_qat_model_climbs_from_float_to_hbm(climb: Callable[..., LadderResult]) -> None:
    result = climb(["float", "qat", "int", "hbm"])
    assert unmet(result) == []
    found = {check.id: check for check in result.checks}
    assert found["hbm.bit_exact"].measured == (
        "out: 0 of 12288 elements differ on 4 samples; compiled from this int model; hb_verifier: out: consistent"
    )
    assert found["hbm.bit_exact"].values["verifier"]["outputs"] == {"out": ""}
    assert found["int.fidelity"].values["outputs"]["out"]["cosine"] > 0.999


def test_int_model_and_hbm_agree_bit_for_bit_on_other_pictures(python: Path, conversion: Conversion, tmp_path: Path) -> None:
    nash = toolchain(python)
    frames = nets.nv12_pictures(np.random.default_rng(3), 3, *zoo.SIZE)
    np.save(tmp_path / "fed.npy", nets.yuv444_128(frames))
    files = [tmp_path / f"{index}.yuv" for index in range(len(frames))]
    for file, frame in zip(files, frames, strict=True):
        frame.tofile(file)
    fed = {"data": tmp_path / "fed.npy"}
    ours = nash.run_int(conversion.products["int"], fed, tmp_path / "int", True, print, conversion.model)
    simulated = nash.simulate(conversion.products["hbm"], {"data": files}, tmp_path / "hbm", print)
    assert len(np.unique(np.load(ours["out"]))) > 500
    np.testing.assert_array_equal(np.load(simulated["out"]), np.load(ours["out"]))


def test_every_program_has_its_documented_products(conversion: Conversion) -> None:
    build = conversion.products["int"].parent
    for name in (
        "original_float_model.onnx",
        "optimized_float_model.onnx",
        "calibrated_model.onnx",
        "ptq_model.onnx",
        "quantized_model.bc",
    ):
        assert (build / f"j6_head_{name}").stat().st_size
    assert {"int", "hbm", "config", "log", "perf_json", "perf_html", "quant_info"} <= set(conversion.products)
    assert conversion.versions["hbdk4-compiler"] == "4.0.0+standin"


class TestWrong:
    """Each fault is said precisely."""

    def put(self, folder: Path, program: str, text: str) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / program).write_text("#!/bin/sh\n" + text)
        (folder / program).chmod(0o755)
        return folder

    def convert(self, nash: Nash, entry: dict[str, Any], folder: Path, **changes: Any) -> Conversion:
        parsed = Entry.model_validate({**entry, **changes})
        return nash.convert(parsed, parsed.targets[0], Path(entry["artifacts"]["onnx"]), folder, print)

    def test_an_error_on_the_console_counts_whatever_the_exit_code(self, python: Path, entry: dict[str, Any], tmp_path: Path) -> None:
        said = 'echo "2026-09-24 19:23:31,325 ERROR ONNX model has operator GridSampleX at node /head that is not supported"'
        real = f'{python.parent}/hb_compile "$@"; {said}; exit 0\n'
        with pytest.raises(ToolchainError, match="did not convert") as caught:
            self.convert(toolchain(python, self.put(tmp_path / "bin", "hb_compile", real)), entry, tmp_path / "c")
        assert "GridSampleX at node /head" in caught.value.where["found"]
        assert caught.value.where["missing"] == "nothing"

    def test_a_product_is_missing(self, python: Path, entry: dict[str, Any], tmp_path: Path) -> None:
        front = self.put(tmp_path / "bin", "hb_compile", f'{python.parent}/hb_compile "$@"; rm build/*.hbm; exit 0\n')
        with pytest.raises(ToolchainError, match="did not convert") as caught:
            self.convert(toolchain(python, front), entry, tmp_path / "c")
        assert caught.value.where["missing"] == "j6_head.hbm"

    def test_the_hbm_is_of_another_march(self, python: Path, entry: dict[str, Any], tmp_path: Path) -> None:
        front = self.put(tmp_path / "bin", "hb_compile", f'sed -i s/nash-e/nash-m/ hb_compile.yaml; exec {python.parent}/hb_compile "$@"\n')
        with pytest.raises(ToolchainError, match="another march") as caught:
            self.convert(toolchain(python, front), entry, tmp_path / "c")
        assert (caught.value.where["expected"], caught.value.where["found"]) == ("nash-e", "nash-m")

    def test_hb_compile_is_not_there(self, python: Path, entry: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "bin").mkdir()
        for name in ("env", "sh"):
            (tmp_path / "bin" / name).symlink_to(shutil.which(name) or "")
        nash = Nash(load_settings(), Environment("j6", python, {"PATH": str(tmp_path / "bin")}))
        with pytest.raises(BrokenError, match="not installed") as caught:
            self.convert(nash, entry, tmp_path / "c")
        assert caught.value.where["tool"] == "hb_compile"

    def test_no_calibration_samples(self, python: Path, entry: dict[str, Any], tmp_path: Path) -> None:
        targets = [{"march": "nash-e", "toolchain": "nash", "environment": "j6", "ptq": {"method": "max"}}]
        with pytest.raises(ArtifactError, match="no calibration samples") as caught:
            self.convert(toolchain(python), entry, tmp_path / "c", targets=targets)
        assert caught.value.where["input"] == "data"

    def test_an_input_nobody_documents(self, python: Path, entry: dict[str, Any], tmp_path: Path) -> None:
        inputs = [{**entry["inputs"][0], "type_rt": "rgb", "source": "ddr"}]
        with pytest.raises(ToolchainError, match="not supported on nash"):
            self.convert(toolchain(python), entry, tmp_path / "c", inputs=inputs)

    def test_a_given_hbm_cannot_be_proven(self, python: Path, entry: dict[str, Any], conversion: Conversion, tmp_path: Path) -> None:
        parsed = Entry.model_validate(entry)
        onnx = Path(entry["artifacts"]["onnx"])
        with pytest.raises(ToolchainError, match="cannot be proven"):
            toolchain(python).convert(parsed, parsed.targets[0], onnx, tmp_path / "c", print, hbm=conversion.products["hbm"])

    @pytest.mark.parametrize(("role", "said"), [("int", "no whole .bc"), ("hbm", "no whole file")])
    def test_a_truncated_file(
        self, role: str, said: str, python: Path, entry: dict[str, Any], conversion: Conversion, tmp_path: Path
    ) -> None:
        products = dict(conversion.products)
        data = products[role].read_bytes()
        products[role] = tmp_path / products[role].name
        products[role].write_bytes(data[: len(data) // 2])
        with pytest.raises(ArtifactError, match=said) as caught:
            toolchain(python).compile_report(
                products["int"], products["hbm"], None, tmp_path / "r", print, entry=Entry.model_validate(entry)
            )
        assert caught.value.where["size"] == f"{len(data) // 2} bytes"

    def opinion(self, python: Path, front: Path, conversion: Conversion, folder: Path) -> SecondOpinion | None:
        np.save(folder / "frames.npy", nets.nv12_pictures(np.random.default_rng(4), 2, *zoo.SIZE))
        files, products = {"data": folder / "frames.npy"}, conversion.products
        return toolchain(python, front).second_opinion(products["int"], products["hbm"], conversion.model, {}, files, folder / "o", print)

    def test_a_row_that_differs_counts_although_it_is_not_the_last(self, python: Path, conversion: Conversion, tmp_path: Path) -> None:
        """As the older build: it exits with 0, and its last row is consistent."""
        table = (
            "| OutputName | Consistency | Mismatched Elements | Max Abs Diff | Max Rel Diff |",
            "| out        | False       | 3/3072 (0.10%)      | 0.250000     | 0.015000     |",
            "| other      | True        | 0/10 (0.00%)        | 0.000000     | 0.000000     |",
        )
        front = self.put(tmp_path / "bin", "hb_verifier", "".join(f"echo '2026-09-24 19:23:35,883 INFO {row}'\n" for row in table))
        found = self.opinion(python, front, conversion, tmp_path)
        assert found is not None
        assert found.rows == (("out", "3 elements, largest difference 0.25"), ("other", ""))
        assert "False" in found.log.read_text()

    def test_a_table_without_an_output_was_cut(self, python: Path, conversion: Conversion, tmp_path: Path) -> None:
        front = self.put(tmp_path / "bin", "hb_verifier", "echo nothing to see\n")
        with pytest.raises(BrokenError) as caught:
            self.opinion(python, front, conversion, tmp_path)
        assert caught.value.kind == "console"

    def test_the_hbm_is_described_although_hb_verifier_fails(
        self, python: Path, entry: dict[str, Any], conversion: Conversion, tmp_path: Path
    ) -> None:
        front = self.put(tmp_path / "bin", "hb_verifier", "exit 1\n")
        report = toolchain(python, front).compile_report(
            conversion.products["int"], conversion.products["hbm"], None, tmp_path / "r", print, entry=Entry.model_validate(entry)
        )
        assert report.march == "nash-e"


def test_the_guide_builds_an_entry_from_nothing(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/toolchain-nash.md, followed to the letter: its blocks are the whole zoo."""
    folder, home = tmp_path / "zoo", tmp_path / "home"
    names = []
    for name, text in re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        names.append(name)
    assert names == ["zoo.yaml", "adapters/stripes.py", "train.py", "stripes.yaml"]
    monkeypatch.setenv("J6_HOME", str(python.parent.parent))
    monkeypatch.setenv("QATLADDER_ZOO", str(folder))
    monkeypatch.setenv("QATLADDER_HOME", str(home))
    monkeypatch.setenv("QATLADDER_FLEET", str(PROJECT / "include" / "zoo" / "fleet.yaml"))
    subprocess.run([sys.executable, "train.py", str(home / "zoo")], cwd=folder, check=True, capture_output=True)
    loaded = load_zoo(load_settings())
    (entry,) = loaded.entries.values()
    assert lint_entry(loaded, entry) == []
    (ladder,) = plan(["stripes"], rungs=["float", "calib", "qat", "int", "hbm"])
    for rung in ladder["rungs"]:
        run_rung(ladder, rung, "guide", print)
    assert unmet(finish_ladder(ladder, "guide")) == []

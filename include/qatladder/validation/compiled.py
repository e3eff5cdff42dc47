"""The hbm rung: what the compiler says, what the board will be fed, and bit-exactness on the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.errors import ArtifactError, BrokenError
from qatladder.ladder import CheckResult, Rung, RungResult
from qatladder.ladder.checks import check_ids
from qatladder.numerics.contract import diff, from_features
from qatladder.numerics.judgement import judge
from qatladder.numerics.tensor import TensorContract, pad, quantize, unpad
from qatladder.reports.difference import difference_html
from qatladder.toolchains.base import CompileReport
from qatladder.validation.ask import Answer, Skip, ask, skip_all
from qatladder.validation.baselines import newest_passed
from qatladder.validation.context import Context
from qatladder.validation.features import arrange, feature_of, raw_names, restore
from qatladder.validation.integer import enough
from qatladder.validation.layers import with_layers
from qatladder.validation.opinion import with_second_opinion
from qatladder.validation.samples import contract_of

FRAME_SUFFIX = {"nv12": ".yuv", "gray": ".y"}
"""How the simulator tells what a raw frame is."""

ROUNDINGS = {"half_even": "half to even", "half_up": "half up", "half_away": "half away from zero"}
FIGURES = ("latency_ms", "fps", "ddr_mb", "size_mb")
GROWING = ("latency_ms", "ddr_mb", "size_mb")
MARCH_LIMITS = ("max_latency_ms", "min_fps", "max_ddr_mb", "max_size_mb")


def validate(context: Context) -> list[CheckResult]:
    reason = context.toolchain.unavailable()
    built = None if reason else context.int_result
    if built is None or "hbm" not in built.products:
        reason = reason or "there is no compiled model: the int rung left none in this run"
        return skip_all(context, check_ids(Rung.HBM), reason)
    work = _Work(context, built)
    results = [ask(context, "hbm.compile", work.compile)]
    if work.report is None:
        reason = f"the compiled model cannot be read (hbm.compile {results[0].status})"
        return results + skip_all(context, ("hbm.input", "hbm.bit_exact"), reason)
    results.append(ask(context, "hbm.input", work.input))
    results.append(ask(context, "hbm.bit_exact", work.bit_exact))
    return results


class _Work:
    """The hbm rung's steps, each using what the one before it left."""

    def __init__(self, context: Context, built: RungResult) -> None:
        self.context = context
        self.built = built
        self.report: CompileReport | None = None
        self.files: dict[str, list[Path]] = {}

    def compile(self) -> Answer:
        context, gate = self.context, self.context.target.perf
        self.hbm = context.fetch(self.built, "hbm")
        hbir = context.fetch(self.built, "hbir") if "hbir" in self.built.products else None
        report = context.toolchain.compile_report(
            context.fetch(self.built, "int"),
            self.hbm,
            hbir,
            context.folder / "report",
            context.log,
            entry=context.entry,
            target=context.target,
        )
        self.report = report
        context.facts["compile"] = asdict(report)
        context.facts["contradiction"] = report.contradiction
        context.facts["hbm_sha256"] = self.built.products["hbm"].sha256
        problems = list(report.problems)
        if report.march != context.target.march:
            problems.append(f"the hbm is compiled for {report.march}, the target is {context.target.march}")
        if len(report.cpu_operators) > gate.max_cpu_ops:
            problems.append(f"{len(report.cpu_operators)} operator(s) on the CPU: {', '.join(report.cpu_operators)}")
        limits = []
        for key in MARCH_LIMITS:
            limit = getattr(gate, key)
            if limit is None:
                continue
            bound, name = key.split("_", 1)
            value = getattr(report, name)
            limits.append(f"{name} {'<=' if bound == 'max' else '>='} {limit:g}")
            if (value > limit) if bound == "max" else (value < limit):
                problems.append(f"{name} {value:g} misses {limits[-1]}")
        growth, grown = self._growth(report)
        limits += growth
        problems += grown
        skew = self._skew(report)
        problems += skew
        where = report.operators
        computing = where.get("bpu", 0) + where.get("cpu", 0)
        share = f" ({where['cpu'] / computing:.0%})" if where.get("cpu") else ""
        placed = (
            f"{where.get('bpu', 0)} operators on the BPU, {where['cpu']} on the CPU{share}"
            if "cpu" in where
            else "operators not placed by the tools"
        )
        on_cpu = (
            f"at most {gate.max_cpu_ops} on the CPU" if "cpu" in where else "operators on the CPU not judged: the tools do not place them"
        )
        evidence = [self.built.products[role] for role in ("hbm", "perf_html", "perf_json", "log") if role in self.built.products]
        return Answer(
            not problems,
            f"{placed}; estimated latency {report.latency_ms:g} ms, "
            f"{report.fps:.0f} FPS, DDR {report.ddr_mb:.3f} MB per frame, size {report.size_mb:.3f} MB",
            "; ".join([f"every operator accepted, {on_cpu}", f"march {context.target.march}", *limits]),
            reason="; ".join(problems),
            values={
                **{key: getattr(report, key) for key in FIGURES},
                "cpu_operators": list(report.cpu_operators),
                **({"skew": True} if skew else {}),
                **({"grown": True} if grown else {}),
            },
            evidence=evidence,
        )

    def _growth(self, report: CompileReport) -> tuple[list[str], list[str]]:
        """(what the figures are held against, which grew too much), against the newest earlier compilation that passed."""
        factor = self.context.target.perf.max_growth
        if factor is None:
            return [], []
        found = newest_passed(self.context, "hbm.compile", lambda check: all(check.values.get(key) for key in FIGURES))
        if found is None:
            return [f"growth <= {factor:g} x not judged: no earlier compilation of this ladder passed; this one is the first"], []
        run, check = found
        grown = [
            f"{key} {getattr(report, key):g} is {getattr(report, key) / check.values[key]:.2f} x the {check.values[key]:g} of {run}"
            for key in GROWING
            if getattr(report, key) > factor * check.values[key]
        ]
        before = check.values["fps"]  # of several cores, or of one beside its DDR: not the latency's reciprocal
        if factor * report.fps < before:
            grown.append(f"fps {report.fps:g} is {report.fps / before:.2f} x the {before:g} of {run}")
        return [f"{', '.join(GROWING)} <= {factor:g} x those of {run}, fps >= those / {factor:g}"], grown

    def _skew(self, report: CompileReport) -> list[str]:
        """Tools of another version than the hbm was built with cannot speak for it."""
        installed = self.context.toolchain.versions()
        self.context.facts["versions"] = {"hbm": report.versions, "installed": installed}
        return [
            f"version skew: the hbm was built with {tool} {report.versions[tool]}, installed is {installed[tool]}"
            for tool in sorted(set(installed) & set(report.versions))
            if installed[tool] != report.versions[tool]
        ]

    def input(self) -> Answer:
        """Read back the very bytes that go to the simulator and the board and derive the int model's input from them."""
        context = self.context
        assert self.report is not None
        described = {item["name"]: item for item in self.built.facts["int_model"]["inputs"]}
        problems, texts = [], []
        values: dict[str, Any] = {}
        for index, spec in enumerate(context.entry.inputs):
            item = described[spec.name]
            feature = feature_of(self.report.inputs, [described[item.name]["raw_name"] for item in context.entry.inputs], index)
            drifted = diff(spec.contract(), from_features([feature])[0], ignore=("name", "layout", "layout_rt"))
            if drifted:
                values["drifted"] = True
                values[f"{spec.name} drift"] = {field: [str(side) for side in sides] for field, sides in drifted.items()}
                problems.append(f"{spec.name}: the contract drifted: {drift_text('entry', 'hbm', drifted)}")
            raw = np.load(context.fetch(self.built, f"raw/{item['raw_name']}"))
            if spec.source != "ddr":
                frames = np.load(context.fetch(self.built, f"runtime/{spec.name}"))
                files = board_files = _write(frames, context.folder / "runtime", spec.name, FRAME_SUFFIX[spec.type_rt])
                read = np.stack([np.fromfile(path, np.uint8).reshape(frames.shape[1:]) for path in files[: len(raw)]])
                derived = restore(contract_of(spec).intermediate(read), raw.shape)
                how = f"{spec.type_rt} {frames[0].nbytes} bytes -> {contract_of(spec).intermediate_type}"
            else:
                integers = np.load(context.fetch(self.built, f"fed/{spec.name}"))
                how = contract_of(spec).intermediate_type
                if not spec.is_image and item["scale"]:  # an hbm of nash quantises a featuremap itself
                    integers = quantize(
                        integers, item["scale"], context.toolchain.rounding, bits=8 * np.dtype(feature.dtype).itemsize, axis=1
                    )
                    how = f"quantised by {item['scale'][0]:.6g} ({ROUNDINGS[context.toolchain.rounding]})"
                arranged = arrange(integers, feature)
                padded = [pad(sample, feature.stride[1:], feature.byte_size, spec.name) for sample in arranged]
                files = _write(arranged, context.folder / "valid", spec.name)
                board_files = _write(padded, context.folder / "runtime", spec.name)
                back = [
                    unpad(path.read_bytes(), feature.dtype, feature.valid_shape[1:], feature.stride[1:], feature.byte_size, spec.name)
                    for path in board_files[: len(raw)]
                ]
                derived = restore(np.stack(back), raw.shape)
                how += f", padded {list(feature.valid_shape)} -> {feature.byte_size} bytes"
            self.files[feature.name] = files
            bundle = np.stack([np.fromfile(path, np.uint8) for path in board_files])
            bundle_file = context.folder / f"{spec.name}.board.npy"
            np.save(bundle_file, bundle)
            context.keep(f"board/{spec.name}", bundle_file, "board.npy")
            judged = judge(raw, derived, spec.name)
            texts.append(f"{spec.name}: {how}: {judged.differing}")
            values[spec.name] = judged.to_json()
            if not judged:
                values.setdefault("fingerprint", judged.fingerprint.cause)
                problems.append(
                    f"{spec.name}: the runtime bytes are not the int model's input: {judged.reason}; looks like: {judged.fingerprint}"
                )
        return Answer(
            not problems,
            "; ".join(texts),
            "the int model's input integers, derived from the runtime bytes: 0 differ",
            reason="; ".join(problems),
            values=values,
            evidence=[context.products[f"board/{spec.name}"] for spec in context.entry.inputs],
        )

    def bit_exact(self) -> Answer:
        context = self.context
        assert self.report is not None
        if len(self.files) != len(context.entry.inputs):
            raise Skip("the runtime input could not be made (see hbm.input)")
        simulated = context.toolchain.simulate(self.hbm, self.files, context.folder / "simulate", context.log)
        answer = bit_exact(context, self.built, simulated, self.report.outputs, "simulator", self.report.contradiction)
        answer = with_second_opinion(context, answer, self.built, self.hbm)
        if answer.passed and not context.ladder.get("layers"):
            return answer
        return with_layers(context, answer, self.built, self.hbm, self.files, self._differing(simulated))

    def _differing(self, simulated: dict[str, Path]) -> int:
        """The first compared sample of which an output differs; 0 when none does."""
        assert self.report is not None
        differing = []
        for index, item in enumerate(self.built.facts["int_model"]["outputs"]):
            expected = np.load(self.context.fetch(self.built, f"raw/{item['raw_name']}"))
            found = restore(np.load(simulated[feature_of(self.report.outputs, raw_names(self.built), index).name]), expected.shape)
            unequal = np.flatnonzero((expected != found).reshape(len(expected), -1).any(1))
            differing += [int(unequal[0])] if unequal.size else []
        return min(differing, default=0)


def bit_exact(
    context: Context, built: RungResult, found: dict[str, Path], features: tuple[TensorContract, ...], where: str, contradiction: str
) -> Answer:
    """Compare raw integers with the int model's, output by output, over all compared samples.

    Samples cannot see every changed weight, so the compiled model must also provably come from the int model.

    Args:
        found: [N, ...] .npy of valid integers per hbm output feature.
        where: who produced them, for the words.
        contradiction: see `CompileReport`.
    """
    problems, texts, evidence = [], [], []
    values: dict[str, Any] = {}
    differing = 0
    for index, item in enumerate(built.facts["int_model"]["outputs"]):
        feature = feature_of(features, raw_names(built), index)
        path = found.get(feature.name)
        if path is None:
            raise BrokenError("an output has no dump", kind="dump_missing", output=feature.name, found=sorted(found))
        expected, answered = np.load(context.fetch(built, f"raw/{item['raw_name']}")), np.load(path)
        count = enough(context, len(expected))
        if len(answered) != len(expected):
            raise BrokenError("dumps are missing", kind="dump_missing", output=feature.name, expected=len(expected), found=len(answered))
        answered = restore(answered, expected.shape)
        if answered.dtype != expected.dtype:
            raise ArtifactError(
                "the integers have another type than the int model's", output=feature.name, expected=expected.dtype, found=answered.dtype
            )
        judged = judge(expected, answered, feature.name)
        evidence += [built.products[f"raw/{item['raw_name']}"], context.keep(f"{where}/{item['raw_name']}", path, f"{where}.npy")]
        texts.append(f"{item['name']}: {judged.differing}")
        values[item["name"]] = judged.to_json()
        if not judged:
            differing += 1
            values.setdefault("fingerprint", judged.fingerprint.cause)
            problems.append(f"{item['name']}: {judged.reason}; looks like: {judged.fingerprint}")
            page = context.folder / f"{where}_{index}_difference.html"
            page.write_text(difference_html(judged, expected, answered, (f"int {item['name']}", where)), encoding="utf-8")
            evidence.append(context.keep(f"{where}/{item['raw_name']}/difference", page, "difference.html"))
    if contradiction:
        problems.append(f"the hbm was not compiled from this int model: {contradiction}")
    values.update(all_outputs=differing == len(texts), same_origin=not contradiction)
    origin = "not compiled from this int model" if contradiction else "compiled from this int model"
    return Answer(
        not problems,
        f"{'; '.join(texts)} on {count} samples; {origin}",
        "0 integers differ, no tolerance; hbm compiled from exactly this int model",
        "; ".join(problems),
        values,
        evidence,
    )


def drift_text(expected: str, found: str, drifted: Mapping[str, tuple[Any, Any]]) -> str:
    """`source: the entry states pyramid, the hbm ddr; ...`."""
    return "; ".join(f"{field}: the {expected} states {ours}, the {found} {theirs}" for field, (ours, theirs) in drifted.items())


def _write(samples: Any, folder: Path, name: str, suffix: str = ".bin") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index, sample in enumerate(samples):
        path = folder / f"{name}_{index:04d}{suffix}"
        path.write_bytes(sample if isinstance(sample, bytes) else np.ascontiguousarray(sample).tobytes())
        files.append(path)
    return files

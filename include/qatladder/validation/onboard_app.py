"""The user's own program on the board: does it feed the model what hrt_model_exec was fed, and make of the outputs what Python makes?

What the program dumped comes home from a run of ours (`command`, on this run's samples) or from a folder it has filled by itself
(`dump_dir`). In a run of ours the number in a dump's name is the sample; in a folder of its own the input dump says which sample it is,
and outputs are judged only where the input is one that hrt_model_exec was fed, byte for byte. The stages of an output are judged in the
order in which a program makes them, so that the first one that parts is where the mistake is.
"""

from __future__ import annotations

import json
import re
import shlex
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qatladder.errors import ArtifactError, BrokenError, ConfigError, QATLadderError
from qatladder.evidence.store import safe_name, sha256_file
from qatladder.ladder import Evidence, RungResult
from qatladder.numerics.contract import InputContract, from_features, merge, nv12_tensor
from qatladder.numerics.dumps import read_tensor
from qatladder.numerics.fingerprint import Fingerprint
from qatladder.numerics.forms import Proof, prove
from qatladder.numerics.judgement import Judgement, judge
from qatladder.numerics.tensor import TensorContract
from qatladder.reports.difference import difference_html
from qatladder.validation.app_outputs import STAGES, Outputs, expectation, said
from qatladder.validation.ask import Answer, Skip, Unprovable
from qatladder.validation.context import Context
from qatladder.validation.features import feature_of
from qatladder.zoo.schema import AppInput, InputSpec, OnBoard

Array = NDArray[Any]

MAX_BYTES = 1 << 30
"""Most that is brought home of a `dump_dir`."""

LOOKED_AT = 3
"""Inputs that differ whose cause is looked for."""


class Programs(Protocol):
    """What is asked of a board; `qatladder.boards.device.Board` answers."""

    def run_program(self, files: Mapping[str, Path], argv: Sequence[str], out_dir: Path, timeout: float) -> Path: ...

    def fetch_folder(self, remote: str, out_dir: Path, newer_than: float | None, max_bytes: int) -> Path: ...


class App:
    """The on-board program of one ladder: `input` first, then `output`.

    Args:
        built, compiled: results of the int and the hbm rung.
        board: where it runs, or has run.
        hbm: the compiled model.
    """

    def __init__(self, context: Context, program: OnBoard, built: RungResult, compiled: RungResult, board: Programs, hbm: Path) -> None:
        self.context = context
        self.program = program
        self.built = built
        self.compiled = compiled
        self.board = board
        self.hbm = hbm
        self.frames: list[int] = []
        self.pages: dict[str, Evidence] = {}
        self.place = Path(tempfile.mkdtemp(prefix="app-", dir=context.folder))  # its own, as a second board may be asked the same
        self.sample_of: dict[int, int] = {}
        """Sample by frame, of the frames whose inputs are those of hrt_model_exec."""

    # --- what went in ------------------------------------------------------------------------------------------------------

    def input(self) -> Answer:
        """Check board.app_input. Keeps the dumps for `output`."""
        context = self.context
        self.folder = self._pull()
        context.keep("app_dumps", archive(self.folder, self.place / "app_dumps.tar"))
        fed = [_Input(context, self.built, self.compiled, item) for item in self.program.inputs]
        files = {item.name: find(self.folder, item.pattern) for item in self.program.inputs}
        self.frames = sorted(set().union(*files.values()))
        if self.program.command:
            self.frames = list(range(fed[0].count))
        elif not self.frames:
            raise _dumps("the dump folder holds no input dump", folder=self.program.dump_dir, expected=self.program.inputs[0].pattern)
        for item in self.program.inputs:
            self._complete(item.name, item.pattern, files[item.name])
        known = {tuple(item.valid[sample].tobytes() for item in fed): sample for sample in reversed(range(fed[0].count))}
        problems: list[str] = []
        causes: list[Fingerprint] = []
        for frame in self.frames:
            paths = [files[item.name][frame] for item in self.program.inputs]
            found, problem = _read_inputs(fed, paths)
            sample = frame if self.program.command else known.get(tuple(array.tobytes() for array in found), -1)
            if not problem and sample >= 0 and all(np.array_equal(item.valid[sample], got) for item, got in zip(fed, found, strict=True)):
                self.sample_of[frame] = sample
            elif len(causes) < LOOKED_AT:
                text, cause = problem or self._parted(fed, found, frame if self.program.command else None, known)
                causes.append(cause)
                problems.append(f"frame {frame}: {text}")
        equal, count = len(self.sample_of), len(self.frames)
        if problems and not self.program.command and not any(cause.cause != "none" for cause in causes):
            raise Unprovable(
                f"{count - equal} of {count} dumped inputs are like no sample of this run, so nothing shows whether they are right; "
                "let the program run on the samples of the board rung only"
            )
        cause = next((item for item in causes if item.cause != "none"), Fingerprint("none", 0.0))
        return Answer(
            equal == count,
            f"{equal} of {count} frames: every input byte for byte what hrt_model_exec was fed",
            "all of them, padding aside, no tolerance",
            "; ".join(problems),
            {"frames": count, "equal": equal, "fingerprint": cause.cause, "detail": cause.detail},
            [context.products["app_dumps"], *self.pages.values()],
        )

    def _pull(self) -> Path:
        """The program's dumps, in a local folder."""
        context, program, out = self.context, self.program, self.place / "dumps"
        if program.dump_dir is not None:
            newest = time.time() - 3600 * program.max_age_hours
            return self.board.fetch_folder(program.dump_dir, out, newest, MAX_BYTES)
        files: dict[str, Path] = {}
        for file in program.files:
            path = context.zoo.folder / file
            if not path.is_file():
                raise ConfigError("a file of the on-board program does not exist", model=context.entry.model, file=path)
            files[path.name] = path
        context.facts["onboard_files"] = {name: sha256_file(path)[0] for name, path in files.items()}
        samples = self._samples()
        ours = {"model.hbm": self.hbm, **{name: self.place / name for name in ("model.json", "program.sh")}}
        ours["model.json"].write_text(json.dumps(self.built.facts["int_model"], indent=1))
        ours["program.sh"].write_text(_script(program.command, sorted(files), len(samples)))
        files |= ours
        for sample in samples:
            files |= sample
        return self.board.run_program(files, ["sh", "program.sh"], out, 60 * program.timeout_minutes)

    def _samples(self) -> list[dict[str, Path]]:
        """Per sample the files that hold its inputs as the world delivers them: pictures as .ppm, featuremaps as raw bytes."""
        folder = self.place / "inputs"
        folder.mkdir()
        samples: list[dict[str, Path]] = []
        for spec in self.context.entry.inputs:
            for number, values in enumerate(self._delivered[spec.name]):
                name = f"{safe_name(spec.name)}_{number}.{'ppm' if spec.is_image else 'bin'}"
                head = f"P6\n{values.shape[1]} {values.shape[0]}\n255\n".encode() if spec.is_image else b""
                (folder / name).write_bytes(head + np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
                if len(samples) == number:
                    samples.append({})
                samples[number][f"{folder.name}/{name}"] = folder / name
        return samples

    @cached_property
    def _delivered(self) -> dict[str, Array]:
        """The board's samples before any preprocessing, by input; of images proven to be those the board was fed.

        Raises:
            BrokenError: kind `samples_changed`.
        """
        context = self.context
        bundles = {spec.name: np.load(context.fetch(self.compiled, f"board/{spec.name}")) for spec in context.entry.inputs}
        count = len(next(iter(bundles.values())))
        exported = context.model_job(
            "export_samples", {"split": "evaluation", "limit": count, "out": str(context.folder / "app_raw")}, "app_export"
        )
        delivered = {name: np.load(path) for name, path in exported["inputs"].items()}
        for spec in context.entry.inputs:
            if spec.source != "ddr" and not np.array_equal(
                spec.contract().runtime(delivered[spec.name]).reshape(count, -1), bundles[spec.name]
            ):
                raise BrokenError(
                    "the adapter gives other pictures now than when the int model was fed",
                    kind="samples_changed",
                    model=context.entry.model,
                    input=spec.name,
                    next_step="make `samples` give the same pictures every time, then run all rungs again",
                )
        return delivered

    def _complete(self, name: str, pattern: str, files: dict[int, Path]) -> None:
        """Every frame has its dump, and no dump is of another frame."""
        missing, extra = sorted(set(self.frames) - set(files)), sorted(set(files) - set(self.frames))
        for frames, what in (
            (missing, "dumps of the on-board program are missing"),
            (extra, "the on-board program dumped frames of no input"),
        ):
            if frames:
                raise _dumps(
                    what,
                    dump=name,
                    pattern=pattern,
                    expected=f"frames {_few(self.frames)}",
                    found=f"{'no' if frames is missing else 'also'} frames {_few(frames)}",
                )

    def _parted(
        self, fed: Sequence[_Input], found: Sequence[Array], sample: int | None, known: Mapping[tuple[bytes, ...], int]
    ) -> tuple[str, Fingerprint]:
        """What is wrong with inputs that are not those of a sample, or of the sample that comes nearest."""
        if sample is None:
            sample = min(range(fed[0].count), key=lambda k: sum(item.distance(k, got) for item, got in zip(fed, found, strict=True)))
        item, got = next((item, got) for item, got in zip(fed, found, strict=True) if not np.array_equal(item.valid[sample], got))
        judged = judge(item.valid[sample], got, item.spec.name)
        self._picture(item.spec.name, judged, item.valid[sample], got, ("hrt_model_exec", "program"))
        cause = judged.fingerprint
        other = known.get(tuple(array.tobytes() for array in found))
        if other is not None:
            cause = Fingerprint("stale", 1.0, f"the input is that of sample {other}")
            return f"{item.spec.name}, against sample {sample}: {judged.reason}; looks like: {cause}", cause
        try:
            delivered = self._delivered[item.spec.name] if item.spec.is_image else item.training
            step = item.prove(delivered[sample : sample + 1], got).parted
            if step is not None and step.cause is not None:
                cause = step.cause
        except BrokenError:
            raise
        except QATLadderError as error:  # too little is stated for a proof: what the difference looks like remains
            self.context.log(str(error))
        return f"{item.spec.name}, against sample {sample}: {judged.reason}; looks like: {cause}", cause

    def _picture(self, name: str, judged: Judgement, expected: Array, found: Array, sides: tuple[str, str]) -> None:
        """Keep a page that shows a difference; the first of each name."""
        if name not in self.pages:
            page = self.place / f"{safe_name(name)}_difference.html"
            page.write_text(difference_html(judged, expected, found, sides), encoding="utf-8")
            self.pages[name] = self.context.keep(f"app/{name}/difference", page, "difference.html")

    # --- what came out -----------------------------------------------------------------------------------------------------

    def output(self, raw: Mapping[str, Path], features: Sequence[TensorContract]) -> Answer:
        """Check board.app_output.

        Args:
            raw: per feature of the model the integers hrt_model_exec dumped, .npy [N, *valid shape].
            features: what the board states of these.
        """
        context = self.context
        if not self.sample_of:
            raise Skip("no input of the program is proven to be one hrt_model_exec was fed (see board.app_input)")
        outputs = Outputs(context, self.built, raw, tuple(features))
        frames = sorted(self.sample_of)
        samples = [self.sample_of[frame] for frame in frames]
        if max(samples) >= outputs.count:
            raise BrokenError("hrt_model_exec has dumped fewer samples than it was fed", kind="dump_missing", found=outputs.count)
        self.pages = {}
        texts, problems, doubts = [], [], []
        values: dict[str, Any] = {"frames": len(frames), "of": len(self.frames)}
        for item in sorted(self.program.outputs, key=lambda item: STAGES.index(item.stage)):
            files = find(self.folder, item.pattern)
            self._complete(item.name, item.pattern, files)
            label = f"{item.name} {item.stage}"
            found = outputs.judge(item, samples, [files[frame] for frame in frames])
            texts.append(f"{label}: {found.agree} of {len(frames)} frames agree")
            values[label] = {"agree": found.agree, "frames": len(frames)}
            if found.cause is not None:
                problems.append(f"{label}: frame {frames[found.place]}: {found.reason}; looks like: {found.cause}")
                if "stage" not in values:  # the first stage that parts is where the mistake is
                    values.update(stage=item.stage, fingerprint=found.cause.cause, detail=found.cause.detail)
                if found.tensors is not None:
                    judged = judge(*found.tensors, item.name)
                    self._picture(label, judged, *found.tensors, ("expected", "program"))
            elif found.reason:
                doubts.append(f"{label}: frame {frames[found.place]}: {found.reason}")
        if doubts and not problems:
            raise Unprovable("; ".join(doubts))
        unlike = len(self.frames) - len(frames)
        return Answer(
            not problems,
            "; ".join(texts) + (f"; {unlike} frames left out, whose inputs differ" if unlike else ""),
            "; ".join(expectation(item) for item in self.program.outputs),
            "; ".join(problems),
            values,
            [context.products["app_dumps"], *self.pages.values()],
        )


# --- inputs ------------------------------------------------------------------------------------------------------------------


class _Input:
    """One input of the model, as hrt_model_exec was fed it on all samples.

    Attributes:
        tensor: how the program's dump holds it.
        valid: [N, *valid shape], without padding.
    """

    def __init__(self, context: Context, built: RungResult, compiled: RungResult, item: AppInput) -> None:
        self.spec: InputSpec = next(spec for spec in context.entry.inputs if spec.name == item.name)
        described = {each["name"]: each for each in built.facts["int_model"]["inputs"]}
        features = tuple(_feature(each) for each in compiled.facts["compile"]["inputs"])
        position = [spec.name for spec in context.entry.inputs].index(item.name)
        self.feature = feature_of(features, [described[spec.name]["raw_name"] for spec in context.entry.inputs], position)
        self.scale = tuple(described[item.name]["scale"] or ())
        self.fed = context.fetch(built, f"fed/{item.name}")
        bundle: Array = np.load(context.fetch(compiled, f"board/{item.name}"))
        self.count = len(bundle)
        self.stride = item.stride
        if self.spec.source == "ddr":
            self.tensor = self.feature
            self.valid = np.stack([self.feature.unpad(row.tobytes()) for row in bundle])
        else:
            height, width = self.spec.height_width
            self.tensor = (
                nv12_tensor(item.name, height, width, item.stride or 0)
                if self.spec.type_rt == "nv12"
                else TensorContract(item.name, "uint8", (1, height, width))
            )
            self.valid = bundle.reshape(self.count, *self.tensor.valid_shape)

    @property
    def training(self) -> Array:
        """[N, ...] training tensors of a featuremap."""
        array: Array = np.load(self.fed)
        return array

    def distance(self, sample: int, found: Array) -> float:
        return float(np.abs(self.valid[sample].astype(np.float64) - found).mean())

    def contract(self) -> InputContract:
        if self.spec.source != "ddr":
            return self.spec.contract()
        stated = replace(self.feature, scale=self.scale) if self.scale and not self.feature.scale else self.feature
        return merge(self.spec.contract(), from_features([stated])[0])

    def prove(self, delivered: Array, found: Array) -> Proof:
        """The found values of one sample, held against what the world delivered of it."""
        contract = self.contract()
        if not self.spec.is_image:
            integers = contract.unpack([self.feature.pad(found)], contract.quantise(delivered))
            return prove(contract, delivered, intermediate=integers)
        if self.spec.source == "ddr":
            return prove(contract, delivered, runtime=[self.feature.pad(found)])
        return prove(contract, delivered, runtime=found.reshape(contract.runtime(delivered).shape))


def _feature(item: dict[str, Any]) -> TensorContract:
    """A `TensorContract` that has been JSON."""
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
    return TensorContract(**fields)


def _read_inputs(fed: Sequence[_Input], paths: Sequence[Path]) -> tuple[list[Array], tuple[str, Fingerprint] | None]:
    """A frame's inputs without padding, or why a dump cannot be one of them."""
    found = []
    for item, path in zip(fed, paths, strict=True):
        try:
            found.append(np.array(read_tensor(path, item.tensor, padded=bool(item.stride) or None).array))
        except ArtifactError as error:
            cause = _other_size(item, path)
            return [], (f"{item.spec.name}, {path.name}: {said(error)}; looks like: {cause}", cause)
    return found, None


def _other_size(item: _Input, path: Path) -> Fingerprint:
    """Why a dump of an input has another size."""
    size, valid = path.stat().st_size, item.valid[0].nbytes
    if item.spec.type_rt == "nv12":
        height, width = item.spec.height_width
        rows = height * 3 // 2
        if size > valid and size % rows == 0:
            inner = np.fromfile(path, np.uint8).reshape(1, rows, -1)[..., :width]
            if any(np.array_equal(inner, sample) for sample in item.valid):
                return Fingerprint("padding", 1.0, f"rows are {size // rows} bytes long: state stride: {size // rows}")
        if size == 3 * height * width:
            return Fingerprint("type", 1.0, "3 bytes a pixel: RGB, BGR or YUV444, not NV12")
        if size == height * width:
            return Fingerprint("type", 1.0, "1 byte a pixel: the chroma of the NV12 frame is missing")
    if size == 4 * item.tensor.valid_count != valid:
        return Fingerprint("type", 1.0, "float32: the input is not quantised")
    return Fingerprint("size", 1.0, "the dump is cut" if size < valid else "the dump is of another tensor")


# --- files -------------------------------------------------------------------------------------------------------------------


def find(folder: Path, pattern: str) -> dict[int, Path]:
    """Dumps by the number of their frame.

    Raises:
        BrokenError: kind `app_dumps`: two files are of one frame.
    """
    parts = re.split(r"(\{sample\}|\*)", pattern)
    expression = re.compile("".join({"{sample}": r"(\d+)", "*": r"[^/]*"}.get(part, re.escape(part)) for part in parts))
    found: dict[int, Path] = {}
    for path in sorted(folder.rglob("*")):
        match = expression.fullmatch(path.relative_to(folder).as_posix())
        if match is None or not path.is_file():
            continue
        frame = int(match.group(1))
        if frame in found:
            raise _dumps(
                "two dumps of the on-board program are of one frame",
                pattern=pattern,
                expected=f"one of frame {frame}",
                found=f"{found[frame].relative_to(folder)}, {path.relative_to(folder)}",
            )
        found[frame] = path
    return found


def archive(folder: Path, target: Path) -> Path:
    """A folder as one file, reproducible: no times, no owners."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
        return info

    with tarfile.open(target, "w") as tar:
        tar.add(folder, folder.name, filter=plain)
    return target


def _script(command: Sequence[str], files: Sequence[str], count: int) -> str:
    """The shell script that runs the user's command: once, or once per sample."""

    def line(sample: int) -> str:
        values = {"{model}": "model.hbm", "{inputs}": "inputs", "{out}": "out", "{sample}": str(sample)}
        words = [re.sub(r"\{\w+\}", lambda match: values[match.group()], word) for word in command]
        return shlex.join(words)

    each = any("{sample}" in word for word in command)
    executable = [f"chmod +x {shlex.join(files)}"] if files else []
    return "\n".join(["#!/bin/sh", "set -e", *executable, *(line(sample) for sample in range(count if each else 1))]) + "\n"


def _dumps(message: str, **where: Any) -> BrokenError:
    return BrokenError(
        message,
        kind="app_dumps",
        next_step="let the program dump every input and output of every frame once, into an empty folder; compare the patterns of the entry",
        **where,
    )


def _few(frames: Sequence[int]) -> str:
    shown = ", ".join(map(str, frames[:5]))
    return f"{shown} ... ({len(frames)} in all)" if len(frames) > 5 else shown

"""What has to be in the dumps of an on-board program: at each stage of its post-processing, and what known mistakes make of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qatladder.errors import ArtifactError, BrokenError, ConfigError, QATLadderError
from qatladder.ladder import RungResult
from qatladder.numerics.compare import compare
from qatladder.numerics.dumps import Dump, read_tensor
from qatladder.numerics.fingerprint import Fingerprint, fingerprint
from qatladder.numerics.judgement import describe, judge_text
from qatladder.numerics.tensor import TensorContract, dequantize
from qatladder.validation.context import Context
from qatladder.validation.features import arrange, feature_of, raw_names, restore
from qatladder.validation.finish import dequantised, outputs
from qatladder.zoo.schema import AppOutput, Tolerance

Array = NDArray[Any]

STAGES = ("raw", "dequantised", "postprocessed")
"""In the order in which a program makes them."""


@dataclass(frozen=True)
class Found:
    """What the dumps of one result are.

    Attributes:
        agree: frames that agree.
        place: the first frame that does not.
        reason: why not; empty when all agree.
        cause: what a difference looks like; None where nothing differs, but too few digits show it.
        tensors: what was expected and found of all frames, where they can be compared.
    """

    agree: int
    place: int = 0
    reason: str = ""
    cause: Fingerprint | None = None
    tensors: tuple[Array, Array] | None = None


@dataclass
class Outputs:
    """What hrt_model_exec made of the samples, at every stage a program may dump."""

    context: Context
    built: RungResult
    raw: Mapping[str, Path]
    features: tuple[TensorContract, ...]

    def __post_init__(self) -> None:
        self.items: list[dict[str, Any]] = self.built.facts["int_model"]["outputs"]
        self.of = {item["name"]: feature_of(self.features, raw_names(self.built), index) for index, item in enumerate(self.items)}
        missing = [feature.name for feature in self.of.values() if feature.name not in self.raw]
        if missing:
            raise BrokenError("an output has no dump of hrt_model_exec", kind="dump_missing", output=missing[0])
        # [N, *valid shape without the batch axis]
        self.integers = {
            name: (array := np.load(self.raw[feature.name])).reshape(len(array), *feature.valid_shape[1:])
            for name, feature in self.of.items()
        }
        self.count = min(len(array) for array in self.integers.values())
        self._known: dict[str, list[Any]] = {}

    def judge(self, item: AppOutput, samples: Sequence[int], files: Sequence[Path]) -> Found:
        """Hold the dumps of one result against what they have to be.

        Args:
            samples, files: sample and dump of each frame.
        """
        every = self._expected(item)
        expected = [every[sample] for sample in samples]
        dumps = [self._read(item, path, array) for path, array in zip(files, expected, strict=True)]
        step = self._step(item)
        held = [
            _held(array, dump, item, step) if isinstance(dump, Dump) else ("failed", dump)
            for array, dump in zip(expected, dumps, strict=True)
        ]
        statuses = [status for status, _ in held]
        agree = statuses.count("passed")
        place = next((statuses.index(status) for status in ("failed", "unprovable") if status in statuses), None)
        if place is None:
            return Found(agree)
        if "failed" not in statuses:
            return Found(agree, place, held[place][1])
        read = [dump for dump in dumps if isinstance(dump, Dump)]
        if len(read) < len(dumps):
            return Found(agree, place, held[place][1], Fingerprint("size", 1.0))
        cause = self._cause(item, samples, expected, read)
        alike = item.stage != "postprocessed" and all(dump.array.shape == array.shape for dump, array in zip(read, expected, strict=True))
        tensors = (np.stack(expected), np.stack([dump.array for dump in read])) if alike else None
        return Found(agree, place, held[place][1], cause, tensors)

    def _step(self, item: AppOutput) -> float:
        """The scale of a dequantised output, where there is one for all elements; else 0."""
        scale: Sequence[float] = self._described(item)["scale"] or () if item.stage == "dequantised" else ()
        return float(scale[0]) if len(scale) == 1 else 0.0

    def _described(self, item: AppOutput) -> dict[str, Any]:
        found = next((each for each in self.items if each["name"] == item.name), None)
        if found is None:
            raise ConfigError(
                "the on-board program dumps an output the model does not have",
                model=self.context.entry.model,
                found=item.name,
                expected=" | ".join(each["name"] for each in self.items),
                next_step="correct `name` under `onboard.outputs` of the zoo entry",
            )
        return found

    def _expected(self, item: AppOutput) -> list[Array]:
        """Per sample what a dump has to hold, in the shape it is declared to have."""
        if item.stage == "postprocessed":
            return [
                _numbers(prediction, item) for prediction in self._predictions(self._outputs(self.integers, "app_outputs"), "app_predict")
            ]
        self._described(item)
        arrays = self.integers if item.stage == "raw" else self._as_dumped(self._dequantised(self.integers))
        return self._shaped(item, arrays[item.name])

    def _shaped(self, item: AppOutput, array: Array) -> list[Array]:
        """Per sample the array in the declared shape: with axes of 1 added or left out, or with the channels at the other end."""
        if not item.shape:
            return list(array)
        batched = len(item.shape) == len(self.of[item.name].valid_shape) and item.shape[0] == 1
        wanted = (len(array), *(item.shape[1:] if batched else item.shape))
        for axes in ((0, 2, 3, 1), (0, 3, 1, 2)):
            if array.shape != wanted and array.ndim == 4 and tuple(array.shape[axis] for axis in axes) == wanted:
                return list(np.ascontiguousarray(array.transpose(axes)))
        if [size for size in array.shape if size != 1] == [size for size in wanted if size != 1]:
            return list(array.reshape(wanted))
        raise ConfigError(
            "a dump's shape is no layout of the output",
            model=self.context.entry.model,
            output=item.name,
            expected=list(self.of[item.name].valid_shape),
            found=list(item.shape),
            next_step="correct `shape` under `onboard.outputs` of the zoo entry",
        )

    def _dequantised(self, integers: Mapping[str, Array]) -> dict[str, Array]:
        """float32 [N, ...] in the shapes of the model's outputs."""
        return dequantised(self.built, integers)

    def _outputs(self, integers: Mapping[str, Array], name: str) -> dict[str, Array]:
        """What the adapter's postprocess takes."""
        return outputs(self.context, self.built, integers, name)

    def _as_dumped(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """The same in the order of axes in which the board holds the integers."""
        found = {}
        for item in self.items:
            array = values[item["name"]].reshape(self.count, *item["raw_shape"][1:])
            found[item["name"]] = arrange(array, self.of[item["name"]]).reshape(self.integers[item["name"]].shape)
        return found

    def _predictions(self, values: Mapping[str, Array], name: str) -> list[Any]:
        """The adapter's postprocess of these outputs; asked once."""
        if name not in self._known:
            files = {}
            for index, (output, array) in enumerate(values.items()):
                files[output] = str(self.context.folder / f"{name}_{index}.npy")
                np.save(files[output], array)
            answer = self.context.model_job("predict", {"outputs": files, "out": str(self.context.folder / name)}, f"{name}_job")
            self._known[name] = json.loads(Path(answer["predictions"]).read_text(encoding="utf-8"))
        return self._known[name]

    def _read(self, item: AppOutput, path: Path, expected: Array) -> Dump | str:
        """A dump of the program, or why it cannot be one of this output."""
        try:
            if item.stage == "postprocessed":
                return _read_result(item, path, expected)
            feature = self.of[item.name]
            if item.shape:
                feature = TensorContract(item.name, feature.dtype, expected.shape)
            dtype = item.dtype or ("float32" if item.stage == "dequantised" else feature.dtype)
            dump = read_tensor(path, feature, dtype=dtype, finite=False)  # a NaN is an answer, not a file that cannot be read
        except ArtifactError as error:
            return f"{path.name}: {said(error)}"
        return replace(
            dump,
            array=dump.array.reshape(expected.shape),
            numbers=None if dump.numbers is None else dump.numbers.reshape(expected.shape),
        )

    def _cause(self, item: AppOutput, samples: Sequence[int], expected: Sequence[Array], dumps: Sequence[Dump]) -> Fingerprint:
        """The known mistake that makes what the program dumped of all frames, else what the difference looks like."""
        for name, detail, made, known in self._mistakes(item):
            if all(_agrees(made[sample], dump, item, known) for sample, dump in zip(samples, dumps, strict=True)):
                return Fingerprint(name, 1.0, detail)
        found = [dump.array for dump in dumps]
        if not any(array.any() for array in found):
            return Fingerprint("all_zero", 1.0)
        if item.stage != "postprocessed":
            if not all(np.isfinite(array).all() for array in found):
                return Fingerprint("none", 0.0)
            return fingerprint(np.stack(expected), np.stack(found), step=self._step(item))
        # Results are too few numbers for the shape of a difference to say much.
        for which, ours, theirs in (("previous", expected[:-1], dumps[1:]), ("next", expected[1:], dumps[:-1])):
            if theirs and all(_agrees(array, dump, item) for array, dump in zip(ours, theirs, strict=True)):
                return Fingerprint("stale", 1.0, f"the results are those of the {which} frame")
        return Fingerprint("none", 0.0)

    def _mistakes(self, item: AppOutput) -> Iterator[tuple[str, str, list[Array], Array | None]]:
        """The mistakes programs make with this stage: cause, detail, what it makes of every sample, and where that is known.

        It is not known where a program takes padding for elements, as nobody says what is in the padding.
        """
        padded = {name: _dense(array, self.of[name]) for name, array in self.integers.items()}
        as_padded = "the aligned buffer is read as if it held no padding"
        plain = "the integers are taken as they are, without their scale"
        if item.stage == "postprocessed":
            yield from self._mistaken_results(item, padded, as_padded, plain)
            return
        integers = self.integers[item.name]
        known = self._shaped(item, _dense(np.ones_like(integers[:1]), self.of[item.name]))[0] != 0
        if item.stage == "raw":
            yield "padding", as_padded, self._shaped(item, padded[item.name]), known
            return
        yield "not_dequantised", plain, self._shaped(item, integers.astype(np.float32)), None
        if integers.dtype.itemsize == 4:
            yield "not_dequantised", "the bits of the integers are taken for floats", self._shaped(item, integers.view(np.float32)), None
        yield "padding", as_padded, self._shaped(item, self._as_dumped(self._dequantised(padded))[item.name]), known
        yield "not_dequantised", f"{plain}, and {as_padded}", self._shaped(item, padded[item.name].astype(np.float32)), known
        scale = self._described(item)["scale"] or ()
        if len(scale) > 1:
            yield "scale", "the first channel's scale is used for all", self._shaped(item, dequantize(integers, scale[:1])), None

    def _mistaken_results(
        self, item: AppOutput, padded: Mapping[str, Array], as_padded: str, plain: str
    ) -> Iterator[tuple[str, str, list[Array], None]]:
        """What the adapter makes of outputs as a program has them that made a mistake on the way."""
        variants: tuple[tuple[str, str, dict[str, Array]], ...] = (
            ("not_dequantised", plain, self._plain(self.integers)),
            ("padding", as_padded, self._outputs(padded, "app_padded")),
            ("not_dequantised", f"{plain}, and {as_padded}", self._plain(padded)),
            ("transposed", "channels are taken for the last axis where they are the first, or the reverse", self._exchanged()),
        )
        for number, (cause, detail, values) in enumerate(variants):
            try:
                predictions = self._predictions(values, f"app_predict_{number}")
                yield cause, detail, [_numbers(prediction, item) for prediction in predictions], None
            except BrokenError:
                raise
            except QATLadderError as error:  # the adapter can make nothing of such outputs, so the program has not made this mistake
                self.context.log(str(error))

    def _plain(self, integers: Mapping[str, Array]) -> dict[str, Array]:
        """float32 of the integers, in the shapes of the model's outputs."""
        values = {}
        for item in self.items:
            array = restore(integers[item["name"]], (self.count, *item["raw_shape"][1:]))
            values[item["name"]] = array.astype(np.float32).reshape(self.count, *item["shape"][1:])
        return values

    def _exchanged(self) -> dict[str, Array]:
        """The memory of outputs [N, C, H, W] read as [N, H, W, C]."""
        found = {}
        for name, array in self._dequantised(self.integers).items():
            count, *sizes = array.shape
            last = array.reshape(count, *sizes[1:], sizes[0]) if array.ndim == 4 else array
            found[name] = np.ascontiguousarray(last.transpose(0, 3, 1, 2)) if array.ndim == 4 else array
        return found


def _dense(integers: Array, feature: TensorContract) -> Array:
    """What a program reads that takes the padded buffers for dense ones."""
    count = int(np.prod(integers.shape[1:]))
    rows = [np.frombuffer(feature.pad(array.reshape(feature.valid_shape)), array.dtype)[:count] for array in integers]
    return np.stack(rows).reshape(integers.shape)


def _numbers(prediction: Any, item: AppOutput) -> Array:
    """The part of a prediction that a dump holds, int64 or float64: as it is, or one row per detection.

    Raises:
        ArtifactError: it has no such part, or is no numbers.
    """
    try:
        if not item.fields:
            array: Array = np.asarray(prediction)
        else:
            columns = [np.asarray(prediction[name]) for name in item.fields]
            columns = [column.reshape(len(column), -1) if column.size else column.reshape(0, 1) for column in columns]
            array = np.concatenate(columns, axis=1)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"it holds {array.dtype}")
    except (TypeError, KeyError, ValueError, IndexError) as error:
        keys = f", with {', '.join(map(str, prediction))}" if isinstance(prediction, dict) else ""
        raise ArtifactError(
            "the adapter's prediction has no such numbers",
            output=item.name,
            expected=f"fields {', '.join(item.fields)} of equal length" if item.fields else "a number, or a list of numbers",
            found=f"{type(prediction).__name__}{keys} ({error})",
            next_step="correct `fields` under `onboard.outputs` of the zoo entry",
        ) from error
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)


def _read_result(item: AppOutput, path: Path, expected: Array) -> Dump:
    """The numbers of a result, in rows as the expected ones; of any count."""
    size = path.stat().st_size
    if not size or (path.suffix == ".txt" and size < 4096 and not path.read_bytes().strip()):
        return Dump(np.zeros((0, *expected.shape[1:]), expected.dtype), path)  # no detection
    raw = path.suffix not in (".txt", ".npy")
    count = (max(1, size // np.dtype(item.dtype).itemsize),) if raw else ()
    dump = read_tensor(path, dtype=item.dtype, shape=count)
    rows = expected.shape[1:]
    if expected.ndim and dump.array.size % max(1, int(np.prod(rows))) == 0:
        shape: tuple[int, ...] = (-1, *rows)
    else:
        shape = () if dump.array.size == 1 and not expected.ndim else (-1,)
    return replace(dump, array=dump.array.reshape(shape), numbers=None if dump.numbers is None else dump.numbers.reshape(shape))


# --- agreement ---------------------------------------------------------------------------------------------------------------


def _held(expected: Array, dump: Dump, item: AppOutput, step: float) -> tuple[str, str]:
    """(passed, failed or unprovable; why) of one frame."""
    found, numbers = dump.array, dump.numbers
    if found.shape != expected.shape:
        return "failed", f"expected {_counted(expected)}, found {_counted(found)}"
    if not item.ordered:
        order = _matched(expected, found, item.tolerance)
        found, numbers = found[order], numbers if numbers is None else numbers[order]
    text = dump.text if dump.text is not None and not dump.text.integer else None
    if item.tolerance == Tolerance():
        if item.stage == "postprocessed":  # Python computes in float64: exact means to the digits of the dump's own type
            expected, found = _comparable(expected, found)
        if text is not None and numbers is not None and expected.dtype == found.dtype and expected.dtype.kind == "f":
            judged = judge_text(expected[None], found[None], numbers[None], text, step=step)
            return judged.status, judged.reason
        equal = expected.dtype == found.dtype and np.array_equal(expected, found)
        return ("passed", "") if equal else ("failed", _difference(expected, found))
    allowed = item.tolerance.atol + item.tolerance.rtol * np.abs(expected.astype(np.float64))
    values = found.astype(np.float64) if text is None or numbers is None else numbers.astype(np.float64)
    apart = np.abs(values - expected.astype(np.float64))
    unsure = _slack(values, dump)
    if (apart + unsure <= allowed).all():
        return "passed", ""
    beyond = ~(apart - unsure <= allowed)  # so that NaN is
    if not beyond.any():
        return "unprovable", "the digits of the text are too few for the tolerance; print with %.9g"
    place = tuple(int(axis) for axis in np.unravel_index(int(np.argmax(beyond)), beyond.shape))
    return "failed", (
        f"{int(beyond.sum())} of {beyond.size} numbers beyond the tolerance, first at {list(place)}: expected {expected[place]:.9g}, "
        f"found {values[place]:.9g}"
    )


def _difference(expected: Array, found: Array) -> str:
    if expected.dtype != found.dtype:
        return f"expected {expected.dtype}, found {found.dtype}"
    try:
        return describe(compare(np.atleast_1d(expected), np.atleast_1d(found), profile=False))
    except ArtifactError as error:  # NaN or infinity
        return said(error)


def _agrees(made: Array, dump: Dump, item: AppOutput, known: Array | None = None) -> bool:
    """Whether a dump is what a mistake makes, where that is known."""
    if known is not None and made.shape == dump.array.shape:
        made = np.where(known, made, dump.array)
    if np.isnan(made).any():
        return made.dtype == dump.array.dtype and np.array_equal(made, dump.array, equal_nan=True)
    return _held(made, dump, item, 0.0)[0] == "passed"


def _comparable(expected: Array, found: Array) -> tuple[Array, Array]:
    kinds = expected.dtype.kind + found.dtype.kind
    if kinds == "ff":
        return expected.astype(found.dtype), found
    common = np.float64 if "f" in kinds else np.int64
    return expected.astype(common), found.astype(common)


def _slack(values: Array, dump: Dump) -> Any:
    """How far each number of a text may be from the one it was printed from."""
    form = dump.text
    if form is None:
        return 0.0
    if form.integer:
        return 0.0 if dump.array.dtype.kind in "iu" else 0.5
    if form.mixed:
        return np.inf
    if form.decimals is not None:
        return 0.5 * 10.0**-form.decimals
    size = np.abs(values)
    return 0.5 * np.where(size > 0, 10.0 ** (np.floor(np.log10(np.where(size > 0, size, 1.0))) + 1 - form.digits), 0.0)


def _matched(expected: Array, found: Array, tolerance: Tolerance) -> list[int]:
    """Rows of the found result in the order of the expected ones: each takes the nearest that is left."""
    left, order = list(range(len(found))), []
    for row in expected.astype(np.float64):
        scale = tolerance.atol + tolerance.rtol * np.abs(row)
        weight = np.where(scale > 0, scale, 1e-12)
        nearest = min(left, key=lambda index: float((np.abs(found[index].astype(np.float64) - row) / weight).max()))
        left.remove(nearest)
        order.append(nearest)
    return order


def _counted(array: Array) -> str:
    return f"{len(array)} rows of {array.shape[1]}" if array.ndim == 2 else f"{array.size} number(s)"


def expectation(item: AppOutput) -> str:
    against = {
        "raw": "the integers of hrt_model_exec",
        "dequantised": "these integers times the int model's scale",
        "postprocessed": "the adapter's postprocess of these",
    }[item.stage]
    limit = item.tolerance
    exact = "equal" if limit == Tolerance() else f"atol {limit.atol:g}, rtol {limit.rtol:g}"
    return f"{item.name} {item.stage}: {against} ({exact})"


def said(error: ArtifactError) -> str:
    """An error about a file, in a line."""
    return ", ".join([error.message, *(f"{key} {error.where[key]}" for key in ("expected", "found") if key in error.where)])

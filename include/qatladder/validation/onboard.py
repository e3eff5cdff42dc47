"""The board rung: a fit board, bit-exact integers, accuracy, speed, sane dumps.

The model and the very bytes proven equal in `hbm.input` go to the board once; what it dumps serves every check.
A broken board answers nothing about a model: the rung is climbed again on another board of the same march, and integers that differ
count only when a second board, or the same one asked again, repeats them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qatladder.boards import hrt
from qatladder.boards.device import Board
from qatladder.boards.fleet import BoardSpec, load_fleet
from qatladder.boards.session import BoardSession
from qatladder.boards.taxonomy import kind_of
from qatladder.errors import ArtifactError, BrokenError, ConfigError
from qatladder.ladder import CheckResult, Rung, RungResult, Status
from qatladder.ladder.checks import check_ids
from qatladder.numerics.tensor import TensorContract, drift
from qatladder.runner.once import Once
from qatladder.validation import expectations
from qatladder.validation.ask import Answer, Skip, ask, skip_all
from qatladder.validation.compiled import bit_exact, drift_text
from qatladder.validation.context import Context
from qatladder.validation.features import feature_of, raw_names, restore
from qatladder.validation.finish import outputs
from qatladder.validation.fleet import (
    GOLDEN_EVERY_S,
    MAX_CLOCK_SKEW_S,
    MAX_TEMPERATURE_C,
    MIN_DISK_MB,
    MIN_MEMORY_MB,
    board_state,
    note_failure,
    note_success,
    preflight,
    usable_boards,
)
from qatladder.validation.onboard_app import App, archive
from qatladder.validation.perf import measure
from qatladder.validation.training import judge_metric
from qatladder.zoo.schema import OnBoard

PERF_FRAMES = 200
NEED_DUMPS = ("board.accuracy", "board.quality", "board.app_output")
MAX_BOARDS = 3
"""Boards that are tried one after the other before a ladder is `broken`."""

Integers = npt.NDArray[np.generic]


def validate(context: Context) -> list[CheckResult]:
    """Climb the rung on the planned board; on the next one of the same march where that one is broken and another may not be."""
    ids = check_ids(Rung.BOARD)
    if reason := context.toolchain.unavailable():
        return skip_all(context, ids, reason)
    compiled = context.earlier(Rung.HBM)
    built = context.int_result
    inputs = [f"board/{spec.name}" for spec in context.entry.inputs]
    if built is None or compiled is None or "hbm" not in built.products or not set(inputs) <= set(compiled.products):
        reason = "there is nothing to run on a board: the int or hbm rung left no compiled model or no input bytes in this run"
        return skip_all(context, ids, reason)
    try:
        boards = usable_boards(
            context.settings, context.store, context.target.march, context.target.boards, context.ladder.get("board", "")
        )
    except ConfigError as error:
        reason = str(error)
        return skip_all(context, ids, reason)
    except BrokenError as error:
        return _nobody(context, error)
    checks: list[CheckResult] = []
    run = f"{context.run_id} {context.ladder['label']}"
    tried: list[dict[str, str]] = []
    for spec in boards[:MAX_BOARDS]:
        if tried:
            context.log(f"{spec.name}: the rung is climbed on another board, for {tried[-1]['board']} was broken: {tried[-1]['reason']}")
        for name in [name for name in context.products if name not in inputs]:
            del context.products[name]
        context.facts["board"] = spec.name
        others = [other for other in boards if other.name != spec.name]
        here = replace(context, folder=context.folder / spec.name)
        here.folder.mkdir()
        with _Work(here, spec, others, built, compiled) as work:
            checks = work.climb()
        if work.error is None:
            note_success(context.store, spec, run)
            break
        note_failure(context.store, spec, work.error, run)
        tried.append({"board": spec.name, "kind": work.error.kind, "reason": " ".join(str(work.error).split())})
        if kind_of(work.error).retry != "elsewhere":
            break
    context.facts["boards_tried"] = tried
    return checks


def still_fit(context: Context, result: RungResult, known: Once[CheckResult | None]) -> RungResult | None:
    """A rung's answer of an earlier run with the board's health of now; None when it must be climbed: the board is not fit, or not the same.

    Args:
        known: health by board, of those that were looked at already.
    """
    name = str(result.facts.get("board", ""))

    def look() -> CheckResult | None:
        boards = usable_boards(context.settings, context.store, context.target.march, context.target.boards, name)
        spec = next((item for item in boards if item.name == name), None)
        return None if spec is None else _health(context, spec)

    fresh, before = known(name, look), result.check("board.health")
    if fresh is None or before is None or not fresh:
        context.log(f"{context.rung}: climbed again: {name} {'is not in service' if fresh is None else fresh.reason}")
        return None
    if fresh.values.get("versions") != before.values.get("versions"):
        context.log(f"{context.rung}: climbed again: {name} has other versions than when it answered: {fresh.values.get('versions')}")
        return None
    return replace(result, checks=tuple(fresh if check.id == fresh.id else check for check in result.checks))


def _health(context: Context, spec: BoardSpec) -> CheckResult:
    nothing = RungResult(Rung.BOARD, ())
    with _Work(context, spec, (), nothing, nothing) as work:
        return ask(context, "board.health", work.health)


def _nobody(context: Context, error: BrokenError) -> list[CheckResult]:
    """Every board is out of service."""

    def answer() -> Answer:
        raise error

    first, *rest = check_ids(Rung.BOARD)
    return [ask(context, first, answer), *skip_all(context, rest, f"{first} was broken: {error.message}")]


class _Work:
    """The board rung's steps on one board, each using what the one before it left.

    Attributes:
        error: what broke first; None when every question was answered.
    """

    def __init__(self, context: Context, spec: BoardSpec, others: Sequence[BoardSpec], built: RungResult, compiled: RungResult) -> None:
        self.context = context
        self.spec = spec
        self.others = others
        self.built = built
        self.compiled = compiled
        self.error: BrokenError | None = None
        self.stopped = ""
        self.board = self._open(spec)
        self.raw: dict[str, Path] = {}
        self.app: App | None = None

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *raised: Any) -> None:
        self.board.__exit__(*raised)

    def climb(self) -> list[CheckResult]:
        """Every check of the rung. A broken board answers nothing: what comes after is skipped with the reason."""
        program = self.context.target.onboard
        steps: list[tuple[str, Callable[[], Answer]]] = [
            ("board.health", self.health),
            ("board.runtime", self.runtime),
            ("board.accuracy", self.accuracy),
            ("board.perf", self.perf),
            ("board.quality", self.quality),
        ]
        if program is not None:
            steps += [("board.app_input", partial(self.app_input, program)), ("board.app_output", self.app_output)]
        results = []
        for check_id, step in steps:
            missing = self.stopped or ("board.runtime left no dumps" if check_id in NEED_DUMPS and not self.raw else "")
            result = skip_all(self.context, (check_id,), missing)[0] if missing else ask(self.context, check_id, partial(self._kept, step))
            results.append(result)
            if result.status is Status.BROKEN and not self.stopped and self.error is not None and kind_of(self.error).retry != "never":
                self.stopped = f"{check_id} was broken: {result.reason}"
            elif check_id == "board.health" and not result:
                self.stopped = f"{check_id} was {result.status}: {result.reason}"
        if program is None:
            results += skip_all(
                self.context, ("board.app_input", "board.app_output"), "the entry declares no on-board program", required=False
            )
        return results

    def _kept(self, step: Callable[[], Answer]) -> Answer:
        try:
            return step()
        except BrokenError as error:
            if self.error is None:
                self.error = error
            raise

    def _open(self, spec: BoardSpec, again: str = "") -> Board:
        """A board that knows for whom it works, so that a worker that comes back finds its job."""
        context = self.context
        session = BoardSession(partial(context.connect, spec), spec.name, spec.workdir) if context.connect else None
        run = json.dumps([context.run_id, context.ladder["label"], again])
        return Board(spec, session, run=run, patience=context.patience, log=context.log)

    @property
    def outputs(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.built.facts["int_model"]["outputs"]
        return items

    def health(self) -> Answer:
        context = self.context
        if self.board.at_work():
            # Its own job holds the board; the golden model ran before that began.
            context.log(f"{self.spec.name}: a job of this rung is there already; going on with it")
            found = self.board.health()
        else:
            found = preflight(self.board, self.spec, context.target.march, context.store, context.settings, context.log)
        known = board_state(context.store, self.spec.name, load_fleet(context.settings.fleet).quarantine_after).golden
        golden = f"golden model passed at {known['when']}" if known and known["passed"] else "no golden model for this march"
        context.facts["health"] = asdict(found)
        march = found.march or "march not stated by the board"
        idle = {True: "BPU idle", False: "BPU in use", None: "BPU load unknown"}[found.bpu_idle]
        heat = f", {max(found.temperatures.values()):.0f} °C" if found.temperatures else ""
        return Answer(
            True,
            f"{self.spec.name}: {march}, {found.versions.get('tool', '?')}, {found.disk_free_mb:.0f} MB disk and "
            f"{found.memory_free_mb:.0f} MB memory free{heat}, {idle}, clock {found.clock_skew_s:+.1f} s, {golden}",
            f"march {context.target.march} where the board states it, >= {MIN_DISK_MB:.0f} MB disk, >= {MIN_MEMORY_MB:.0f} MB memory, "
            f"clock within {MAX_CLOCK_SKEW_S:.0f} s, below {MAX_TEMPERATURE_C:.0f} °C, and the golden model's integers, twice, "
            f"within {GOLDEN_EVERY_S / 60:.0f} minutes before",
            values={"versions": found.versions, "disk_free_mb": found.disk_free_mb, "clock_skew_s": found.clock_skew_s},
            evidence=[context.store.put_json(asdict(found), "board_health.json")],
        )

    def runtime(self) -> Answer:
        context = self.context
        self.hbm = context.fetch(self.built, "hbm")
        info = self.board.model_info(self.hbm)
        samples = self._inputs(info)
        arrays, self.features = self._infer(self.board, info, samples, context.folder / "dumps")
        for index, (name, array) in enumerate(arrays.items()):
            self.raw[name] = context.folder / f"output_{index}.npy"
            np.save(self.raw[name], array)
        context.keep("dumps", archive(context.folder / "dumps", context.folder / "dumps.tar"))
        answer = bit_exact(context, self.built, self.raw, self.features, "board", self.compiled.facts["contradiction"])
        vote = "" if self._equal_int(arrays) else self._second_opinion(info, samples, arrays)
        skew = f"; {info.skew}" if info.skew else ""
        drifted = self._drift(info)
        return Answer(
            answer.passed and not drifted,
            f"{answer.measured} on {self.spec.name}{skew}",
            answer.expected + ", and described alike by compiler and board",
            "; ".join(text for text in (answer.reason, vote, *drifted) if text),
            {**answer.values, "skew": info.skew, "vote": vote, **({"drifted": True} if drifted else {})},
            [*answer.evidence, context.products["dumps"]],
        )

    def _infer(
        self, board: Board, info: hrt.ModelInfo, samples: Sequence[Sequence[Path]], folder: Path
    ) -> tuple[dict[str, Integers], tuple[TensorContract, ...]]:
        """Raw valid integers [N, ...] by output, and how the board describes the outputs."""
        context = self.context
        dumps = board.infer(self.hbm, samples, folder, lambda done, of: context.log(f"{board.spec.name}: frame {done} of {of}"), info)
        arrays: dict[str, Integers] = {}
        features = []
        for index, tensor in enumerate(info.outputs):
            name = tensor.name or self.outputs[index]["raw_name"]
            arrays[name] = np.stack([hrt.read_dump(files[index], tensor) for files in dumps])
            features.append(
                TensorContract(
                    name, str(arrays[name].dtype), tensor.valid_shape, tensor.aligned_shape, tensor.stride, tensor.byte_size or 0
                )
            )
        return arrays, tuple(features)

    def _equal_int(self, arrays: dict[str, Integers]) -> bool:
        """Whether a board's integers are the int model's, every one."""
        for index, item in enumerate(self.outputs):
            expected = np.load(self.context.fetch(self.built, f"raw/{item['raw_name']}"), mmap_mode="r")
            found = arrays[feature_of(self.features, raw_names(self.built), index).name]
            if len(found) > len(expected) or not np.array_equal(restore(found, (len(found), *expected.shape[1:])), expected[: len(found)]):
                return False
        return True

    def _second_opinion(self, info: hrt.ModelInfo, samples: Sequence[Sequence[Path]], first: dict[str, Integers]) -> str:
        """Ask another board the same; without one, this one again. A board that computes wrongly must not fail a model.

        Returns:
            who confirmed the integers.
        Raises:
            BrokenError: kind `bad_board`, `boards_disagree` or `nondeterministic`: it is not the model that is wrong, or it cannot be said.
        """
        context = self.context
        for spec in [*self.others, self.spec]:
            itself = spec.name == self.spec.name
            context.log(f"{self.spec.name}: integers differ from the int model's; asking {'it again' if itself else spec.name}")
            try:
                with self._open(spec, "second opinion") as board:
                    if not itself:
                        preflight(board, spec, context.target.march, context.store, context.settings, context.log)
                    again, _ = self._infer(board, info, samples, context.folder / f"dumps_{spec.name}_again")
            except BrokenError as error:
                if itself:
                    raise
                note_failure(context.store, spec, error, f"{context.run_id} {context.ladder['label']}")
                context.log(f"{spec.name}: has no opinion: {error}")
                continue
            if all(np.array_equal(first[name], again[name]) for name in first):
                return f"the same integers from {self.spec.name}, asked twice: no other board" if itself else f"confirmed by {spec.name}"
            where = {"board": self.spec.name, "second": spec.name, "model": context.entry.model}
            if itself:
                raise BrokenError("the board gives two answers to one question", kind="nondeterministic", **where)
            if self._equal_int(again):
                raise BrokenError("another board computes the int model's integers, this one does not", kind="bad_board", **where)
            raise BrokenError("two boards compute two different answers, and neither is the int model's", kind="boards_disagree", **where)
        raise AssertionError("the board itself is always asked")

    def _drift(self, info: hrt.ModelInfo) -> list[str]:
        """Where compiler and board describe one tensor differently: type, sizes, source. Of images only the source.

        Strides are not held against each other: the compiler lists them in another order of axes on some marches, and padding that
        is wrong shows in the integers.
        """
        texts = []
        for side, tensors in (("inputs", info.inputs), ("outputs", info.outputs)):
            features = {item["name"]: item for item in self.compiled.facts["compile"][side]}
            for tensor in tensors:
                item = features.get(tensor.name)
                if item is None:
                    continue
                stated = TensorContract(item["name"], item["dtype"], tuple(item["valid_shape"]), source=item["source"])
                apart = drift(stated, tensor.contract(), ("valid_shape",) if tensor.is_image else ())
                if apart:
                    texts.append(f"{tensor.name}: the contract drifted: {drift_text('compiler', 'board', apart)}")
        return texts

    def _inputs(self, info: hrt.ModelInfo) -> list[list[Path]]:
        """Per sample one file per model input: the padded bytes of the hbm rung, held against what the board states."""
        described = {item["name"]: item["raw_name"] for item in self.built.facts["int_model"]["inputs"]}
        wanted = [described[spec.name] for spec in self.context.entry.inputs]
        stated_names = [tensor.name for tensor in info.inputs]
        if set(stated_names) & set(wanted):  # by name; by position only when the board names none of them
            order = [wanted.index(name) for name in stated_names if name in wanted]
        else:
            order = list(range(len(wanted)))
        if len(order) != len(info.inputs):
            raise ArtifactError(
                "the board's model has other inputs than the int model", model=self.context.entry.model, expected=wanted, found=stated_names
            )
        columns = []
        for index, position in enumerate(order):
            spec = self.context.entry.inputs[position]
            bundle = np.load(self.context.fetch(self.compiled, f"board/{spec.name}"))
            stated = info.inputs[index].byte_size
            if stated is not None and stated != bundle.shape[1]:
                raise ArtifactError(
                    "the board wants another number of input bytes than the simulator took",
                    model=self.context.entry.model,
                    input=spec.name,
                    expected=f"{stated} bytes",
                    found=f"{bundle.shape[1]} bytes",
                    next_step="compare model_info of the board with the compiler's description of the hbm",
                )
            folder = self.context.folder / "board_inputs"
            folder.mkdir(exist_ok=True)
            files = []
            for sample, row in enumerate(bundle):
                files.append(folder / f"{index}_{sample:05d}.bin")
                row.tofile(files[-1])
            columns.append(files)
        return [list(row) for row in zip(*columns, strict=True)]

    def accuracy(self) -> Answer:
        """The same postprocess and metric on the board's dequantised dumps and on the int model's, on the same frames."""
        context = self.context
        count = len(np.load(next(iter(self.raw.values())), mmap_mode="r"))
        reference, found = {}, {}
        for index, item in enumerate(self.outputs):
            feature = feature_of(self.features, raw_names(self.built), index)
            reference[item["name"]] = np.load(context.fetch(self.built, f"raw/{item['raw_name']}"))[:count]
            found[item["name"]] = np.load(self.raw[feature.name])
        ours, theirs = self._files("board", found), self._files("int", reference)
        targets = str(context.fetch(self.built, "targets"))
        reference_score = context.model_job(
            "score", {"outputs": theirs, "targets": targets, "out": str(context.folder / "score_int")}, "score_int"
        )
        score = context.model_job("score", {"outputs": ours, "targets": targets, "out": str(context.folder / "score_board")}, "score_board")
        value = reference_score["metrics"][reference_score["metric"]]
        answer = judge_metric(context, score, context.entry.gates.board, Rung.INT, value)
        whole = self.built.facts.get("count")
        subset = f"; a subset of {whole}" if whole and whole > count else ""
        return Answer(
            answer.passed, answer.measured + subset, answer.expected + " on the same samples", answer.reason, answer.values, answer.evidence
        )

    def _files(self, name: str, integers: dict[str, np.ndarray]) -> dict[str, str]:
        """The model's outputs for these integers, a .npy each."""
        files = {}
        for index, (output, values) in enumerate(outputs(self.context, self.built, integers, f"outputs_{name}").items()):
            files[output] = str(self.context.folder / f"{name}_{index}.npy")
            np.save(files[output], values)
        return files

    def perf(self) -> Answer:
        return measure(
            self.context,
            lambda: self.board.perf(self.hbm, frame_count=PERF_FRAMES),
            self.board.health,
            self.spec.name,
            self.compiled.facts["compile"].get("latency_ms"),
            PERF_FRAMES,
        )

    def app_input(self, program: OnBoard) -> Answer:
        hbm = self.context.fetch(self.built, "hbm")
        self.app = App(self.context, program, self.built, self.compiled, self.board, hbm)
        return self.app.input()

    def app_output(self) -> Answer:
        if self.app is None:
            raise Skip("board.app_input brought no dumps home")
        return self.app.output(self.raw, self.features)

    def quality(self) -> Answer:
        """Expectations over the statistics of the raw dumps, judged by Great Expectations in a process of its own."""
        return expectations.judge(self.context, self.raw, self.features, self.built)

"""The board rung: a fit board, bit-exact integers, accuracy, speed, sane dumps.

The model and the very bytes proven equal in `hbm.input` go to the board once; what it dumps serves every check.
A broken board answers nothing: from the first break on, the checks that need it are skipped with the reason.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.boards import hrt
from qatladder.boards.device import Board, Health
from qatladder.boards.fleet import BoardSpec, load_fleet
from qatladder.boards.session import BoardSession
from qatladder.errors import ArtifactError, BrokenError, ConfigError
from qatladder.ladder import CheckResult, Rung, RungResult, Status
from qatladder.ladder.checks import check_ids
from qatladder.numerics.tensor import TensorContract, dequantize, drift
from qatladder.quality.statistics import write_table
from qatladder.runner.client import Environment, run_job
from qatladder.validation.ask import Answer, ask, skip_all
from qatladder.validation.compiled import bit_exact, drift_text, feature_of, raw_names, restore
from qatladder.validation.context import Context
from qatladder.validation.training import judge_metric

MIN_DISK_MB = 200.0
MIN_MEMORY_MB = 50.0
MAX_CLOCK_SKEW_S = 300.0
PERF_FRAMES = 200
NEED_DUMPS = ("board.accuracy", "board.quality")
MAX_SATURATION_SHARE = 0.5
"""An output that sits at its type's limits in more than half of its elements carries no information."""


def validate(context: Context) -> list[CheckResult]:
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
        spec = board_of(context)
    except ConfigError as error:
        reason = str(error)
        return skip_all(context, ids, reason)
    context.facts["board"] = spec.name
    with _Work(context, spec, built, compiled) as work:
        results = [ask(context, "board.health", work.health)]
        if not results[0]:
            work.stopped = f"board.health was {results[0].status}: {results[0].reason}"
        steps: list[tuple[str, Callable[[], Answer]]] = [
            ("board.runtime", work.runtime),
            ("board.accuracy", work.accuracy),
            ("board.perf", work.perf),
            ("board.quality", work.quality),
        ]
        for check_id, step in steps:
            missing = work.stopped or ("board.runtime left no dumps" if check_id in NEED_DUMPS and not work.raw else "")
            results += skip_all(context, (check_id,), missing) if missing else [ask(context, check_id, step)]
            if results[-1].status is Status.BROKEN and not work.stopped:
                work.stopped = f"{check_id} was broken: {results[-1].reason}"
    return results + skip_all(context, ("board.app_input", "board.app_output"), "the entry declares no on-board program", required=False)


def board_of(context: Context) -> BoardSpec:
    """The board the plan gave this ladder, else the first of the fleet that can run it."""
    fleet = load_fleet(context.settings.fleet)
    names = [context.ladder["board"]] if context.ladder.get("board") else list(context.target.boards)
    return fleet.boards_for(context.target.march, names)[0]


def unfit(found: Health, march: str) -> list[str]:
    """Why a board may not judge a model of this march; empty when it may."""
    problems = []
    if found.march is not None and found.march != march:
        problems.append(f"its march is {found.march}, not {march}")
    if found.disk_free_mb < MIN_DISK_MB:
        problems.append(f"only {found.disk_free_mb:.0f} MB free on disk")
    if found.memory_free_mb < MIN_MEMORY_MB:
        problems.append(f"only {found.memory_free_mb:.0f} MB of memory free")
    if abs(found.clock_skew_s) > MAX_CLOCK_SKEW_S:
        problems.append(f"the clock is {found.clock_skew_s:+.0f} s off")
    if found.bpu_idle is False:
        problems.append("somebody uses the BPU")
    return problems


class _Work:
    """The board rung's steps, each using what the one before it left."""

    def __init__(self, context: Context, spec: BoardSpec, built: RungResult, compiled: RungResult) -> None:
        self.context = context
        self.spec = spec
        self.built = built
        self.compiled = compiled
        self.stopped = ""
        session = BoardSession(partial(context.connect, spec), spec.name, spec.workdir) if context.connect else None
        self.board = Board(spec, session)
        self.raw: dict[str, Path] = {}

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *_: object) -> None:
        self.board.close()

    @property
    def outputs(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.built.facts["int_model"]["outputs"]
        return items

    def health(self) -> Answer:
        try:
            found = self.board.health()
        except ConfigError as error:  # of the fleet, not of the model
            raise BrokenError(error.message, error.next_step, kind="fleet", **error.where) from error
        self.context.facts["health"] = asdict(found)
        problems = unfit(found, self.context.target.march)
        if problems:
            raise BrokenError(f"the board is not fit: {'; '.join(problems)}", kind="unfit_board", board=self.spec.name)
        context = self.context
        march = found.march or "march not stated by the board"
        idle = {True: "BPU idle", None: "BPU load unknown"}[found.bpu_idle]
        return Answer(
            True,
            f"{self.spec.name}: {march}, {found.versions.get('tool', '?')}, {found.disk_free_mb:.0f} MB disk and {found.memory_free_mb:.0f} MB memory free, {idle}, "
            f"clock {found.clock_skew_s:+.1f} s",
            f"march {context.target.march} where the board states it, >= {MIN_DISK_MB:.0f} MB disk, >= {MIN_MEMORY_MB:.0f} MB memory, BPU not in use, clock within {MAX_CLOCK_SKEW_S:.0f} s",
            values={"versions": found.versions, "disk_free_mb": found.disk_free_mb, "clock_skew_s": found.clock_skew_s},
            evidence=[context.store.put_json(asdict(found), "board_health.json")],
        )

    def runtime(self) -> Answer:
        context = self.context
        self.hbm = context.fetch(self.built, "hbm")
        info = self.board.model_info(self.hbm)
        samples = self._inputs(info)
        dumps = self.board.infer(self.hbm, samples, context.folder / "dumps", lambda done, of: context.log(f"frame {done} of {of}"), info)
        features = []
        for index, tensor in enumerate(info.outputs):
            arrays = np.stack([hrt.read_dump(files[index], tensor)[0] for files in dumps])
            name = tensor.name or self.outputs[index]["raw_name"]
            self.raw[name] = context.folder / f"output_{index}.npy"
            np.save(self.raw[name], arrays)
            features.append(
                TensorContract(name, str(arrays.dtype), tensor.valid_shape, tensor.aligned_shape, tensor.stride, tensor.byte_size or 0)
            )
        self.features = tuple(features)
        context.keep("dumps", _archive(context.folder / "dumps", context.folder / "dumps.tar"))
        answer = bit_exact(context, self.built, self.raw, self.features, "board", self.compiled.facts["contradiction"])
        skew = f"; {info.skew}" if info.skew else ""
        drifted = self._drift(info)
        return Answer(
            answer.passed and not drifted,
            f"{answer.measured} on {self.spec.name}{skew}",
            answer.expected + ", and described alike by compiler and board",
            "; ".join(text for text in (answer.reason, *drifted) if text),
            {**answer.values, "skew": info.skew, **({"drifted": True} if drifted else {})},
            [*answer.evidence, context.products["dumps"]],
        )

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
        ours: dict[str, str] = {}
        theirs: dict[str, str] = {}
        for index, item in enumerate(self.outputs):
            feature = feature_of(self.features, raw_names(self.built), index)
            reference = np.load(context.fetch(self.built, f"raw/{item['raw_name']}"))[:count]
            found = restore(np.load(self.raw[feature.name]), reference.shape)
            shape = (count, *item["shape"][1:])
            for where, integers in ((ours, found), (theirs, reference)):
                values = dequantize(integers, item["scale"], item["axis"])
                path = context.folder / f"{'board' if where is ours else 'int'}_{index}.npy"
                np.save(path, values.reshape(shape))
                where[item["name"]] = str(path)
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

    def perf(self) -> Answer:
        context, gate = self.context, self.context.target.perf
        found = self.board.perf(self.hbm, frame_count=PERF_FRAMES)
        context.facts["perf"] = asdict(found)
        if not (found.average_ms > 0 and found.fps > 0) or found.frames != PERF_FRAMES:
            raise BrokenError(
                "the board's performance run is not what was asked for",
                kind="console",
                board=self.spec.name,
                expected=f"{PERF_FRAMES} frames, latency and frame rate above 0",
                found=f"{found.frames} frames, {found.average_ms:g} ms, {found.fps:g} FPS",
            )
        problems, limits = [], []
        for limit, value, words in (
            (gate.max_latency_ms, found.average_ms, "latency_ms <="),
            (gate.min_fps, found.fps, "fps >="),
        ):
            if limit is None:
                continue
            limits.append(f"{words} {limit:g}")
            if (value > limit) if "<=" in words else (value < limit):
                problems.append(f"{words.split()[0]} {value:g} misses {limits[-1]}")
        source = "the compiler's estimate: a virtual board cannot measure" if found.estimated else f"measured on {self.spec.name}"
        return Answer(
            not problems,
            f"latency {found.average_ms:g} ms, {found.fps:.0f} FPS over {found.frames} frames, {found.threads} thread ({source})",
            "; ".join(limits) or "no gate in the entry; recorded only",
            "; ".join(problems),
            values={"latency_ms": found.average_ms, "fps": found.fps, "estimated": found.estimated},
            evidence=[context.store.put_json(asdict(found), "board_perf.json")],
        )

    def quality(self) -> Answer:
        """Expectations over the statistics of the raw dumps, judged by Great Expectations in a process of its own."""
        context = self.context
        table = context.folder / "statistics.json"
        write_table(self.raw, table)
        count = len(np.load(next(iter(self.raw.values())), mmap_mode="r"))
        outputs = {}
        for index, item in enumerate(self.outputs):
            feature = feature_of(self.features, raw_names(self.built), index)
            outputs[feature.name] = {"count": int(np.prod(item["raw_shape"])), "dtype": item["raw_dtype"]}
        rules = {"samples": count, "max_saturation_share": MAX_SATURATION_SHARE, "outputs": outputs}
        product = Environment("product", context.zoo.environments["product"].python)
        found = run_job(
            product,
            "qatladder.quality.expectations:judge",
            {"tables": [str(table)], "rules": rules, "out_dir": str(context.folder / "quality")},
            context.folder / "quality_job",
            log=context.log,
            model=context.entry.model,
            rung="board",
        ).value
        docs = context.folder / "data_docs.tar"
        with tarfile.open(docs, "w") as tar:
            tar.add(Path(found["data_docs"]).parent, "data_docs")
        page = context.keep("data_docs_page", Path(found["page"]), "data_docs.html")
        evidence = [
            page,
            context.keep("data_docs", docs),
            context.keep("statistics", table),
            context.store.put_json(found["expectations"], "expectations.json"),
        ]
        wrong = [item for item in found["expectations"] if not item["success"]]
        return Answer(
            bool(found["success"]),
            f"{found['evaluated'] - found['failed']} of {found['evaluated']} expectations hold over {count} samples",
            f"finite, in the range of the type, not constant, every element there, at most {MAX_SATURATION_SHARE:.0%} saturated",
            "; ".join(f"{item['output']}: {item['title']}: {item['observed']}" for item in wrong),
            {"evaluated": found["evaluated"], "failed": found["failed"]},
            evidence,
        )


def _archive(folder: Path, archive: Path) -> Path:
    """The dumps and consoles as one file, reproducible: no times, no owners."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
        return info

    with tarfile.open(archive, "w") as tar:
        tar.add(folder, folder.name, filter=plain)
    return archive

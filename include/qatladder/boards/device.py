"""What the ladder asks of a board: is it healthy, what is this model, run these samples, how fast is it?

A real board and the virtual one are asked with the same command lines; only the host differs.
"""

from __future__ import annotations

import functools
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from qatladder.boards import hrt
from qatladder.boards.fleet import BoardSpec
from qatladder.boards.session import BoardSession, Completed, connect
from qatladder.errors import ArtifactError, BrokenError

BATCH_BYTES = 256 << 20
"""Inputs and dumps of one batch of samples: what a board's storage holds at a time."""

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""

MARCHES = {"BERNOULLI2": "bernoulli2", "BAYES": "bayes", "BAYES_E": "bayes-e", "B25E": "bayes-e"}


@dataclass(frozen=True)
class Health:
    """The state of a board. None: the board does not say.

    Attributes:
        tool: where hrt_model_exec is.
        versions: version strings by what they belong to; `tool` is the first line of `hrt_model_exec --version`.
        march: BPU march, when the tool names it.
        disk_free_mb: free space of the workdir's file system (10**6 bytes).
        memory_free_mb: memory available to new processes (10**6 bytes).
        uptime_s: seconds since boot.
        clock_skew_s: the board's clock minus ours, to about a second.
        bpu_ratio: load of each BPU core in percent.
        bpu_users: lines of /sys/devices/system/bpu/bpu*/users, one per process on the BPU.
    """

    tool: str
    versions: dict[str, str]
    march: str | None
    disk_free_mb: float
    memory_free_mb: float
    uptime_s: float
    clock_skew_s: float
    bpu_ratio: tuple[int, ...] | None
    bpu_users: tuple[str, ...] | None

    @property
    def bpu_idle(self) -> bool | None:
        """False when somebody uses the BPU; None when the board does not say."""
        if self.bpu_ratio is None and self.bpu_users is None:
            return None
        return not self.bpu_users and not any(self.bpu_ratio or ())


_HEALTH = """
mkdir -p "$1" || exit 65
echo "disk: $(df -Pk "$1" | tail -n 1)"
echo "memory: $(grep MemAvailable /proc/meminfo)"
echo "uptime: $(cat /proc/uptime)"
echo "clock: $(date +%s)"
echo "tool: $(command -v "$2")"
test -r /sys/devices/system/bpu/ratio && echo "ratio: $(cat /sys/devices/system/bpu/ratio | tr '\\n' ' ')"
for users in /sys/devices/system/bpu/bpu*/users; do
  test -r "$users" || continue
  echo "bpu:"
  sed 's/^/user: /' "$users"
done
"$2" --version
"""

# Runs the tool once per line of `samples` in a fresh folder each: a dump found there can only be of this inference.
# -6000006 (cannot open file) is seen now and then right after an upload and is worth another try; nothing else is.
_LOOP = """#!/bin/sh
# loop.sh FIRST COMMAND...  (in the job folder)
i=$1
shift
while read -r inputs; do
  for attempt in 1 2 3; do
    rm -rf "out/$i"
    mkdir -p "out/$i" && cd "out/$i" || exit 71
    "$@" "--input_file=$inputs" > console.txt 2>&1 < /dev/null
    code=$?
    cd ../.. || exit 71
    grep -q -e -6000006 "out/$i/console.txt" || break
    sleep 1
  done
  echo "$code" > "out/$i/code"
  rm -f "out/$i"/model_infer_input_*
  echo "done $i $code"
  test "$code" -eq 0 || exit 70
  i=$((i + 1))
done < samples
"""


class Board:
    """One board, ready to be asked. Close it, or use it as a context manager.

    Args:
        spec: which board.
        session: a session that is already there (Airflow's connection); by default one with the fleet's key.
        lock_timeout: seconds to wait for others to let go of the board.
    """

    def __init__(self, spec: BoardSpec, session: BoardSession | None = None, lock_timeout: float = 600.0) -> None:
        self.spec = spec
        self.session = session or BoardSession(functools.partial(connect, spec), spec.name, spec.workdir)
        self.lock_timeout = lock_timeout

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.session.close()

    def health(self) -> Health:
        """Look at the board without touching the BPU.

        Raises:
            BrokenError: kind `tool_missing`, `console`, or that of the session.
        """
        before = time.time()
        done = self.session.run(["sh", "-c", _HEALTH, "sh", self.spec.workdir, self.spec.tool], timeout=30.0)
        local = (before + time.time()) / 2
        pairs = [(key, value.strip()) for key, colon, value in (line.partition(":") for line in done.stdout.splitlines()) if colon]
        values = dict(pairs)
        if not values.get("tool"):
            raise self._tool_missing(done)
        rest = done.stdout[done.stdout.index("tool: ") :].splitlines()[1:]
        version = [line for line in rest if not re.match(r"(ratio|bpu|user):", line)]
        if not done or not version or hrt.trouble(done.console):
            raise self._failed("--version", done)
        try:
            found = {**hrt.versions(done.stdout), "tool": version[0].strip()}
            march = found.pop("march", "") or (re.findall(r"march ([\w-]+)", version[0]) or [""])[0]
            users = tuple(value for key, value in pairs if key == "user" and re.search(r"\d", value))
            return Health(
                tool=values["tool"],
                versions=found,
                march=MARCHES.get(march, march or None),
                disk_free_mb=int(values["disk"].split()[-3]) * 1024 / 1e6,
                memory_free_mb=int(values["memory"].split()[1]) * 1024 / 1e6,
                uptime_s=float(values["uptime"].split()[0]),
                clock_skew_s=int(values["clock"]) - local,
                bpu_ratio=tuple(int(item) for item in re.findall(r"\d+", values["ratio"])) if "ratio" in values else None,
                bpu_users=users if "bpu" in values else None,
            )
        except (KeyError, IndexError, ValueError) as error:
            raise self._broken(f"the board's health cannot be read ({error})", "console", done.console) from error

    def model_info(self, model: Path, name: str = "") -> hrt.ModelInfo:
        """What the board's own runtime says of a model file.

        Args:
            name: which model, when the file holds several.
        Raises:
            BrokenError: kind `tool_missing`, `tool_failed`, `console`, or that of the session.
            ArtifactError: no such model in the file, or several and none named.
        """
        with self.session.job() as job:
            done = self._tool(hrt.model_info_argv(self.spec.tool, self._place(job, model)), job, 120.0)
        try:
            models = hrt.parse_model_info(done.console)
        except BrokenError as error:
            raise self._named(error) from error
        found = [info for info in models if not name or info.name == name]
        if len(found) != 1:
            raise ArtifactError(
                "the model file does not hold exactly one such model",
                board=self.spec.name,
                file=model,
                expected=name or "one model",
                found=", ".join(info.name for info in models),
            )
        return found[0]

    def infer(
        self,
        model: Path,
        inputs: Sequence[Sequence[Path]],
        out_dir: Path,
        progress: Progress | None = None,
        info: hrt.ModelInfo | None = None,
        timeout_per_sample: float = 60.0,
    ) -> list[list[Path]]:
        """Run samples on the board and bring their raw output dumps home.

        Few round trips: per batch one archive up, one loop on the board, one archive down. Each inference runs in a fresh,
        empty folder. The board's lock is held for a batch at a time.

        Args:
            model: `.hbm` or `.bin`.
            inputs: per sample one raw file per model input, in the model's order and of exactly the size the board states.
            out_dir: local folder; dumps go to `<out_dir>/<sample>/`, beside the sample's `console.txt`.
            progress: called after every sample.
            info: the model's `model_info`, to save asking again.
        Returns:
            Per sample its output dumps in output order; read them with `hrt.read_dump(path, info.outputs[i])`.
        Raises:
            BrokenError: kinds `tool_missing`, `tool_failed`, `console`, `dump_missing`, `dump_truncated`, `dump_size`, or that
                of the session; in no case are results returned.
            ArtifactError: a sample has not one file per model input.
        """
        info = info or self.model_info(model)
        for index, files in enumerate(inputs):
            if len(files) != len(info.inputs):
                raise ArtifactError(
                    "a sample needs one file per model input",
                    board=self.spec.name,
                    sample=index,
                    expected=f"{len(info.inputs)}: {', '.join(item.name for item in info.inputs)}",
                    found=len(files),
                )
        out_dir.mkdir(parents=True, exist_ok=True)
        results: list[list[Path]] = []
        for first, batch in _batches(inputs, sum(item.byte_size or 0 for item in info.outputs)):
            self._infer_batch(model, batch, first, out_dir, progress, len(inputs), timeout_per_sample)
            results += [self._dumps(out_dir / str(first + offset), info) for offset in range(len(batch))]
        return results

    def perf(self, model: Path, frame_count: int = 200, thread_num: int = 1, core_id: int = 0, timeout: float = 600.0) -> hrt.Perf:
        """Latency and frame rate, as the board's tool states them (`estimated` on a virtual board).

        Args:
            frame_count: inferences to run.
            thread_num: parallel threads, 1 to 8.
            core_id: 0 any core, 1 core 0, 2 core 1.
        Raises:
            BrokenError: as `model_info`.
        """
        with self.session.job() as job:
            argv = hrt.perf_argv(self.spec.tool, self._place(job, model), frame_count, thread_num, core_id)
            with self.session.lock(self.lock_timeout):
                done = self._tool(argv, job, timeout)
        try:
            return hrt.parse_perf(done.console)
        except BrokenError as error:
            raise self._named(error) from error

    # --- inside ---

    def _place(self, job: PurePosixPath, model: Path) -> str:
        """Link the model into the job folder. It is called `model.hbm` or `model.bin` there, whatever its own name is."""
        name = "model.bin" if model.suffix == ".bin" else "model.hbm"
        self.session.link({job / name: self.session.cache([model])[model]})
        return name

    def _tool(self, argv: list[str], job: PurePosixPath, timeout: float) -> Completed:
        done = self.session.run(argv, timeout, job)
        if done.exit_code in (126, 127):
            raise self._tool_missing(done)
        if not done or hrt.trouble(done.console):
            raise self._failed(argv[1], done)
        return done

    def _infer_batch(
        self, model: Path, batch: Sequence[Sequence[Path]], first: int, out_dir: Path, progress: Progress | None, total: int, seconds: float
    ) -> None:
        with self.session.job() as job, tempfile.TemporaryDirectory(prefix="qatladder-") as scratch:
            argv = hrt.infer_argv(self.spec.tool, f"../../{self._place(job, model)}", None, self.spec.dialect)
            packed, answer = Path(scratch) / "job.tar", Path(scratch) / "out.tar"
            _pack(packed, batch)
            self.session.put(packed, job / "job.tar")
            done = self.session.run(["tar", "-xf", "job.tar"], 120.0, job)
            if not done:
                raise self._broken(
                    "the board cannot unpack the samples", "disk_full" if "No space" in done.console else "remote_file", done.console
                )

            def on_line(line: str) -> None:
                match = re.match(r"done (\d+) 0$", line)
                if progress and match:
                    progress(int(match.group(1)) + 1, total)

            with self.session.lock(self.lock_timeout):
                loop = self.session.run(["sh", "loop.sh", str(first), *argv], 60.0 + seconds * len(batch), job, on_line)
            packing = self.session.run(["tar", "-cf", "out.tar", "out"], 300.0, job)
            if packing:
                self.session.get(job / "out.tar", answer)
                _unpack(answer, out_dir)
            self._check_batch(loop, first, len(batch), out_dir)
            if not packing:
                raise self._broken(
                    "the board cannot pack the dumps", "disk_full" if "No space" in packing.console else "remote_file", packing.console
                )

    def _check_batch(self, loop: Completed, first: int, count: int, out_dir: Path) -> None:
        for sample in range(first, first + count):
            folder = out_dir / str(sample)
            console = (folder / "console.txt").read_text(errors="replace") if (folder / "console.txt").is_file() else loop.console
            code = (folder / "code").read_text().strip() if (folder / "code").is_file() else str(loop.exit_code)
            done = Completed(("hrt_model_exec", "infer"), int(code or -1), console, "", loop.seconds)
            if done.exit_code in (126, 127):
                raise self._tool_missing(done)
            if not done:
                raise self._failed("infer", done, sample=sample)
            try:
                hrt.parse_infer(console)
            except BrokenError as error:
                raise self._named(error, sample=sample) from error
        if not loop:
            raise self._failed("infer", loop)

    def _dumps(self, folder: Path, info: hrt.ModelInfo) -> list[Path]:
        found = hrt.find_dumps(folder)
        for tensor in info.outputs:
            try:
                hrt.check_dump(found.get(tensor.index, folder / f"model_infer_output_{tensor.index}_{tensor.name}.bin"), tensor)
            except BrokenError as error:
                raise self._named(error, sample=folder.name) from error
        return [found[tensor.index] for tensor in info.outputs]

    def _named(self, error: BrokenError, **where: object) -> BrokenError:
        """The same error with the board's name, the end of the console and what else is known."""
        said = {"said": hrt.tail(error.console)} if error.console else {}
        return BrokenError(
            error.message, error.next_step, error.kind, error.console, **{"board": self.spec.name, **where, **error.where, **said}
        )

    def _broken(self, message: str, kind: str, console: str, next_step: str = "", **where: object) -> BrokenError:
        return BrokenError(message, next_step, kind, console, board=self.spec.name, **where, said=hrt.tail(console))

    def _failed(self, command: str, done: Completed, **where: object) -> BrokenError:
        said = hrt.trouble(done.console)
        return self._broken(
            f"hrt_model_exec {command} failed" + (f": {said[0]}" if said else f" (exit code {done.exit_code})"),
            "tool_failed",
            done.console,
            "look at the console; try the same command on the board by hand",
            exit_code=done.exit_code,
            **where,
        )

    def _tool_missing(self, done: Completed) -> BrokenError:
        return self._broken(
            "hrt_model_exec is not on the board",
            "tool_missing",
            done.console,
            "install the tool from the OpenExplorer package, or set `tool` in the fleet file",
            tool=self.spec.tool,
        )


def _batches(inputs: Sequence[Sequence[Path]], output_bytes: int) -> list[tuple[int, Sequence[Sequence[Path]]]]:
    """(index of the first sample, samples) such that inputs and dumps of a batch stay near `BATCH_BYTES`."""
    batches: list[tuple[int, Sequence[Sequence[Path]]]] = []
    first, size = 0, 0
    for index, files in enumerate(inputs):
        sample = output_bytes + sum(path.stat().st_size for path in files)
        if index > first and size + sample > BATCH_BYTES:
            batches.append((first, inputs[first:index]))
            first, size = index, 0
        size += sample
    return [*batches, (first, inputs[first:])] if inputs else []


def _pack(archive: Path, batch: Sequence[Sequence[Path]]) -> None:
    """The samples under names of our own, the list of them, and the loop."""
    folder = archive.parent
    lines = []
    with tarfile.open(archive, "w") as tar:
        for index, files in enumerate(batch):
            names = [f"in/{index}_{position}.bin" for position in range(len(files))]
            for path, name in zip(files, names, strict=True):
                tar.add(path.resolve(), name)
            lines.append(",".join(f"../../{name}" for name in names) + "\n")
        for name, text in (("samples", "".join(lines)), ("loop.sh", _LOOP)):
            (folder / name).write_text(text)
            tar.add(folder / name, name)


def _unpack(archive: Path, out_dir: Path) -> None:
    """`out/<sample>/...` of the archive to `<out_dir>/<sample>/...`, replacing what an earlier run left there."""
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=out_dir) as scratch:
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        for folder in (Path(scratch) / "out").iterdir():
            shutil.rmtree(out_dir / folder.name, ignore_errors=True)
            folder.rename(out_dir / folder.name)

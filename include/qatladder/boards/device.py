"""What the ladder asks of a board: is it healthy, what is this model, run these samples, how fast is it?

A real board and the virtual one are asked with the same command lines; only the host differs.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from qatladder.boards import hrt
from qatladder.boards.fleet import BoardSpec
from qatladder.boards.jobs import Job, StillRunning
from qatladder.boards.session import BoardSession, Completed, connect
from qatladder.boards.taxonomy import TAXONOMY
from qatladder.boards.transfer import Files, sha256_of
from qatladder.errors import ArtifactError, BrokenError
from qatladder.numerics.dumps import parse_name

ONBOARD = Path(__file__).with_name("onboard")
"""What is sent to the board and runs there."""

SMALL_DUMPS = 16 << 20
"""Dumps of a batch that fit on any board that is fit for service (bytes)."""

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
        versions: version strings by what they belong to: `tool` is the first line of `hrt_model_exec --version`; `kernel` and `system`;
            `libdnn`, `libhbrt_bayes_e_aarch64` ... as the libraries' file names say; drivers and packages by their own names.
        march: BPU march, when the tool names it.
        disk_free_mb: free space of the workdir's file system (10**6 bytes).
        memory_free_mb: memory available to new processes (10**6 bytes).
        uptime_s: seconds since boot.
        clock_skew_s: the board's clock minus ours, to about a second.
        bpu_ratio: load of each BPU core in percent.
        bpu_users: lines of /sys/devices/system/bpu/bpu*/users, one per process on the BPU.
        temperatures: °C by sensor.
        frequencies: MHz, (now, most), by CPU policy and bus device. Below the most is no throttling by itself: idle clocks go down.
        throttled: what the kernel slows down now because it is hot (its cooling devices that are at work, fans aside).
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
    temperatures: dict[str, float] = field(default_factory=dict)
    frequencies: dict[str, tuple[float, float]] = field(default_factory=dict)
    throttled: tuple[str, ...] = ()

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
{
  echo "version: kernel $(uname -r)"
  test -r /etc/version && echo "version: system $(head -n 1 /etc/version)"
  for file in /sys/module/*bpu*/version; do test -r "$file" && echo "version: $(basename "$(dirname "$file")") $(cat "$file")"; done
  for file in /usr/lib/lib*.so /usr/lib/hbbpu/lib*.so /usr/lib/*/lib*.so /usr/hobot/lib/lib*.so; do
    case "$file" in */libdnn.so | */libhbrt*.so | */libhbucp*.so) echo "library: $(readlink -f "$file")" ;; esac
  done
  dpkg-query -W -f 'version: ${Package} ${Version}\\n' 'hobot-*dnn*' 'hobot-*bpu*'
  for zone in /sys/class/thermal/thermal_zone*; do test -r "$zone/temp" && echo "milli: $(cat "$zone/temp") $(cat "$zone/type")"; done
  for file in /sys/class/hwmon/hwmon*/temp*_input; do
    test -r "$file" && echo "milli: $(cat "$file") $(cat "$(dirname "$file")/name") $(basename "$file" _input)"
  done
  command -v hrut_somstatus > /dev/null && hrut_somstatus -n 1 | sed -n 's/^ *\\t*\\(.*\\) *: *\\([0-9.]*\\) *(C).*/celsius: \\2 \\1/p'
  for cooler in /sys/class/thermal/cooling_device*; do echo "cooler: $(cat "$cooler/cur_state") $(cat "$cooler/type")"; done
  for policy in /sys/devices/system/cpu/cpufreq/policy*; do
    echo "khz: $(cat "$policy/scaling_cur_freq") $(cat "$policy/cpuinfo_max_freq") $(basename "$policy")"
  done
  for device in /sys/class/devfreq/*; do echo "hz: $(cat "$device/cur_freq") $(cat "$device/max_freq") $(basename "$device")"; done
} 2> /dev/null
echo "tool: $(command -v "$2")"
test -r /sys/devices/system/bpu/ratio && echo "ratio: $(cat /sys/devices/system/bpu/ratio | tr '\\n' ' ')"
for users in /sys/devices/system/bpu/bpu*/users; do
  test -r "$users" || continue
  echo "bpu:"
  sed 's/^/user: /' "$users"
done
"$2" --version
"""

_THROTTLES = re.compile(r"cpu|devfreq|bpu|processor|gpu|ddr", re.IGNORECASE)


def _installed(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Versions of kernel, drivers, packages and runtime libraries, from `_HEALTH`."""
    found = {name: version for key, value in pairs if key == "version" for name, _, version in [value.partition(" ")] if version}
    for key, value in pairs:
        match = re.search(r"([^/]+)\.so\.(\d[\w.]*)$", value) if key == "library" else None
        if match:
            found[match.group(1)] = match.group(2)
    return found


def _sensors(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Temperatures, frequencies and throttling, from `_HEALTH`; a sensor that cannot be read is left out."""
    temperatures: dict[str, float] = {}
    frequencies: dict[str, tuple[float, float]] = {}
    throttled = []
    for key, value in pairs:
        if match := re.fullmatch(r"(-?[\d.]+) (\S.*)", value):
            number, name = float(match.group(1)), match.group(2).strip()
            if key in ("milli", "celsius"):
                temperatures[name] = number / 1000 if key == "milli" else number
            elif key == "cooler" and number > 0 and _THROTTLES.search(name):
                throttled.append(name)
            elif key in ("khz", "hz") and (rest := re.fullmatch(r"(\d+) (\S+)", name)):
                unit = 1e3 if key == "khz" else 1e6
                frequencies[rest.group(2)] = (number / unit, int(rest.group(1)) / unit)
    return {"temperatures": temperatures, "frequencies": frequencies, "throttled": tuple(throttled)}


@dataclass(frozen=True)
class _Asked:
    """What one call of `Board.infer` is about."""

    model: Path
    info: hrt.ModelInfo
    total: int
    out_dir: Path
    progress: Progress | None
    seconds: float

    @property
    def output_bytes(self) -> int:
        """Of one sample."""
        return sum(item.byte_size or 0 for item in self.info.outputs)


class Board:
    """One board, ready to be asked. Close it, or use it as a context manager.

    Args:
        spec: which board.
        session: a session that is already there (Airflow's connection); by default one with the fleet's key.
        lock_timeout: seconds to wait for others to let go of the board.
        run: who asks, for example run, ladder and rung. The same question of the same asker is one job: asked again, after a
            crash or from another worker, it is found and not repeated. Empty: every question is new.
        patience: seconds after which a job that goes on raises `StillRunning`; None waits for its end.
        log: receives lines about what is done.
    Attributes:
        inference_ms: time inside inference so far, as the board states it.
        held_ms: time from the start to the end of the jobs that held the board's lock for it; what is no inference is lost to others.
    """

    def __init__(
        self,
        spec: BoardSpec,
        session: BoardSession | None = None,
        lock_timeout: float = 600.0,
        run: str = "",
        patience: float | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.spec = spec
        self.session = session or BoardSession(functools.partial(connect, spec), spec.name, spec.workdir)
        self.files = Files(self.session, spec.cache_mb)
        self.lock_timeout = lock_timeout
        self.run = run
        self.patience = patience
        self.log = log or (lambda _line: None)
        self.inference_ms = self.held_ms = 0.0
        self._answered: list[Job] = []

    def __enter__(self) -> Board:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not issubclass(kind, StillRunning):
            self.forget()
        self.close()

    def close(self) -> None:
        self.session.close()

    @property
    def _mark(self) -> str:
        """What the names of all jobs of this asker begin with."""
        return hashlib.sha256((self.run or uuid.uuid4().hex).encode()).hexdigest()[:12]

    def at_work(self) -> bool:
        """Whether the board has a job of this asker: we come back to it."""
        pattern = f"{self._mark}-*"
        argv = ["find", str(self.session.workdir / "jobs"), "-mindepth", "1", "-maxdepth", "1", "-name", pattern]
        return bool(self.run) and bool(self.session.run(argv).stdout.strip())

    def forget(self) -> None:
        """Remove the jobs that were kept so that a caller who comes back after `StillRunning` does not ask them again."""
        jobs, self._answered = self._answered, []
        for job in jobs:
            with suppress(BrokenError):
                job.remove()

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
        rest = re.split(r"(?m)^tool: .*\n", done.stdout, maxsplit=1)[-1].splitlines()
        version = [line for line in rest if not re.match(r"(ratio|bpu|user):", line)]
        if not done or not version or hrt.trouble("\n".join([*rest, done.stderr])):
            raise self._failed("--version", done)
        try:
            found = {**_installed(pairs), **hrt.versions("\n".join(rest)), "tool": version[0].strip()}
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
                **({} if self.spec.virtual else _sensors(pairs)),  # a virtual board's sensors would be this machine's
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
        with self._job("model_info", model) as job:
            job.prepare(self.files, {_model_name(model): model})
            done = self._tool(hrt.model_info_argv(self.spec.tool, _model_name(model)), job, 120.0)
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
        stream: bool = True,
    ) -> list[list[Path]]:
        """Run samples on the board and bring their raw output dumps home.

        Few round trips: per batch one archive up (unless the board has it), one job, one archive down. The first sample of a
        batch goes through hrt_model_exec. The others go through the board's Python bindings, where there are some and where
        they gave the first sample the very integers of hrt_model_exec; else each through hrt_model_exec in a fresh, empty
        folder. The job holds the board's lock, and it goes on when we are cut off.

        Args:
            model: `.hbm` or `.bin`.
            inputs: per sample one raw file per model input, in the model's order and of exactly the size the board states.
            out_dir: local folder; dumps go to `<out_dir>/<sample>/`, beside the sample's `console.txt` where it has one.
            progress: called after every sample.
            info: the model's `model_info`, to save asking again.
            stream: False keeps to hrt_model_exec.
        Returns:
            Per sample its output dumps in output order; read them with `hrt.read_dump(path, info.outputs[i])`.
        Raises:
            StillRunning: see `patience`; asking again goes on where it was.
            BrokenError: of the tool, of a dump, or of the session; in no case are results returned.
            ArtifactError: a sample has not one file per model input.
        """
        info = info or self.model_info(model)
        if info.gaps:
            raise self._broken(
                f"the board does not state all a dump needs: {', '.join(info.gaps)}",
                "console",
                "",
                TAXONOMY["console"].help,
                model=info.name,
            )
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
        asked = _Asked(model, info, len(inputs), out_dir, progress, timeout_per_sample)
        results: list[list[Path]] = []
        for first, batch in _batches(inputs, asked.output_bytes):
            found = self._infer_batch(asked, first, batch, stream)
            if found is None:
                stream = False
                found = self._infer_batch(asked, first, batch, stream)
            results += found or []
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
        argv = hrt.perf_argv(self.spec.tool, _model_name(model), frame_count, thread_num, core_id, self.spec.dialect)
        lines: list[str] = []
        with self._job("perf", uuid.uuid4().hex) as job:  # a measurement is never taken from an earlier one
            job.prepare(self.files, {_model_name(model): model})
            job.start(argv, timeout, self.lock_timeout)
            done = job.follow(lines.append, timeout + self.lock_timeout + 30.0)
        done = self._judged(Completed(tuple(argv), done.exit_code, "\n".join(lines) + "\n", "", done.seconds))
        try:
            return hrt.parse_perf(done.console)
        except BrokenError as error:
            raise self._named(error) from error

    def run_program(
        self,
        files: Mapping[str, Path],
        argv: Sequence[str],
        out_dir: Path,
        timeout: float = 600.0,
        log: Callable[[str], None] | None = None,
    ) -> Path:
        """Run a program of the user's on the board and bring home what it wrote.

        Args:
            files: local files by the name the program finds them under, relative to its working directory; a name that ends in
                `.sh` or has no dot, and the command itself, are made executable.
            argv: command line; the program writes below `out/`, which exists and is empty.
            out_dir: local folder, which must not exist or be empty.
            timeout: seconds.
            log: receives its output line by line; by default the board's log.
        Returns:
            `out_dir`, with what was below `out/`.
        Raises:
            StillRunning: see `patience`.
            BrokenError: kind `program_failed` with the end of its output, or that of the session.
        """
        digests = {name: sha256_of(path) for name, path in sorted(files.items())}
        lines: list[str] = []
        with self._job("program", json.dumps([digests, list(argv)])) as job, tempfile.TemporaryDirectory(prefix="qatladder-") as scratch:
            packed = Path(scratch) / "program.tar"
            (Path(scratch) / "keep").touch()
            members = {name: (path, _executable(name, argv)) for name, path in files.items()}
            _pack(packed, {**members, "out/.keep": (Path(scratch) / "keep", False)})
            job.prepare(self.files, {"program.tar": packed}, ["program.tar"])
            job.start(argv, timeout, self.lock_timeout)

            def on_line(line: str) -> None:
                lines.append(line)
                (log or self.log)(f"{self.spec.name}: {line}")

            done = job.follow(on_line, timeout + self.lock_timeout + 30.0, self.patience)
            if not done:
                raise self._broken(
                    f"the on-board program ended with exit code {done.exit_code}",
                    "program_failed",
                    "\n".join(lines),
                    "run the same command on the board by hand",
                    command=" ".join(argv),
                )
            self._fetch_out(job, out_dir, Path(scratch))
        (out_dir / ".keep").unlink(missing_ok=True)
        return out_dir

    def fetch_folder(self, remote: str, out_dir: Path, newer_than: float | None = None, max_bytes: int = 1 << 30) -> Path:
        """Bring a folder of the board home: the dumps that a program of the user's left there.

        Args:
            remote: absolute path.
            newer_than: seconds since the epoch; a folder with a file older than that is refused.
            max_bytes: a folder larger than that is refused.
        Returns:
            `out_dir`, with the files of the folder.
        Raises:
            BrokenError: kinds `remote_file`, `dump_stale`, `dump_size`, or that of the session.
        """
        script = (
            'cd -- "$1" || exit 66; find . -type f | wc -l; du -sk . | cut -f1; '
            'find . -type f -exec stat -c "%Y %n" {} + | sort -n | head -n 1'
        )
        done = self.session.persist(lambda: self.session.run(["sh", "-c", script, "sh", remote]))
        said = done.stdout.splitlines()
        if not done or len(said) < 2 or not said[0].strip().isdecimal():
            raise self._broken("the folder of dumps cannot be read", "remote_file", done.console, "let the program run first", file=remote)
        if int(said[0]) == 0:
            raise self._broken("the folder of dumps is empty", "dump_missing", done.console, "let the program run first", file=remote)
        if int(said[1]) * 1024 > max_bytes:
            raise self._broken(
                "the folder of dumps is too large",
                "dump_size",
                "",
                "keep only the dumps of one run in it",
                file=remote,
                expected=f"at most {max_bytes / 1e6:.0f} MB",
                found=f"{int(said[1]) * 1024 / 1e6:.0f} MB",
            )
        when, _, name = said[2].partition(" ")
        if newer_than is not None and int(when) < newer_than:
            raise self._broken(
                "a dump is older than it may be",
                "dump_stale",
                "",
                "let the program run again with today's model",
                file=f"{remote}/{name.removeprefix('./')}",
                expected=f"newer than {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(newer_than))} UTC",
                found=f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(int(when)))} UTC by the board's clock",
            )
        with self._job("fetch", uuid.uuid4().hex) as job, tempfile.TemporaryDirectory(prefix="qatladder-") as scratch:
            job.prepare(self.files, {})
            self.files.reserve(int(said[1]) * 1024)
            self._shell(job, 'ln -s -- "$1" out', "the board cannot reach the folder of dumps", 60.0, remote)
            self._fetch_out(job, out_dir, Path(scratch), "out/.")
        return out_dir

    # --- inside ---

    @contextmanager
    def _job(self, what: str, *about: object) -> Iterator[Job]:
        """A job that is gone from the board afterwards, unless it is still needed: it goes on, or we were cut off from it."""
        key = json.dumps([self.run or uuid.uuid4().hex, what, *(sha256_of(item) if isinstance(item, Path) else item for item in about)])
        job = Job(self.session, f"{self._mark}-{what}-{hashlib.sha256(key.encode()).hexdigest()[:16]}")
        try:
            yield job
        except StillRunning:
            raise
        except BaseException as error:
            if not (isinstance(error, BrokenError) and error.kind in ("connection_lost", "unreachable")):
                with suppress(BrokenError):
                    job.cancel()
                    job.remove()
            raise
        if self.patience is not None and self.run:
            self._answered.append(job)
            return
        with suppress(BrokenError):
            job.remove()

    def _tool(self, argv: list[str], job: Job, timeout: float) -> Completed:
        return self._judged(self.session.persist(lambda: self.session.run(argv, timeout, job.folder)))

    def _judged(self, done: Completed) -> Completed:
        if done.exit_code in (126, 127):
            raise self._tool_missing(done)
        if hrt.failure(done.console, done.exit_code):
            raise self._failed(done.argv[1], done)
        return done

    def _shell(self, job: Job, script: str, message: str, timeout: float, *arguments: str) -> None:
        done = self.session.persist(lambda: self.session.run(["sh", "-c", script, "sh", *arguments], timeout, job.folder))
        if not done:
            raise self.files.refused(message, done.console, done.exit_code)

    def _fetch_out(self, job: Job, out_dir: Path, scratch: Path, what: str = "out") -> None:
        self._shell(job, 'tar -cf out.tar "$1"', "the board cannot pack what was written", 600.0, what)
        self.files.get(job.folder / "out.tar", scratch / "out.tar")
        _unpack(scratch / "out.tar", out_dir)

    def _infer_batch(self, asked: _Asked, first: int, batch: Sequence[Sequence[Path]], stream: bool) -> list[list[Path]] | None:
        """The dumps of a batch; None when the bindings gave other integers than the tool."""
        info, out_dir = asked.info, asked.out_dir
        with tempfile.TemporaryDirectory(prefix="qatladder-") as scratch:
            packed = Path(scratch) / "batch.tar"
            _pack_batch(packed, batch, info)
            tool = hrt.infer_argv(self.spec.tool, f"../../{_model_name(asked.model)}", None, self.spec.dialect)
            argv = ["sh", "loop.sh", str(first), "python3" if stream and _streamable(info) else "none", *tool]
            with self._job("infer", asked.model, packed, argv) as job:
                loop = self._run_batch(job, asked, packed, argv, len(batch))
                self._fetch_out(job, out_dir, Path(scratch))
        count = len(batch)
        folder = out_dir / str(first)
        streamed = json.loads((out_dir / "stream.json").read_text()) if (out_dir / "stream.json").is_file() else None
        (out_dir / "stream.json").unlink(missing_ok=True)
        self._check_batch(loop, first, 1 if streamed else count, out_dir)
        results = [self._dumps(folder, info)]
        if streamed is None:
            return results + [self._dumps(out_dir / str(first + offset), info) for offset in range(1, count)]
        apart = _apart(streamed["outputs"], folder, results[0], info)
        if apart:
            self.log(f"{self.spec.name}: {streamed['binding']} is not used, for it differs from hrt_model_exec: {apart}")
            return None
        self.log(f"{self.spec.name}: {count} samples through {streamed['binding']}, which repeats hrt_model_exec on the first one")
        for path in folder.glob("stream_*.raw"):
            path.unlink()
        return results + [self._as_dumps(out_dir / str(first + offset), results[0], info) for offset in range(1, count)]

    def _run_batch(self, job: Job, asked: _Asked, packed: Path, argv: Sequence[str], count: int) -> Completed:
        placed = {_model_name(asked.model): asked.model, "batch.tar": packed}
        job.prepare(self.files, {**placed, **{name: ONBOARD / name for name in ("loop.sh", "stream.py")}}, ["batch.tar"])
        if asked.output_bytes * count > SMALL_DUMPS:  # as files, packed, and packed and compressed
            self.files.reserve(3 * asked.output_bytes * count)
        limit = 60.0 + asked.seconds * count
        started = time.monotonic()
        job.start(argv, limit, self.lock_timeout)
        said: list[str] = []

        def on_line(line: str) -> None:
            match = re.match(r"done (\d+) 0$", line)
            if match and asked.progress:
                asked.progress(int(match.group(1)) + 1, asked.total)
            elif spent := re.match(r"Infer time: ([\d.]+) ms$", line):
                self.inference_ms += float(spent.group(1))
            elif not match:
                self.log(f"{self.spec.name}: {line}")
            said.append(line)

        done = job.follow(on_line, limit + self.lock_timeout + 30.0, self.patience, silence=60.0 + asked.seconds)
        self.held_ms += (time.monotonic() - started) * 1e3
        return Completed(done.argv, done.exit_code, "\n".join(said), "", done.seconds)

    def _as_dumps(self, folder: Path, like: Sequence[Path], info: hrt.ModelInfo) -> list[Path]:
        """What the bindings gave for a sample, in the padded form and under the names of the tool's dumps."""
        paths = []
        for index, tensor in enumerate(info.outputs):
            raw, contract = folder / f"stream_{index}.raw", tensor.contract()
            array = np.fromfile(raw, tensor.dtype) if raw.is_file() else np.zeros(0, tensor.dtype)
            if array.size != contract.valid_count:
                raise self._broken(
                    "the bindings gave an output of another size",
                    "dump_truncated" if array.size < contract.valid_count else "dump_size",
                    "",
                    "",
                    sample=folder.name,
                    tensor=tensor.name or tensor.index,
                    expected=f"{contract.valid_count} elements",
                    found=f"{array.size}",
                )
            paths.append(folder / like[index].name)
            paths[-1].write_bytes(contract.pad(array.reshape(tensor.valid_shape)))
            raw.unlink()
        return paths

    def _check_batch(self, loop: Completed, first: int, count: int, out_dir: Path) -> None:
        for sample in range(first, first + count):
            folder = out_dir / str(sample)
            console = (folder / "console.txt").read_text(errors="replace") if (folder / "console.txt").is_file() else loop.console
            code = (folder / "code").read_text().strip() if (folder / "code").is_file() else str(loop.exit_code)
            if code == "stale":
                raise self._broken(
                    "the tool left a dump of an earlier run", "dump_stale", console, TAXONOMY["dump_stale"].help, sample=sample
                )
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
        """The output dumps of a sample: those of the model, whole, and no others."""
        try:
            found = hrt.find_dumps(folder)
            for tensor in info.outputs:
                path = found.get(tensor.index, folder / f"model_infer_output_{tensor.index}_{tensor.name}.bin")
                hrt.check_dump(path, tensor)
                said = parse_name(path.name)
                if said and said.name and tensor.name and _letters(said.name) != _letters(tensor.name):
                    raise BrokenError(
                        "a dump is of another tensor", kind="dump_size", file=path, expected=f"a dump of {tensor.name}", found=path.name
                    )
            if surplus := sorted(set(found) - {tensor.index for tensor in info.outputs}):
                raise BrokenError(
                    "there are more dumps than outputs",
                    kind="dump_size",
                    file=found[surplus[0]],
                    expected=f"{len(info.outputs)} outputs",
                    found=f"a dump of output {surplus[0]}",
                )
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
        failure = hrt.failure(done.console, done.exit_code)
        kind, line = (failure.kind, failure.line) if failure else ("tool_failed", f"exit code {done.exit_code}")
        if done.exit_code > 128:  # of a shell: the signal that ended it
            kind, line = ("killed" if done.exit_code in (137, 143) else kind), f"ended by signal {done.exit_code - 128}; {line}"
        return self._broken(
            f"hrt_model_exec {command} failed: {line}", kind, done.console, TAXONOMY[kind].help, exit_code=done.exit_code, **where
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


def _model_name(model: Path) -> str:
    """A model is called `model.hbm` or `model.bin` on the board, whatever its own name is."""
    return "model.bin" if model.suffix == ".bin" else "model.hbm"


def _letters(name: str) -> str:
    """A tensor's name as any build may write it into a file name."""
    return re.sub(r"[^A-Za-z0-9]", "", name)


def _executable(name: str, argv: Sequence[str]) -> bool:
    return name.endswith(".sh") or "." not in PurePosixPath(name).name or argv[0] in (name, f"./{name}")


def _streamable(info: hrt.ModelInfo) -> bool:
    """Whether all is known that turns a padded file into the valid array a binding takes, and back."""
    return all(
        (item.is_image and item.byte_size) or (item.dtype is not None and (item.stride or item.aligned_shape)) for item in info.inputs
    ) and all(item.dtype is not None for item in info.outputs)


def _apart(described: Sequence[Mapping[str, Any]], folder: Path, dumps: Sequence[Path], info: hrt.ModelInfo) -> str:
    """How the bindings' answer to a sample differs from the tool's dumps of it; empty when not in a single bit."""
    if len(described) != len(info.outputs):
        return f"{len(described)} outputs instead of {len(info.outputs)}"
    for index, (stated, tensor) in enumerate(zip(described, info.outputs, strict=True)):
        expected = hrt.read_dump(dumps[index], tensor)
        if stated["dtype"] != expected.dtype.name or [n for n in stated["shape"] if n != 1] != [n for n in expected.shape if n != 1]:
            return f"{tensor.name or index} is {stated['dtype']}{stated['shape']} instead of {expected.dtype.name}{list(expected.shape)}"
        raw = folder / f"stream_{index}.raw"
        if not raw.is_file() or raw.read_bytes() != expected.tobytes():
            return f"{tensor.name or index} has other elements"
    return ""


def _pack(archive: Path, members: Mapping[str, tuple[Path, bool]]) -> None:
    """Files under names of our own (executable or not) as a reproducible archive: the same content is the same bytes."""
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (path, executable) in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, 0o755 if executable else 0o644
            with path.open("rb") as stream:
                tar.addfile(entry, stream)


def _pack_batch(archive: Path, batch: Sequence[Sequence[Path]], info: hrt.ModelInfo) -> None:
    """The samples, the list of them, and what the bindings need to know of the inputs."""
    folder = archive.parent
    members, lines = {}, []
    for index, files in enumerate(batch):
        names = [f"in/{index}_{position}.bin" for position in range(len(files))]
        members.update({name: (path, False) for name, path in zip(names, files, strict=True)})
        lines.append(",".join(f"../../{name}" for name in names) + "\n")
    described = [
        {"image": item.is_image, "dtype": item.dtype.name if item.dtype else "uint8", "shape": item.valid_shape, "bytes": item.byte_size}
        | ({} if item.is_image else {"stride": item.contract().strides, "bytes": item.contract().padded_bytes})
        for item in info.inputs
        if item.is_image or item.dtype is not None
    ]
    for name, text in (("samples", "".join(lines)), ("inputs.json", json.dumps(described))):
        (folder / name).write_text(text)
        members[name] = (folder / name, False)
    _pack(archive, members)


def _unpack(archive: Path, out_dir: Path) -> None:
    """What is below `out` in the archive to `out_dir`, replacing what an earlier run left there."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=out_dir) as scratch:
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        for item in (Path(scratch) / "out").iterdir():
            target = out_dir / item.name
            if target.is_dir():
                shutil.rmtree(target)
            item.rename(target)

"""Promises: a job answers the same on this machine, in a container and on a server over SSH; its limits hold there; nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.processes import running

from qatladder.boards.fleet import BoardSpec
from qatladder.errors import BrokenError, ConfigError, RunnerError
from qatladder.runner import places
from qatladder.runner.client import LIBRARY, Environment, JobAnswer, run_job
from qatladder.runner.places import Container, Server

ADAPTER = """
import subprocess, sys, time
import numpy as np
from neighbour import GAIN
from qatladder.runner.adapter import Adapter, Sample

class Toy(Adapter):
    metric = "accuracy"

    def __init__(self, misbehave="", marker=""):
        self.misbehave, self.marker = misbehave, marker

    def samples(self, split, limit=None):
        for index in range(4):
            yield Sample({"x": np.full(3, index, np.float32)}, index)

    def preprocess(self, inputs):
        return {"x": GAIN * inputs["x"][None]}

    def load(self, rung, artifact):
        weight = float(artifact.read_text())
        if self.misbehave == "hang":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", self.marker])
            print("hanging", flush=True)
            time.sleep(300)
        if self.misbehave == "hog":
            self.hoard = [np.ones(40_000_000, np.uint8) for _ in range(10)]
            time.sleep(300)
        if self.misbehave == "bug":
            raise KeyError("head.weight of " + str(artifact))
        return lambda tensors: {"y": weight * tensors["x"]}

    def postprocess(self, outputs):
        return float(outputs["y"].mean())

    def score(self, predictions, targets):
        return {"accuracy": float(np.mean(np.isclose(predictions, 6 * np.array(targets))))}
"""


Make = Callable[..., Environment]


@pytest.fixture(params=["local", "container", "server"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes the same environment in each kind of place."""
    if request.param == "local":
        return lambda **changes: Environment("lab", Path(sys.executable), **changes)
    if request.param == "container":
        return contained(request.getfixturevalue("engine"))
    return served(request.getfixturevalue("openssh"), tmp_path)


def contained(engine: str) -> Make:
    """An image with nothing in it but what is mounted: this machine's interpreter and libraries."""
    interpreter = Path(sys.executable).resolve().parents[1]
    folders = {"/bin", "/usr", "/lib", "/lib64", str(interpreter), sys.prefix}
    options = ["--network=none", *(f"--volume={folder}:{folder}:ro" for folder in sorted(folders) if Path(folder).exists())]
    return lambda **changes: Environment("lab", Path(sys.executable), place=Container("toolchain:1", engine, tuple(options)), **changes)


def served(openssh: BoardSpec, folder: Path) -> Make:
    place = server_of(openssh, folder)
    return lambda **changes: Environment("lab", Path(sys.executable), place=place, **changes)


def server_of(openssh: BoardSpec, folder: Path) -> Server:
    known = f"UserKnownHostsFile={openssh.known_hosts}"
    options = ("-F", "/dev/null", "-p", str(openssh.port), "-i", str(openssh.key_file), "-o", "IdentitiesOnly=yes", "-o", known)
    return Server(f"{openssh.user}@{openssh.host}", options, str(folder / "there"))


def evaluate(environment: Environment, folder: Path, misbehave: str = "", marker: str = "", **extra: Any) -> tuple[JobAnswer, list[str]]:
    code = folder / "adapters"
    code.mkdir(exist_ok=True)
    (code / "toy.py").write_text(ADAPTER)
    (code / "neighbour.py").write_text("GAIN = 2\n")
    artifact = folder / "a model.txt"
    artifact.write_text("3.0")
    lines: list[str] = []
    args = {
        "adapter": f"{code}/toy.py:Toy",
        "options": {"misbehave": misbehave, "marker": marker},
        "rung": "float",
        "artifact": str(artifact),
        "split": "evaluation",
        "limit": None,
        "out": str(folder / "results" / "float"),
    }
    call = "qatladder.runner.evaluate:evaluate"
    return run_job(environment, call, args, folder / "job", log=lines.append, model="toy", **{"timeout": 120, **extra}), lines


def gone(marker: str) -> bool:
    deadline = time.monotonic() + 15
    while running(marker) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not running(marker)


def test_the_answer_and_the_files_come_back(environment: Make, tmp_path: Path) -> None:
    answer, _ = evaluate(environment(), tmp_path)
    assert answer.value["metrics"] == {"accuracy": 1.0}
    predictions = tmp_path / "results" / "float" / "predictions.json"
    assert answer.value["predictions"] == str(predictions)
    assert predictions.read_text().replace("\n", "").replace(" ", "") == "[0.0,6.0,12.0,18.0]"
    assert answer.environment["numpy"] == np.__version__
    assert len(answer.environment["sha256"]) == 64
    assert answer.peak_memory_mb is not None and answer.peak_memory_mb > 5


def test_an_error_of_the_model_names_the_users_own_file(environment: Make, tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match=r"head\.weight of") as caught:
        evaluate(environment(), tmp_path, "bug")
    assert f"'head.weight of {tmp_path}/a model.txt'" in caught.value.message
    assert f'"{tmp_path}/adapters/toy.py"' in caught.value.where["at"]


def test_a_job_out_of_time_goes_with_its_children(environment: Make, tmp_path: Path) -> None:
    marker = f"marker-{os.urandom(6).hex()}"
    with pytest.raises(BrokenError) as caught:
        evaluate(environment(), tmp_path, "hang", marker, timeout=4.0)
    assert caught.value.kind == "timeout"
    assert "hanging" in caught.value.console
    assert gone(marker)


def test_the_memory_limit_holds(environment: Make, tmp_path: Path) -> None:
    with pytest.raises(BrokenError) as caught:
        evaluate(environment(memory_mb=250), tmp_path, "hog")
    assert caught.value.kind == "memory"
    assert "memory_gb" in caught.value.next_step


def test_a_killed_worker_takes_its_job_along(environment: Make, tmp_path: Path) -> None:
    """SIGKILL: nothing of ours gets to run. The supervisor's stdin ends, wherever it is."""
    marker = f"marker-{os.urandom(6).hex()}"
    program = tmp_path / "worker.py"
    program.write_text(
        textwrap.dedent(f"""
        from pathlib import Path, PosixPath
        from qatladder.runner.client import Environment
        from qatladder.runner.places import Container, Server
        from tests.integration.runner.test_places import evaluate
        evaluate({environment()!r}, Path({str(tmp_path)!r}), "hang", {marker!r})
        """)
    )
    root = Path(__file__).resolve().parents[3]
    worker = subprocess.Popen([sys.executable, program], env={**os.environ, "PYTHONPATH": f"{LIBRARY}:{root}"}, start_new_session=True)
    deadline = time.monotonic() + 60
    while not running(f"time.sleep(300) {marker}") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running(f"time.sleep(300) {marker}")
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert gone(f"time.sleep(300) {marker}")


def test_a_container_leaves_nothing_behind(engine: str, tmp_path: Path) -> None:
    evaluate(contained(engine)(), tmp_path)
    with pytest.raises(BrokenError):
        evaluate(contained(engine)(), tmp_path, "hang", timeout=2.0)
    assert subprocess.run([engine, "ps", "-aq"], capture_output=True, check=True).stdout == b""


def test_inputs_of_a_container_are_read_only(engine: str, tmp_path: Path) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "vandal.py").write_text("")
    environment = contained(engine)()
    evaluate(environment, tmp_path)
    (tmp_path / "adapters" / "toy.py").write_text(ADAPTER.replace("weight = float", "artifact.write_text('9'); weight = float"))
    args = {"adapter": f"{tmp_path}/adapters/toy.py:Toy", "options": {}, "rung": "float", "artifact": str(tmp_path / "a model.txt")}
    args.update(split="evaluation", limit=None, out=str(tmp_path / "results"))
    with pytest.raises(RunnerError, match="Read-only"):
        run_job(environment, "qatladder.runner.evaluate:evaluate", args, tmp_path / "job")
    assert (tmp_path / "a model.txt").read_text() == "3.0"


def test_a_missing_image_and_a_missing_engine_are_named(engine: str, tmp_path: Path) -> None:
    missing = replace(contained(engine)(), place=Container("no-such-image:7", engine, ("--pull=never",)))
    with pytest.raises(BrokenError, match="could not be started") as caught:
        evaluate(missing, tmp_path)
    assert caught.value.kind == "environment_missing"
    assert "no-such-image:7" in caught.value.console
    with pytest.raises(BrokenError, match="not on PATH"):
        evaluate(replace(missing, place=Container("any", "no-such-engine")), tmp_path)


def test_files_go_to_a_server_once_and_broken_ones_again(openssh: BoardSpec, tmp_path: Path) -> None:
    environment = served(openssh, tmp_path)()
    _, first = evaluate(environment, tmp_path)
    _, second = evaluate(environment, tmp_path)
    assert any("files are new there" in line for line in first)
    assert not any("files are new there" in line for line in second)
    objects = tmp_path / "there" / "objects"
    for path in objects.iterdir():
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1])
    answer, third = evaluate(environment, tmp_path)
    assert answer.value["metrics"] == {"accuracy": 1.0}
    assert any("files are new there" in line for line in third)
    assert list((tmp_path / "there" / "jobs").iterdir()) == []


def test_a_data_set_is_not_copied_by_mistake(openssh: BoardSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MAX_CARGO", 100)
    with pytest.raises(ConfigError, match="too much to be copied") as caught:
        evaluate(served(openssh, tmp_path)(), tmp_path)
    assert "shared" in caught.value.next_step


def test_a_shared_folder_is_not_copied(openssh: BoardSpec, tmp_path: Path) -> None:
    place = replace(server_of(openssh, tmp_path), shared=(str(tmp_path),))
    answer, _ = evaluate(Environment("lab", Path(sys.executable), place=place), tmp_path)
    assert answer.value["predictions"] == str(tmp_path / "results" / "float" / "predictions.json")
    there = {path.stat().st_size for path in (tmp_path / "there" / "objects").iterdir()}
    assert len(ADAPTER) not in there


@pytest.mark.parametrize(
    ("options", "python", "kind"),
    [
        (("-p", "1"), sys.executable, "unreachable"),
        (("-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes"), sys.executable, "host_key"),
        (("-i", "/dev/null", "-o", "IdentityAgent=none"), sys.executable, "auth"),
        ((), "/no/such/python", "environment_missing"),
    ],
)
def test_what_is_wrong_with_a_server_is_named(openssh: BoardSpec, tmp_path: Path, options: tuple[str, ...], python: str, kind: str) -> None:
    given = server_of(openssh, tmp_path)
    kept = tuple(item for item in given.options if kind != "auth" or item not in ("-i", str(openssh.key_file)))
    place = replace(given, options=(*options, *kept))
    with pytest.raises(BrokenError) as caught:
        evaluate(Environment("lab", Path(python), place=place), tmp_path)
    assert caught.value.kind == kind, str(caught.value)
    assert caught.value.where["host"] == place.host


def test_a_full_disk_of_a_server_is_named(openssh: BoardSpec, tmp_path: Path) -> None:
    place = replace(server_of(openssh, tmp_path), folder="/dev/full/x")
    with pytest.raises(BrokenError, match="could not take the job") as caught:
        evaluate(Environment("lab", Path(sys.executable), place=place), tmp_path)
    assert "/dev/full" in caught.value.message


def test_a_lost_connection_is_broken_and_ends_the_job(openssh: BoardSpec, tmp_path: Path) -> None:
    """The server's end of the connection is killed in the middle of the job."""
    marker = f"marker-{os.urandom(6).hex()}"
    cut: list[int] = []

    def on_line(line: str) -> None:
        if line == "hanging":
            listing = subprocess.run(["pgrep", "-f", f"sshd: .*{openssh.user}"], capture_output=True, text=True).stdout.split()
            cut.extend(int(pid) for pid in listing if str(openssh.known_hosts.parent) in family(int(pid)) and not listens(int(pid)))
            for pid in cut:
                os.kill(pid, signal.SIGKILL)

    (tmp_path / "adapters").mkdir()
    environment = served(openssh, tmp_path)()
    with pytest.raises(BrokenError) as caught:
        run_with(environment, tmp_path, marker, on_line)
    assert cut, "no connection was found to cut"
    assert caught.value.kind in ("connection", "unreachable"), str(caught.value)
    assert gone(f"time.sleep(300) {marker}")


def listens(pid: int) -> bool:
    return "[listener]" in Path(f"/proc/{pid}/cmdline").read_text()


def family(pid: int) -> str:
    """Command lines of a process's ancestors: the connection's process is titled, the server it descends from names its files."""
    text = ""
    while pid > 1:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            text += Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        except OSError:
            return text
        pid = int(stat.rpartition(")")[2].split()[1])
    return text


def run_with(environment: Environment, folder: Path, marker: str, log: Callable[[str], None]) -> None:
    (folder / "adapters" / "toy.py").write_text(ADAPTER)
    (folder / "adapters" / "neighbour.py").write_text("GAIN = 2\n")
    (folder / "a model.txt").write_text("3.0")
    args = {
        "adapter": f"{folder}/adapters/toy.py:Toy",
        "options": {"misbehave": "hang", "marker": marker},
        "rung": "float",
        "artifact": str(folder / "a model.txt"),
        "split": "evaluation",
        "limit": None,
        "out": str(folder / "results"),
    }
    run_job(environment, "qatladder.runner.evaluate:evaluate", args, folder / "job", log=log, timeout=120)


TRICKY = """
import os, subprocess, sys
from pathlib import Path
import numpy as np
from qatladder.runner.adapter import Adapter, Sample

class Toy(Adapter):
    metric = "accuracy"

    def __init__(self, folder="", adapter="", link=""):
        self.folder, self.adapter, self.link = folder, adapter, link

    def samples(self, split, limit=None):
        assert Path("relative.txt").write_text("x")
        for name in sorted(os.listdir(self.folder)):
            yield Sample({"x": np.ones(1, np.float32)}, name)

    def preprocess(self, inputs):
        return {"x": inputs["x"][None]}

    def load(self, rung, artifact):
        assert artifact.read_text() == "linked", artifact
        assert Path(self.adapter).read_text() == "lora"
        subprocess.run([str(Path(__file__).with_name("helper.sh"))], check=True)
        return lambda tensors: {"y": tensors["x"]}

    def postprocess(self, outputs):
        return 1.0

    def score(self, predictions, targets):
        out = Path(self.link)
        (out / "best.bin").write_text("best")
        os.link(str(out / "best.bin"), str(out / "last.bin"))
        os.symlink("best.bin", str(out / "newest.bin"))
        (out / "a.part").write_text("part")
        (out / "given.txt").write_text("new")
        return {"accuracy": 1.0, "count": float(len(targets))}
"""


def test_what_a_job_reads_and_writes_is_the_same_everywhere(environment: Make, tmp_path: Path) -> None:
    """Options may be called as our arguments are; links, executables, changed inputs and other names of a file go both ways."""
    zoo, store, data, out = (tmp_path / name for name in ("zoo", "store", "data", "out"))
    for folder in (zoo, store, data, out / "sub"):
        folder.mkdir(parents=True)
    (zoo / "toy.py").write_text(TRICKY)
    (zoo / "helper.sh").write_text("#!/bin/sh\nexit 0\n")
    (zoo / "helper.sh").chmod(0o755)
    (zoo / "again").symlink_to(".")
    (store / "m.txt").write_text("linked")
    (zoo / "m.txt").symlink_to("../store/m.txt")
    (data / "a.txt").write_text("a")
    (data / "lora.bin").write_text("lora")
    (out / "given.txt").write_text("old")
    args = {
        "adapter": f"{zoo}/toy.py:Toy",
        "options": {"folder": str(data), "adapter": f"{data}/lora.bin", "link": str(out)},
        "rung": "float",
        "artifact": f"{zoo}/m.txt",
        "split": "evaluation",
        "limit": None,
        "out": f"{tmp_path}/elsewhere/../out",
    }
    answer = run_job(environment(), "qatladder.runner.evaluate:evaluate", args, tmp_path / "job", timeout=120, reads=[zoo])
    assert answer.value["metrics"]["count"] == 2.0
    assert answer.value["predictions"] == str(out / "predictions.json")
    found = {path.name: path.read_text() for path in out.iterdir() if path.is_file()}
    assert {name: text for name, text in found.items() if name not in ("predictions.json", "targets.json", "scores.json")} == {
        "best.bin": "best",
        "last.bin": "best",
        "newest.bin": "best",
        "a.part": "part",
        "given.txt": "new",
    }
    assert sorted(path.name for path in data.iterdir()) == ["a.txt", "lora.bin"]
    assert not (Path.home() / "relative.txt").exists()
    assert not (tmp_path / "job" / "scratch").exists()


@pytest.mark.parametrize("size", [600, 3000, 4608])
def test_results_that_are_cut_on_the_way_home_are_never_taken_for_whole(
    openssh: BoardSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """An `ssh` that ends in the middle of what comes back."""
    real = shutil.which("ssh")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "ssh"
    program.write_text(f'#!/bin/sh\ncase "$*" in *" get") {real} "$@" | head -c {size};; *) exec {real} "$@";; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "results" / "float").mkdir(parents=True)
    (tmp_path / "results" / "float" / "predictions.json").write_text("of an earlier run")
    with pytest.raises(BrokenError, match="did not come back whole") as caught:
        evaluate(served(openssh, tmp_path)(), tmp_path)
    assert caught.value.kind == "connection"
    assert not (tmp_path / "job" / "result.json").exists()
    assert (tmp_path / "results" / "float" / "predictions.json").read_text() == "of an earlier run"


def test_a_login_shell_may_greet(openssh: BoardSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which("ssh")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(
        f'#!/bin/sh\ncase "$*" in *"-O exit"*) ;; *) echo "Welcome to the machine";; esac\nexec {real} "$@"\n'
    )
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    answer, _ = evaluate(served(openssh, tmp_path)(), tmp_path)
    assert answer.value["metrics"] == {"accuracy": 1.0}


def test_a_file_that_becomes_shorter_while_it_is_sent_is_named(openssh: BoardSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = places.shutil.copyfileobj

    def shorter(source: Any, target: Any, length: int = 0) -> None:
        target.write(source.read()[:-1]) if getattr(source, "name", "").endswith("a model.txt") else sent(source, target, length)

    monkeypatch.setattr(places.shutil, "copyfileobj", shorter)
    with pytest.raises(BrokenError, match="could not take the job") as caught:
        evaluate(served(openssh, tmp_path)(), tmp_path)
    assert caught.value.kind == "artifact_changed"


def test_a_name_never_leaves_a_jobs_folder(openssh: BoardSpec, tmp_path: Path) -> None:
    """Names that leave a job's folder are refused at the other end, too."""
    link = places._Link(server_of(openssh, tmp_path), sys.executable, "/tmp", {})
    process = link.stage("put", {"job": "x", "files": [], "folders": ["files/../../../escaped"]})
    link.answer(process)
    with pytest.raises(BrokenError, match="leaves the job's folder"):
        link.answer(process)
    assert not (tmp_path / "there" / "escaped").exists()


def test_dots_lead_where_the_system_says(tmp_path: Path) -> None:
    """`link/../x` is beside the link's target, not beside the link."""
    (tmp_path / "far" / "inner").mkdir(parents=True)
    (tmp_path / "far" / "x").write_text("")
    (tmp_path / "link").symlink_to("far/inner")
    assert places.plain({"a": [f"{tmp_path}/link/../x"], "b": "../x"}) == {"a": [str(tmp_path.resolve() / "far" / "x")], "b": "../x"}

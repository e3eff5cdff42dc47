"""Promises: a job's answer or its precise error comes back; a dead, slow or missing environment is `broken`, never an answer."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.processes import running

from qatladder.errors import ArtifactError, BrokenError, ConfigError, RunnerError
from qatladder.runner.client import Environment, run_job

ADAPTER = """
import os, signal, sys, time
import numpy as np
from qatladder.runner.adapter import Adapter, Sample

class Toy(Adapter):
    metric = "accuracy"
    batch = 3

    def __init__(self, misbehave=""):
        self.misbehave = misbehave

    def samples(self, split, limit=None):
        rng = np.random.default_rng(0)
        for index in range(limit or 7):
            size = 5 if self.misbehave == "ragged" and index == 2 else 4
            yield Sample({"x": rng.normal(size=(size,)).astype("float32")}, index % 2)

    def preprocess(self, inputs):
        return {"x": inputs["x"][None] * 2}

    def load(self, rung, artifact):
        if self.misbehave == "hang":
            time.sleep(60)
        if self.misbehave == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.misbehave == "bug":
            raise KeyError("head.weight")
        print("loading", rung)
        return lambda tensors: {"y": tensors["x"] * (np.nan if self.misbehave == "nan" else 1.0)}

    def postprocess(self, outputs):
        return [float(value) for value in outputs["y"].ravel()]

    def score(self, predictions, targets):
        return {"loss": 1.0} if self.misbehave == "no metric" else {"accuracy": len(predictions) / 7}

class NotAnAdapter:
    pass
"""


@pytest.fixture
def adapter(tmp_path: Path) -> str:
    path = tmp_path / "toy.py"
    path.write_text(ADAPTER)
    return f"{path}:Toy"


@pytest.fixture
def environment() -> Environment:
    return Environment("product", Path(sys.executable))


def evaluate(environment: Environment, adapter: str, folder: Path, misbehave: str = "", **extra: float):  # type: ignore[no-untyped-def]
    artifact = folder / "model.bin"
    artifact.write_bytes(b"x")
    args = {
        "adapter": adapter,
        "options": {"misbehave": misbehave},
        "rung": "float",
        "artifact": str(artifact),
        "split": "evaluation",
        "limit": None,
        "out": str(folder / "out"),
    }
    lines: list[str] = []
    answer = run_job(environment, "qatladder.runner.evaluate:evaluate", args, folder / "job", log=lines.append, model="toy", **extra)
    return answer, lines


def test_an_evaluation_comes_back_with_its_log_and_its_environment(environment: Environment, adapter: str, tmp_path: Path) -> None:
    answer, lines = evaluate(environment, adapter, tmp_path)
    assert answer.value["metrics"] == {"accuracy": 1.0}
    assert answer.value["count"] == 7
    assert answer.environment["numpy"] == np.__version__
    assert "loading float" in lines


@pytest.mark.parametrize(
    ("misbehave", "kind", "match"),
    [
        ("bug", RunnerError, "KeyError"),
        ("nan", RunnerError, "not finite"),
        ("no metric", RunnerError, "primary metric"),
    ],
)
def test_the_models_own_faults_come_back_as_such(
    environment: Environment, adapter: str, tmp_path: Path, misbehave: str, kind: type[Exception], match: str
) -> None:
    with pytest.raises(kind, match=match) as caught:
        evaluate(environment, adapter, tmp_path, misbehave)
    assert caught.value.where["model"] == "toy"


def test_a_killed_job_is_broken(environment: Environment, adapter: str, tmp_path: Path) -> None:
    with pytest.raises(BrokenError, match="died") as caught:
        evaluate(environment, adapter, tmp_path, "die")
    assert caught.value.kind == "killed"


def test_an_old_result_is_never_taken_for_the_answer(environment: Environment, adapter: str, tmp_path: Path) -> None:
    evaluate(environment, adapter, tmp_path)
    with pytest.raises(BrokenError):
        evaluate(environment, adapter, tmp_path, "die")


def test_a_job_out_of_time_is_ended_with_its_children(environment: Environment, adapter: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(BrokenError) as caught:
        evaluate(environment, adapter, tmp_path, "hang", timeout=3.0)
    assert caught.value.kind == "timeout"
    assert time.monotonic() - started < 30
    assert not running(str(tmp_path))


def test_a_missing_interpreter_is_broken_and_says_which(adapter: str, tmp_path: Path) -> None:
    with pytest.raises(BrokenError, match="interpreter does not exist") as caught:
        evaluate(Environment("ghost", tmp_path / "no" / "python"), adapter, tmp_path)
    assert caught.value.kind == "environment_missing"


def test_a_missing_artifact_is_named(environment: Environment, adapter: str, tmp_path: Path) -> None:
    args = {"adapter": adapter, "options": {}, "rung": "qat", "artifact": str(tmp_path / "gone.pt"), "tensors": {}, "out": str(tmp_path)}
    with pytest.raises(ArtifactError, match="does not exist") as caught:
        run_job(environment, "qatladder.runner.evaluate:infer", args, tmp_path / "job")
    assert caught.value.where["file"].endswith("gone.pt")
    assert "make zoo" in caught.value.next_step


def test_samples_of_different_shape_are_refused(environment: Environment, adapter: str, tmp_path: Path) -> None:
    args = {"adapter": adapter, "options": {"misbehave": "ragged"}, "split": "evaluation", "limit": None, "out": str(tmp_path)}
    with pytest.raises(RunnerError, match="differ in shape"):
        run_job(environment, "qatladder.runner.evaluate:export_samples", args, tmp_path / "job")


def test_preprocess_infer_and_score_agree_with_evaluate(environment: Environment, adapter: str, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"x")
    common = {"adapter": adapter, "options": {}}
    raw = run_job(
        environment,
        "qatladder.runner.evaluate:export_samples",
        {**common, "split": "evaluation", "limit": 5, "out": str(tmp_path / "raw")},
        tmp_path / "1",
    ).value
    tensors = run_job(
        environment, "qatladder.runner.evaluate:preprocess", {**common, "inputs": raw["inputs"], "out": str(tmp_path / "t")}, tmp_path / "2"
    ).value
    outputs = run_job(
        environment,
        "qatladder.runner.evaluate:infer",
        {**common, "rung": "float", "artifact": str(tmp_path / "m"), "tensors": tensors["tensors"], "out": str(tmp_path / "o")},
        tmp_path / "3",
    ).value
    np.testing.assert_array_equal(np.load(outputs["tensors"]["y"]), np.load(raw["inputs"]["x"]) * 2)
    value = run_job(
        environment,
        "qatladder.runner.evaluate:score",
        {**common, "outputs": outputs["tensors"], "targets": raw["targets"], "out": str(tmp_path / "s")},
        tmp_path / "4",
    ).value
    assert value["metrics"] == {"accuracy": 5 / 7}


@pytest.mark.parametrize(
    ("reference", "match"),
    [("toy.py", "written file.py:ClassName"), ("gone.py:Toy", "does not exist"), ("toy.py:NotAnAdapter", "derives from")],
)
def test_a_wrong_adapter_reference_is_explained(environment: Environment, adapter: str, tmp_path: Path, reference: str, match: str) -> None:
    args = {"adapter": str(tmp_path / reference), "options": {}, "split": "evaluation", "limit": 1, "out": str(tmp_path)}
    with pytest.raises(ConfigError, match=match):
        run_job(environment, "qatladder.runner.evaluate:export_samples", args, tmp_path / "job")


def test_only_functions_of_the_product_can_be_called(environment: Environment, tmp_path: Path) -> None:
    with pytest.raises(BrokenError, match="only functions of qatladder"):
        run_job(environment, "os:getcwd", {}, tmp_path / "job")


SECRETS = [
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "_AIRFLOW_WWW_USER_USERNAME",
    "COVERAGE_PROCESS_START",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "QATLADDER_ALERTS",
    "QATLADDER_ADMIN_PASSWORD",
    "QATLADDER_BOARD_PASSWORD",
    "GITHUB_TOKEN",
    "FERNET_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "client_secret",
]


def test_no_setting_and_no_secret_of_the_scheduler_reaches_a_models_code(
    environment: Environment, adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path))
    path = tmp_path / "spy.py"
    path.write_text(ADAPTER.replace("class Toy", "print('SEEN', *sorted(os.environ))\nclass Toy"))
    _, lines = evaluate(environment, f"{path}:Toy", tmp_path)
    seen = next(line for line in lines if line.startswith("SEEN")).split()
    assert [name for name in SECRETS if name in seen] == []
    assert {"QATLADDER_HOME", "PATH"} <= set(seen)
    given = Environment("s3", environment.python, variables={"AWS_SECRET_ACCESS_KEY": "for the data"})
    _, lines = evaluate(given, f"{path}:Toy", tmp_path)
    assert "AWS_SECRET_ACCESS_KEY" in next(line for line in lines if line.startswith("SEEN")).split()


LEAVES_A_CHILD = """
        import subprocess
        child = subprocess.Popen(["sleep", "60"])
        print("child", child.pid, flush=True)
"""


def test_a_child_left_behind_does_not_hold_the_answer_back(environment: Environment, adapter: str, tmp_path: Path) -> None:
    path = tmp_path / "parent.py"
    path.write_text(ADAPTER.replace('        print("loading", rung)\n', LEAVES_A_CHILD))
    started = time.monotonic()
    answer, lines = evaluate(environment, f"{path}:Toy", tmp_path, timeout=40.0)
    assert time.monotonic() - started < 20
    assert answer.value["metrics"] == {"accuracy": 1.0}
    child = next(line.split()[1] for line in lines if line.startswith("child"))
    assert ended(child), "the child outlives its job"


def ended(pid: str, within: float = 10.0) -> bool:
    """A killed process takes its time on a busy machine."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False).stdout.strip()
        if not state or state.startswith("Z"):
            return True
        time.sleep(0.1)
    return False


def test_lines_are_told_while_the_job_runs_and_none_is_lost(environment: Environment, adapter: str, tmp_path: Path) -> None:
    path = tmp_path / "chatty.py"
    chatter = "print('first', flush=True); time.sleep(1.5); [print('line', i, '\u00e4' * 50) for i in range(5000)]; print('no end', end='')"
    path.write_text(ADAPTER.replace('print("loading", rung)', chatter), encoding="utf-8")
    told: list[tuple[float, str]] = []
    (tmp_path / "m").write_bytes(b"x")
    np.save(tmp_path / "x.npy", np.ones((1, 4), "float32"))
    args = {"rung": "float", "artifact": str(tmp_path / "m"), "tensors": {"x": str(tmp_path / "x.npy")}, "out": str(tmp_path / "o")}
    utf8 = Environment("utf8", environment.python, variables={"PYTHONIOENCODING": "utf-8"})
    run_job(
        utf8,
        "qatladder.runner.evaluate:infer",
        {"adapter": f"{path}:Toy", "options": {}, **args},
        tmp_path / "job",
        log=lambda line: told.append((time.monotonic(), line)),
    )
    lines = [line for _, line in told]
    assert lines == ["first", *(f"line {index} {'ä' * 50}" for index in range(5000)), "no end"]
    assert told[1][0] - told[0][0] > 1


def test_a_job_out_of_time_names_the_entrys_field(environment: Environment, adapter: str, tmp_path: Path) -> None:
    with pytest.raises(BrokenError) as caught:
        evaluate(environment, adapter, tmp_path, "hang", timeout=2.0)
    assert "`timeout_minutes`" in caught.value.next_step


def test_the_runner_parses_as_python_3_8(project: Path) -> None:
    import ast

    files = [project / "include/qatladder/__init__.py", project / "include/qatladder/errors.py"]
    files += [*project.glob("include/qatladder/numerics/*.py"), *project.glob("include/qatladder/runner/*.py")]
    assert len(files) > 8
    for path in files:
        ast.parse(path.read_text(), feature_version=(3, 8))


def test_a_long_job_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    from qatladder.runner.evaluate import Progress

    quiet, loud = Progress("ran", 4), Progress("ran", 4, seconds=0.0)
    for done in range(1, 5):
        quiet.at(done)
        loud.at(done)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[-1].startswith("ran 4 of 4 samples, ")


def test_an_adapter_may_have_dataclasses(tmp_path: Path) -> None:
    from qatladder.runner.adapter import load_adapter

    text = "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom qatladder.runner.adapter import Adapter\n"
    (tmp_path / "data.py").write_text(text + "@dataclass\nclass Box:\n    x: int\n\nclass Toy(Adapter):\n    box = Box(1)\n")
    assert load_adapter(f"{tmp_path}/data.py:Toy").box.x == 1  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="no such option") as caught:
        load_adapter(f"{tmp_path}/data.py:Toy", {"colour": "red"})
    assert caught.value.where["found"] == "colour"


STRAY = """
import subprocess, sys, threading, time
import numpy as np
from qatladder.runner.adapter import Adapter, Sample

class Toy(Adapter):
    def __init__(self, how, marker):
        self.how, self.marker = how, marker

    def samples(self, split, limit=None):
        if self.how == "session":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", self.marker], start_new_session=True)
            time.sleep(300)
        if self.how == "exit":
            sys.exit("the checkpoint has no head")
        if self.how == "thread":
            threading.Thread(target=time.sleep, args=(300,)).start()
        yield Sample({"x": np.ones(1, np.float32)}, 0)

    def preprocess(self, inputs):
        return {"x": inputs["x"][None]}

    def postprocess(self, outputs):
        return 0

    def score(self, predictions, targets):
        return {"accuracy": 1.0}

    def load(self, rung, artifact):
        return lambda tensors: tensors
"""


def stray(folder: Path, how: str, timeout: float) -> tuple[object, str]:
    marker = f"marker-{time.monotonic_ns()}"
    (folder / "toy.py").write_text(STRAY)
    (folder / "m").write_text("")
    args = {"adapter": f"{folder}/toy.py:Toy", "options": {"how": how, "marker": marker}, "rung": "float", "artifact": f"{folder}/m"}
    args.update(split="evaluation", limit=None, out=f"{folder}/out")
    call = "qatladder.runner.evaluate:evaluate"
    return lambda: run_job(Environment("lab", Path(sys.executable)), call, args, folder / "job", timeout=timeout), marker


def test_a_child_with_a_session_of_its_own_goes_too(tmp_path: Path) -> None:
    run, marker = stray(tmp_path, "session", 3.0)
    with pytest.raises(BrokenError) as caught:
        run()  # type: ignore[operator]
    assert caught.value.kind == "timeout"
    assert not running(marker)


def test_an_adapter_that_exits_is_the_models_fault(tmp_path: Path) -> None:
    run, _ = stray(tmp_path, "exit", 60.0)
    with pytest.raises(RunnerError, match="the checkpoint has no head"):
        run()  # type: ignore[operator]


def test_a_thread_left_behind_keeps_nobody_waiting(tmp_path: Path) -> None:
    run, _ = stray(tmp_path, "thread", 30.0)
    started = time.monotonic()
    assert run().value["metrics"] == {"accuracy": 1.0}  # type: ignore[operator]
    assert time.monotonic() - started < 20


def test_a_folder_is_no_interpreter(tmp_path: Path) -> None:
    with pytest.raises(BrokenError, match="cannot be run") as caught:
        run_job(Environment("lab", tmp_path), "qatladder.runner.probe:probe", {}, tmp_path / "job")
    assert caught.value.kind == "environment_missing"

"""Promises: a training script announces with one file and no package, on Python 3.8 too; the examples of docs/after-training.md work as they stand."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.unit.stores import make_bucket

from qatladder import announce
from qatladder.announcements import parse
from qatladder.announcements.form import Announcement
from qatladder.evidence.store import S3Store
from qatladder.zoo.schema import Artifacts

SCRIPT = Path(announce.__file__)
DOC = SCRIPT.parents[2] / "docs" / "after-training.md"
NOW = datetime.datetime(2026, 11, 27, tzinfo=datetime.UTC)


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("QATLADDER_A", "QATLADDER_S3")):
            monkeypatch.delenv(name)


def only(folder):
    """The one announcement of a folder, as it is read."""
    (path,) = folder.glob("*.json")
    assert [item.name for item in folder.iterdir()] == [path.name], "nothing else is left"
    return parse(path.read_bytes(), str(path), NOW)


def pythons():
    """Interpreters to try the file with: ours, and a Python 3.8 where there is one."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in [shutil.which("python3.8"), *map(str, sorted(root.glob("3.8.*/bin/python")))]:
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return [sys.executable, candidate]
    return [sys.executable]


@pytest.mark.parametrize("python", pythons())
def test_the_file_alone_announces_from_any_python(python, tmp_path):
    shutil.copy(SCRIPT, tmp_path / "announce.py")
    (tmp_path / "qat.pt").write_bytes(b"weights")
    command = [
        python,
        "-I",
        "-W",
        "error",
        "announce.py",
        "lanes",
        "--version",
        "1.0+a",
        "--artifact",
        "qat=qat.pt",
        "--training",
        "git=1f=3",
    ]
    done = subprocess.run([*command, "--to", "drop"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = only(tmp_path / "drop")
    assert done.stdout.strip() == "drop/" + next((tmp_path / "drop").iterdir()).name
    assert found.artifacts == {"qat": hashlib.sha256(b"weights").hexdigest()}
    assert (found.label, found.training) == ("lanes 1.0+a", {"git": "1f=3"})
    assert "@" in found.who and abs((found.when - datetime.datetime.now(datetime.UTC)).total_seconds()) < 60


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["lanes"], 3, "QATLADDER_ANNOUNCE_TO"),
        (["lanes", "--to", "x", "--artifact", "weights=a"], 3, "no such artifact role: weights"),
        (["lanes", "--to", "x", "--artifact", "qat"], 3, "NAME=VALUE"),
        (["lanes", "--to", "x", "--artifact", "qat=none.pt"], 3, "none.pt"),
        (["lanes", "--to", "/dev/null/x"], 2, "/dev/null/x"),
        (["lanes", "--to", "http://127.0.0.1:9"], 2, "QATLADDER_AIRFLOW_TOKEN"),
    ],
)
def test_what_did_not_arrive_is_told_by_the_exit_code(arguments, code, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert announce.main(arguments) == code
    assert told in capsys.readouterr().err


def test_what_is_no_json_is_refused_where_it_was_written(tmp_path):
    for value in ({1, 2}, float("nan")):
        with pytest.raises((TypeError, ValueError)):
            announce.announce("lanes", training={"x": value}, to=str(tmp_path / "drop"))
    assert not (tmp_path / "drop").exists()


def test_sender_and_receiver_mean_the_same(tmp_path):
    assert tuple(Artifacts.model_fields) == announce.ROLES
    data = announce.content("m", "1", {"hbm": "0" * 64}, "t", {"a": 1}, "me", "2026-11-27T08:30:00Z")
    assert set(data) == set(Announcement.model_fields)


def test_the_same_announcement_has_the_same_name_and_another_another():
    data = announce.content("m", when="2026-11-27T08:30:00Z", who="me")
    assert announce.file_name(data) == announce.file_name(dict(data))
    assert announce.file_name({**data, "who": "you"}) != announce.file_name(data)
    assert "/" not in announce.file_name({**data, "model": "../m"})


@pytest.mark.parametrize("name", ["moto", "nanio"])
def test_s3_gets_it_whole(servers, name, monkeypatch):
    bucket = f"announce-{name}"
    make_bucket(servers[name], bucket, monkeypatch)
    monkeypatch.setenv("QATLADDER_S3_ENDPOINT", servers[name])
    address = announce.announce("lanes", "1", to=f"s3://{bucket}/in/box/")
    store = S3Store(bucket, "in/box", servers[name])
    (key,) = store.keys("")
    assert address == store.uri(key)
    assert parse(store.read_key(key), key, NOW).label == "lanes 1"


def test_a_bucket_that_is_not_there_did_not_get_it(servers, monkeypatch):
    make_bucket(servers["moto"], "other", monkeypatch)
    monkeypatch.setenv("QATLADDER_S3_ENDPOINT", servers["moto"])
    with pytest.raises(announce.AnnounceError, match="s3://none/x"):
        announce.announce("lanes", to="s3://none/x")


@pytest.fixture
def airflow():
    """The three calls of Airflow's REST API; tests/e2e asks the real one."""

    class Api(BaseHTTPRequestHandler):
        events, busy, assets = [], [], [{"id": 3, "name": "qatladder_models_old"}, {"id": 7, "name": "qatladder_models"}]

        def do_GET(self):
            assert self.headers["Authorization"] == "Bearer token-of-me"
            self.answer({"assets": self.assets})

        def do_POST(self):
            data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/auth/token":
                return self.answer({"access_token": "token-of-" + data["username"]}, 201 if data["password"] == "secret" else 401)
            if self.busy:
                self.busy.pop()
                return self.answer({"detail": "database is locked"}, 500)
            self.events.append(data)
            self.answer({"id": 12})

        def answer(self, data, status=200):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(data).encode())

        def log_message(self, *_): ...

    server = HTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Api.url = f"http://127.0.0.1:{server.server_port}"
    yield Api
    server.shutdown()


def test_airflow_gets_an_event_of_exactly_that_asset(airflow, monkeypatch):
    monkeypatch.setenv("QATLADDER_AIRFLOW_USER", "me")
    monkeypatch.setenv("QATLADDER_AIRFLOW_PASSWORD", "secret")
    assert announce.announce("lanes", "1", to=airflow.url + "/").endswith("event 12")
    (event,) = airflow.events
    assert event["asset_id"] == 7 and event["extra"]["model"] == "lanes"
    monkeypatch.setenv("QATLADDER_AIRFLOW_PASSWORD", "wrong")
    with pytest.raises(announce.AnnounceError, match="401"):
        announce.announce("lanes", to=airflow.url)
    monkeypatch.setenv("QATLADDER_AIRFLOW_TOKEN", "token-of-me")
    monkeypatch.setattr(airflow, "assets", [])
    with pytest.raises(announce.AnnounceError, match="model_announced"):
        announce.announce("lanes", to=airflow.url)


def test_a_busy_or_absent_airflow_is_asked_again_and_then_given_up(airflow, monkeypatch):
    monkeypatch.setenv("QATLADDER_AIRFLOW_TOKEN", "token-of-me")
    monkeypatch.setattr(announce, "PAUSES", (0.0, 0.0))
    airflow.busy[:] = [1, 1]
    announce.announce("lanes", "1", to=airflow.url)
    assert len(airflow.events) == 1
    airflow.busy[:] = [1, 1, 1]
    with pytest.raises(announce.AnnounceError, match="database is locked"):
        announce.announce("lanes", "1", to=airflow.url)
    with pytest.raises(announce.AnnounceError, match="cannot be reached"):
        announce.announce("lanes", "1", to="http://127.0.0.1:9")


def block(heading, language="python"):
    """The first code block of a section of the guide."""
    section = DOC.read_text(encoding="utf-8").split(f"{heading}\n", 1)[1]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found, heading
    return found[1]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder of training code with the file copied into it, as the guide says."""
    shutil.copy(SCRIPT, tmp_path / "announce.py")
    (tmp_path / "zoo" / "lanes").mkdir(parents=True)
    monkeypatch.setenv("QATLADDER_ANNOUNCE_TO", str(tmp_path / "drop"))
    return tmp_path


def run(desk, code):
    (desk / "train.py").write_text(code)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    return subprocess.run([sys.executable, "train.py"], cwd=desk, capture_output=True, text=True, check=False, env=environment)


def test_the_example_of_plain_torch(desk):
    before = "import torch\nnet, loss, zoo = torch.nn.Linear(2, 2), torch.tensor(0.5), 'zoo'\n"
    done = run(desk, before + block("### Plain torch"))
    assert done.returncode == 0, done.stderr
    found = only(desk / "drop")
    assert found.artifacts == {"qat": hashlib.sha256((desk / "zoo/lanes/qat.pt").read_bytes()).hexdigest()}
    assert found.training["loss"] == 0.5


def test_the_example_of_lightning(desk):
    pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
    before = """
import lightning.pytorch as pl, torch
zoo, options = "zoo", dict(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 1)
    def training_step(self, batch):
        loss = self.net(batch).square().mean()
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)
module, loader = Net(), torch.utils.data.DataLoader(torch.ones(8, 2), 4)
"""
    done = run(desk, before + block("### PyTorch Lightning"))
    assert done.returncode == 0, done.stderr
    found = only(desk / "drop")
    assert found.training["epochs"] == 2 and "loss" in found.training["metrics"]
    assert found.artifacts == {"qat": hashlib.sha256((desk / "zoo/lanes/qat.pt").read_bytes()).hexdigest()}


def test_the_example_of_hat(desk):
    (desk / "tools").mkdir()
    (desk / "tools" / "train.py").write_text(
        "import os, sys\nos.makedirs('tmp_models/lanes', exist_ok=True)\n"
        "open(f'tmp_models/lanes/{sys.argv[-1]}-checkpoint-best.pth.tar', 'w').write(sys.argv[-1])\n"
    )
    environment = {**os.environ, "CONFIG": "configs/lanes.py", "TASK": "lanes", "MODEL": "lanes", "VERSION": "3", "ZOO": "zoo/lanes"}
    for command in (
        ["git", "init", "-q"],
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(command, cwd=desk, check=True, env=environment)
    done = subprocess.run(
        ["bash", "-c", block("### HAT (horizon_torch_samples)", "bash")],
        cwd=desk,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    found = only(desk / "drop")
    assert found.artifacts["calib"] == hashlib.sha256(b"calibration").hexdigest() and set(found.artifacts) == {"float", "calib", "qat"}
    assert found.training["config"] == "configs/lanes.py" and len(found.training["git"]) == 40


def test_the_example_of_the_form_has_every_field():
    text = re.sub(r'"[0-9a-f]{6}…[^"]*"', f'"{"0" * 64}"', block("# After training", "json"))
    assert set(json.loads(text)) == set(Announcement.model_fields) - {"announcement"}
    assert parse(text.encode(), "the guide", NOW).label == "lanes 2026.11 @ bayes-e"


def test_the_example_of_a_file_is_half_written_to_nobody(desk):
    code = re.search(r"```bash\n(.*?)```", DOC.read_text().split("## A folder, or S3", 1)[1], re.DOTALL)[1]
    (desk / "drop").mkdir()
    subprocess.run(["bash", "-ec", code.replace("/data/announcements", str(desk / "drop"))], check=True)
    assert only(desk / "drop").label == "lanes 2026.11"

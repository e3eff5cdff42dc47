"""Promises: a new version in an MLflow registry is one announcement, whatever fails on the way; models of others are left alone.

Against a stand-in that honours the REST contract, and against MLflow's own server where one is installed: on PATH, or where
QATLADDER_TEST_MLFLOW says.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qatladder.announcements import inbox, registry
from qatladder.announcements.registry import Registry, look, poll
from qatladder.errors import BrokenError, ConfigError
from qatladder.evidence.store import FolderStore, Store

STAND_IN = Path(__file__).parents[2] / "standins" / "mlflow_registry.py"
ZOO = ("toy", "lanes")


def post(url: str, data: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(data).encode(), {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return dict(json.loads(answer.read()))


def serve(command: Callable[[int], list[str]], folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command(port), stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        for _ in range(600):
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        else:
            pytest.fail((folder / "log").read_text()[-2000:])
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from serve(lambda port: [sys.executable, str(STAND_IN), str(port)], tmp_path_factory.mktemp("standin"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = os.environ.get("QATLADDER_TEST_MLFLOW") or shutil.which("mlflow")
    if not program:
        pytest.skip("MLflow is not installed; QATLADDER_TEST_MLFLOW names its program")
    folder = tmp_path_factory.mktemp("mlflow")
    options = ["--backend-store-uri", f"sqlite:///{folder / 'db.sqlite'}", "--host", "127.0.0.1", "--workers", "1"]
    yield from serve(lambda port: [program, "server", *options, "--port", str(port)], folder)


class Server:
    """A registry to put versions into."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url, self.prefix = url, prefix

    def model(self, name: str, **tags: str) -> None:
        post(f"{self.url}/api/2.0/mlflow/registered-models/create", {"name": name, "tags": self.tags(tags)})

    def version(self, name: str, **tags: str) -> str:
        time.sleep(0.002)  # MLflow's clock has milliseconds
        data = {"name": name, "source": "s3://bucket/model", "tags": self.tags(tags)}
        return str(post(f"{self.url}/api/2.0/mlflow/model-versions/create", data)["model_version"]["version"])

    def tag(self, name: str, version: str, key: str, value: str) -> None:
        post(f"{self.url}/api/2.0/mlflow/model-versions/set-tag", {"name": name, "version": version, "key": key, "value": value})

    def set(self, **settings: Any) -> None:
        post(f"{self.url}/settings", settings)

    @staticmethod
    def tags(tags: dict[str, str]) -> list[dict[str, str]]:
        return [{"key": key.replace("__", "."), "value": value} for key, value in tags.items()]


@pytest.fixture(params=["stand-in", "real"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Server:
    return Server(request.getfixturevalue("stand_in" if request.param == "stand-in" else "real"), tmp_path.name)


@pytest.fixture
def box(tmp_path: Path) -> Store:
    return FolderStore(tmp_path / "inbox")


def take(server: Server, box: Store, *models: str) -> list[str]:
    """Poll; labels of what is pending, oldest first, which then is settled."""
    poll(Registry(server.url), box, models or ZOO, lambda line: None)
    found = inbox.pending(box)[::-1]
    for item in found:
        inbox.settle(box, item, "run", "")
    return [item.label for item in found]


def test_versions_from_before_the_first_look_are_not_announced_and_later_ones_are_once(server, box):
    name = f"{server.prefix}-a"
    server.model(name)
    server.version(name)
    assert take(server, box, name) == []
    server.version(name)
    server.version(name)
    assert take(server, box, name) == [name, name]
    assert take(server, box, name) == []
    server.version(name)
    assert take(server, box, name) == [name]


def test_tags_say_which_model_version_target_and_bytes_are_meant(server, box):
    name = f"{server.prefix}-their name"
    take(server, box)
    server.model(name)
    tags = {
        "qatladder__model": "lanes",
        "qatladder__version": "2026.11",
        "qatladder__target": "bayes-e",
        "qatladder__sha256__qat": "a" * 64,
    }
    number = server.version(name, **tags)
    poll(Registry(server.url), box, ZOO, lambda line: None)
    (found,) = inbox.pending(box)
    assert found.label == "lanes 2026.11 @ bayes-e"
    assert found.announcement.artifacts == {"qat": "a" * 64}
    assert found.announcement.training["mlflow_model"] == name and found.announcement.training["mlflow_version"] == number
    assert abs(found.when.timestamp() - time.time()) < 60


def test_a_tag_of_the_registered_model_speaks_for_its_versions(server, box):
    name = f"{server.prefix}-tagged"
    take(server, box)
    server.model(name, qatladder__model="lanes")
    server.version(name)
    assert take(server, box) == ["lanes"]


def test_models_of_others_are_left_alone_until_they_are_tagged(server, box):
    name = f"{server.prefix}-other"
    take(server, box)
    server.model(name)
    number = server.version(name)
    assert take(server, box) == []
    server.tag(name, number, "qatladder.model", "toy")
    assert take(server, box) == ["toy"]


def test_a_tag_that_is_wrong_is_rejected_with_its_name_once(server, box):
    name = f"{server.prefix}-wrong"
    take(server, box)
    server.model(name)
    server.version(name, qatladder__model="toy", qatladder__sha256__qat="not a hash")
    poll(Registry(server.url), box, ZOO, lambda line: None)
    (found,) = inbox.pending(box)
    assert found.announcement is None and "artifacts.qat" in found.problem and name in found.source
    assert look(Registry(server.url), box, ZOO)[0] == []


def test_many_versions_come_in_pages(server, box, monkeypatch):
    monkeypatch.setattr(registry, "PAGE", 2)
    name = f"{server.prefix}-many"
    take(server, box, name)
    server.model(name)
    for _ in range(5):
        server.version(name)
    assert take(server, box, name) == [name] * 5


def test_an_interruption_announces_nothing_twice_and_forgets_nothing(server, box, monkeypatch):
    name = f"{server.prefix}-cut"
    take(server, box, name)
    server.model(name)
    server.version(name)
    server.version(name)
    receive, calls = registry.receive, []

    def once(*args):
        calls.append(args)
        if len(calls) > 1:
            raise BrokenError("the store went away")
        return receive(*args)

    with monkeypatch.context() as patch:
        patch.setattr(registry, "receive", once)
        with pytest.raises(BrokenError):
            take(server, box, name)
    assert take(server, box, name) == [name, name]


def test_looking_takes_nothing(server, box):
    name = f"{server.prefix}-look"
    take(server, box, name)
    server.model(name)
    server.version(name)
    assert len(look(Registry(server.url), box, (name,))[0]) == len(look(Registry(server.url), box, (name,))[0]) == 1
    assert inbox.pending(box) == []


def test_a_server_that_is_down_is_named_and_what_came_meanwhile_is_found_afterwards(stand_in, box, tmp_path):
    server = Server(stand_in, tmp_path.name)
    name = f"{server.prefix}-down"
    take(server, box, name)
    server.model(name)
    server.version(name)
    server.set(down=1)
    with pytest.raises(BrokenError) as caught:
        take(server, box, name)
    assert "503" in caught.value.where["found"] and "model-versions/search" in caught.value.where["request"]
    assert take(server, box, name) == [name]


def test_the_login_is_mlflows_own(stand_in, box, tmp_path, monkeypatch):
    server = Server(stand_in, tmp_path.name)
    server.set(token="Basic bWU6c2VjcmV0")
    try:
        with pytest.raises(BrokenError) as caught:
            Registry(stand_in).versions(0).__next__()
        assert "401" in caught.value.where["found"]
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
        list(Registry(stand_in).versions(0))
        server.set(token="Bearer t")
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
        list(Registry(stand_in).versions(0))
    finally:
        server.set(token="")


def test_versions_older_than_the_window_are_not_asked_for_again(server, box, monkeypatch):
    name = f"{server.prefix}-window"
    take(server, box, name)
    server.model(name)
    server.version(name)
    assert take(server, box, name) == [name]
    monkeypatch.setattr(registry, "WINDOW", 0)
    asked = []
    monkeypatch.setattr(registry, "is_known", lambda _, letter: asked.append(letter) or True)
    assert take(server, box, name) == [] and asked == []


def test_nobody_there_and_no_address_are_told_apart(box):
    with pytest.raises(BrokenError, match="registry"):
        look(Registry("http://127.0.0.1:9"), box, ZOO)
    with pytest.raises(ConfigError, match="no address"):
        Registry("sqlite:///mlflow.db")

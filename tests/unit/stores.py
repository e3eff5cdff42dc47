"""The object stores a test may meet: a folder, and two real S3 servers over HTTP."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qatladder.evidence.store import FolderStore, S3Store, Store

KEYS = {"AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": "a secret of the test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Two real S3 servers over HTTP on 127.0.0.1, endpoint by name: moto knows most of S3, nanio checks signatures."""
    folder = tmp_path_factory.mktemp("s3")
    commands = {
        "moto": [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p"],
        "nanio": [
            str(Path(sys.executable).with_name("nanio")),
            "serve",
            "--host",
            "127.0.0.1",
            "--data-dir",
            str(folder / "data"),
            "--port",
        ],
    }
    environment = {**os.environ, "NANIO_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"], "NANIO_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
    started, endpoints = [], {}
    try:
        for name, command in commands.items():
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            log = (folder / f"{name}.log").open("wb")
            started.append(subprocess.Popen([*command, str(port)], stdout=log, stderr=log, env=environment))
            endpoints[name] = f"http://127.0.0.1:{port}"
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            else:
                pytest.fail(f"{name} did not start: {(folder / f'{name}.log').read_text()[-500:]}")
        yield endpoints
    finally:
        for server in started:
            server.terminate()
            server.wait(10)


def make_bucket(endpoint: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)


@pytest.fixture(params=["folder", "moto", "nanio"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    endpoint = request.getfixturevalue("servers")[request.param]
    bucket = f"b{abs(hash(str(tmp_path))) % 10**12}"
    make_bucket(endpoint, bucket, monkeypatch)
    return S3Store(bucket, "lab/zoo", endpoint)

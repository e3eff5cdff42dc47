"""Promises: content is stored once and verified when read; what is half-written is never taken for whole; folder and S3 behave alike."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from qatladder.errors import BrokenError, ConfigError
from qatladder.evidence.store import FolderStore, S3Store, Store, open_store, safe_name
from qatladder.settings import load_settings


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server over HTTP (moto) on a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "log").open("wb")
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        for _ in range(150):
            try:
                urllib.request.urlopen(endpoint + "/moto-api/", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        else:
            pytest.fail("the S3 server did not start")
        yield endpoint
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    endpoint = request.getfixturevalue("s3_endpoint")
    for key, value in {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(key, value)
    import boto3

    bucket = f"b{abs(hash(str(tmp_path))) % 10**12}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    return S3Store(bucket, "lab/zoo", endpoint)


def test_content_comes_back_verified(store: Store, tmp_path: Path) -> None:
    evidence = store.put_bytes(b"tensor", "probe.npy")
    assert evidence.size == 6
    assert evidence.uri.endswith(evidence.sha256 + ".npy")
    assert store.fetch(evidence, tmp_path / "back" / "probe.npy").read_bytes() == b"tensor"


def test_equal_content_is_stored_once(store: Store) -> None:
    first, second = store.put_bytes(b"same", "a.bin"), store.put_bytes(b"same", "b.bin")
    assert first.uri == second.uri
    assert len(list(store.keys("objects/"))) == 1


def test_a_missing_object_is_broken_not_empty(store: Store, tmp_path: Path) -> None:
    evidence = store.put_bytes(b"x", "x.bin")
    gone = type(evidence)(evidence.name, "0" * 64, 1, "nowhere")
    with pytest.raises(BrokenError, match="not in the object store"):
        store.fetch(gone, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_an_object_is_read_by_its_name_and_nothing_else(store: Store) -> None:
    evidence = store.put_bytes(b"tensor", "probe.npy")
    assert store.read_object(evidence.uri.rpartition("/")[2]) == b"tensor"
    for name in ("0" * 64 + ".npy", "../" + evidence.sha256, "passwd", ""):
        with pytest.raises(FileNotFoundError):
            store.read_object(name)


def test_run_files_are_named_and_replaced(store: Store) -> None:
    store.write_run_file("scheduled__2026-11-23T00:00:00+00:00", "m@1/float.json", b"1")
    store.write_run_file("scheduled__2026-11-23T00:00:00+00:00", "m@1/float.json", b"2")
    assert store.read_run_file("scheduled__2026-11-23T00:00:00+00:00", "m@1/float.json") == b"2"
    with pytest.raises(FileNotFoundError):
        store.read_run_file("scheduled__2026-11-23T00:00:00+00:00", "m@1/qat.json")


def test_only_runs_with_a_manifest_are_whole(store: Store) -> None:
    store.write_run_file("r1", "report.json", b"{}")
    store.write_run_file("r2", "manifest.json", json.dumps({}).encode())
    assert store.runs() == ["r2"]


def test_a_run_id_cannot_leave_its_folder(store: Store) -> None:
    store.write_run_file("../../etc", "../passwd", b"x")
    assert all(".." not in key.split("/") for key in store.keys("runs/"))


def test_damaged_bytes_are_noticed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    evidence = store.put_bytes(b"tensor", "probe.npy")
    path = next((tmp_path / "store" / "objects").rglob("*.npy"))
    path.write_bytes(b"tensoR")
    with pytest.raises(BrokenError, match="not what was stored"):
        store.fetch(evidence, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path / "store")
    monkeypatch.setattr("qatladder.evidence.store.os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.put_bytes(b"tensor", "probe.npy")
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_an_unreachable_s3_is_broken_and_says_what_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "k")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(BrokenError, match="did not answer") as caught:
        S3Store("b", "", "http://127.0.0.1:9").put_bytes(b"x", "x")
    assert "QATLADDER_S3_ENDPOINT" in caught.value.next_step


def test_the_store_follows_the_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QATLADDER_STORE", str(tmp_path))
    assert isinstance(open_store(load_settings()), FolderStore)
    monkeypatch.setenv("QATLADDER_STORE", "s3:///nothing")
    with pytest.raises(ConfigError, match="names no bucket"):
        open_store(load_settings())


@pytest.mark.parametrize(("text", "safe"), [("a b/c", "a_b_c"), ("..", "_"), ("", "_"), ("digits_cnn@1@bayes-e", "digits_cnn@1@bayes-e")])
def test_safe_names(text: str, safe: str) -> None:
    assert safe_name(text) == safe

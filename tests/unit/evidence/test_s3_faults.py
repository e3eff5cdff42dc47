"""Promises: an S3 server that fails, stalls, cuts or lies costs time or an answer, never a wrong or half-written object.

Real: moto's and nanio's S3 servers over HTTP, boto3. Between them a proxy that misbehaves on cue.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.unit.stores import KEYS, make_bucket

from qatladder import settings as settings_module
from qatladder.errors import BrokenError, ConfigError
from qatladder.evidence import store as store_module
from qatladder.evidence.store import S3Access, S3Store, open_store, s3_access
from qatladder.settings import load_settings


class Wire:
    """A proxy in front of an S3 server. `fault(method, path, count)` says what happens to the count-th request of a method."""

    def __init__(self, endpoint: str) -> None:
        self.target = urlsplit(endpoint)
        self.fault: Callable[[str, str, int], str] = lambda method, path, count: ""
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        wire = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def _any(self) -> None:
                wire.seen.append((self.command, self.path, dict(self.headers)))
                count = sum(method == self.command for method, _, _ in wire.seen)
                fault = wire.fault(self.command, self.path, count)
                if fault == "cut request":
                    self.rfile.read(1000)
                    return self._hang_up()
                body = self._body()
                if fault == "500":
                    return self._answer(500, b"<Error><Code>InternalError</Code></Error>", {})
                if fault == "503":
                    return self._answer(503, b"<Error><Code>SlowDown</Code></Error>", {})
                if fault == "stall":
                    time.sleep(3)
                    return self._hang_up()
                if fault == "flip request" and body:
                    body = bytes([body[0] ^ 1]) + body[1:]
                link = http.client.HTTPConnection(wire.target.hostname or "", wire.target.port, timeout=30)
                headers = {
                    key: value
                    for key, value in self.headers.items()
                    if key.lower() not in ("transfer-encoding", "content-length", "expect")
                }
                link.request(self.command, self.path, body or None, {**headers, **({"Content-Length": str(len(body))} if body else {})})
                answer = link.getresponse()
                data = answer.read()
                if fault == "flip answer" and data:
                    data = bytes([data[0] ^ 1]) + data[1:]
                kept = {
                    key: value
                    for key, value in answer.getheaders()
                    if key.lower() not in ("transfer-encoding", "connection", "content-length")
                }
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                if fault == "cut answer":
                    self._answer(answer.status, data[: len(data) // 2], kept, str(len(data)))
                    return self._hang_up()
                self._answer(answer.status, data, kept, length)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any

            def _body(self) -> bytes:
                if self.headers.get("Expect", "").lower() == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    data = b""
                    while size := int(self.rfile.readline(), 16):
                        data += self.rfile.read(size)
                        self.rfile.readline()
                    return data
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def _answer(self, status: int, data: bytes, headers: dict[str, str], length: str | None = None) -> None:
                self.send_response_only(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", length if length is not None else str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def _hang_up(self) -> None:
                self.close_connection = True
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def wire(servers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    bucket = f"w{abs(hash(str(tmp_path))) % 10**12}"
    make_bucket(servers["moto"], bucket, monkeypatch)
    monkeypatch.setattr(store_module, "READ_SECONDS", 1)
    wire = Wire(servers["moto"])
    wire.bucket = bucket  # type: ignore[attr-defined]
    yield wire
    wire.server.shutdown()
    wire.server.server_close()


@pytest.fixture
def store(wire: Wire) -> S3Store:
    return S3Store(wire.bucket, "zoo", S3Access(wire.endpoint))  # type: ignore[attr-defined]


DATA = bytes(range(256)) * 400


def first(fault: str, method: str, times: int = 1) -> Callable[[str, str, int], str]:
    return lambda found, path, count: fault if found == method and count <= times else ""


@pytest.mark.parametrize("fault", ["500", "503", "cut request", "stall"])
def test_an_upload_is_repeated(wire: Wire, store: S3Store, tmp_path: Path, fault: str) -> None:
    wire.fault = first(fault, "PUT", 2)
    evidence = store.put_bytes(DATA, "x.npy")
    assert [method for method, _, _ in wire.seen].count("PUT") == 3
    assert store.fetch(evidence, tmp_path / "x").read_bytes() == DATA


@pytest.mark.parametrize("fault", ["500", "503", "cut request"])
def test_an_upload_that_never_works_is_broken_and_leaves_nothing(wire: Wire, store: S3Store, fault: str) -> None:
    wire.fault = lambda method, path, count: fault if method == "PUT" else ""
    with pytest.raises(BrokenError, match="did not answer as it should") as caught:
        store.put_bytes(DATA, "x.npy")
    assert caught.value.kind == "store"
    assert caught.value.where["uri"].startswith("s3://")
    wire.fault = lambda method, path, count: ""
    assert list(store.keys("")) == []


@pytest.mark.parametrize("fault", ["500", "cut answer", "stall"])
def test_a_download_is_repeated(wire: Wire, store: S3Store, tmp_path: Path, fault: str) -> None:
    evidence = store.put_bytes(DATA, "x.npy")
    wire.seen.clear()
    wire.fault = first(fault, "GET")
    assert store.fetch(evidence, tmp_path / "x").read_bytes() == DATA


def test_a_download_that_is_always_cut_is_broken_and_leaves_no_file(wire: Wire, store: S3Store, tmp_path: Path) -> None:
    evidence = store.put_bytes(DATA, "x.npy")
    wire.fault = lambda method, path, count: "cut answer" if method == "GET" else ""
    with pytest.raises(BrokenError):
        store.fetch(evidence, tmp_path / "out" / "x")
    assert not (tmp_path / "out" / "x").exists()


def test_a_lying_answer_is_noticed(wire: Wire, store: S3Store, tmp_path: Path) -> None:
    evidence = store.put_bytes(DATA, "x.npy")
    wire.fault = lambda method, path, count: "flip answer" if method == "GET" else ""
    with pytest.raises(BrokenError):
        store.fetch(evidence, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_byte_that_changes_on_the_way_up_is_noticed_by_the_server_or_when_it_is_read(wire: Wire, store: S3Store, tmp_path: Path) -> None:
    wire.fault = lambda method, path, count: "flip request" if method == "PUT" else ""
    with pytest.raises(BrokenError):
        store.fetch(store.put_bytes(DATA, "x.npy"), tmp_path / "x")


def test_a_large_file_goes_in_parts_and_one_lost_part_is_repeated(wire: Wire, store: S3Store, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(DATA * 400)  # 41 MB
    lost: list[str] = []

    def fault(method: str, url: str, count: int) -> str:
        if method == "PUT" and "partNumber=2" in url and not lost:
            lost.append(url)
            return "cut request"
        return ""

    wire.fault = fault
    evidence = store.put(path)
    parts = {url.split("partNumber=")[1][0] for method, url, _ in wire.seen if method == "PUT" and "partNumber=" in url}
    assert parts == {"1", "2", "3"} and lost
    assert store.fetch(evidence, tmp_path / "back").stat().st_size == path.stat().st_size


def test_a_large_file_interrupted_is_never_taken_for_whole(wire: Wire, store: S3Store, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(DATA * 400)
    wire.fault = lambda method, url, count: "500" if method == "PUT" and "partNumber=3" in url else ""
    with pytest.raises(BrokenError):
        store.put(path)
    assert list(store.keys("objects/")) == []


def test_encryption_is_asked_for_with_every_object(wire: Wire) -> None:
    store = S3Store(wire.bucket, "zoo", S3Access(wire.endpoint), "aws:kms", "key-1")  # type: ignore[attr-defined]
    store.put_bytes(DATA, "x.npy")
    store.write_run_file("r", "report.json", b"{}")
    puts = [{name.lower(): value for name, value in headers.items()} for method, _, headers in wire.seen if method == "PUT"]
    assert len(puts) == 2
    for headers in puts:
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
        assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"


def test_the_settings_reach_the_store(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QATLADDER_STORE", f"s3://{wire.bucket}/lab")  # type: ignore[attr-defined]
    monkeypatch.setenv("QATLADDER_S3_ENDPOINT", wire.endpoint)
    monkeypatch.setenv("QATLADDER_S3_ENCRYPTION", "AES256")
    open_store(load_settings()).put_bytes(DATA, "x.npy")
    headers = next(headers for method, _, headers in wire.seen if method == "PUT")
    assert {name.lower(): value for name, value in headers.items()}["x-amz-server-side-encryption"] == "AES256"


class TestConnection:
    def test_the_keys_of_an_airflow_connection(self, servers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import json

        import qatladder.airflow  # noqa: F401

        make_bucket(servers["nanio"], "bound", monkeypatch)
        for name in KEYS:
            monkeypatch.delenv(name)
        extra = {"endpoint_url": servers["nanio"], "region_name": "us-east-1"}
        connection = {"conn_type": "aws", "login": KEYS["AWS_ACCESS_KEY_ID"], "password": KEYS["AWS_SECRET_ACCESS_KEY"], "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_EVIDENCE", json.dumps(connection))
        monkeypatch.setenv("QATLADDER_S3_CONNECTION", "evidence")
        monkeypatch.setenv("QATLADDER_STORE", "s3://bound/lab")
        store = open_store(load_settings())
        evidence = store.put_bytes(DATA, "x.npy")
        assert store.fetch(evidence, tmp_path / "x").read_bytes() == DATA

    def test_what_is_missing_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import qatladder.airflow  # noqa: F401

        monkeypatch.setenv("QATLADDER_S3_CONNECTION", "evidence")
        monkeypatch.setenv("AIRFLOW_CONN_EVIDENCE", '{"conn_type": "aws"}')
        with pytest.raises(ConfigError, match="holds no keys"):
            s3_access(load_settings())
        monkeypatch.delenv("AIRFLOW_CONN_EVIDENCE")
        with pytest.raises(ConfigError, match="no such connection"):
            s3_access(load_settings())
        monkeypatch.setattr(settings_module, "s3_connections", None)
        with pytest.raises(ConfigError, match="only Airflow can read"):
            s3_access(load_settings())

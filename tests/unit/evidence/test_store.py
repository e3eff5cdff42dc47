"""Promises: content is stored once and verified when read; what is half-written is never taken for whole; folder and S3 behave alike."""

import json
from pathlib import Path

import pytest
from tests.unit.stores import make_bucket
from tests.unit.toy import ToyZoo

from qatladder.errors import BrokenError, ConfigError
from qatladder.evidence.store import FolderStore, S3Store, Store, open_store, safe_name
from qatladder.settings import load_settings
from qatladder.validation import finish_run, plan, run_rung


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


def test_a_wrong_secret_is_broken(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    make_bucket(servers["nanio"], "guarded", monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    with pytest.raises(BrokenError, match="did not answer") as caught:
        S3Store("guarded", "", servers["nanio"]).put_bytes(b"x", "x")
    assert "credentials" in caught.value.next_step
    assert "guessed" not in str(caught.value)


def test_a_whole_run_lives_in_a_bucket(servers: dict[str, str], toy_zoo: ToyZoo, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bucket(servers["nanio"], "runs", monkeypatch)
    monkeypatch.setenv("QATLADDER_STORE", "s3://runs/lab")
    monkeypatch.setenv("QATLADDER_S3_ENDPOINT", servers["nanio"])
    (ladder,) = plan(rungs=["float", "calib"])
    for rung in ladder["rungs"]:
        run_rung(ladder, rung, "run", print)
    summary = finish_run([ladder], "run")
    assert summary["report_html"] == "s3://runs/lab/runs/run/report.html"
    store = open_store(load_settings())
    assert store.runs() == ["run"]
    assert set(json.loads(store.read_run_file("run", "manifest.json"))["files"]) == {
        "report.html",
        "report.json",
        "toy@1@bayes/calib.json",
        "toy@1@bayes/float.json",
    }
    assert not (toy_zoo.folder / "home" / "evidence").exists()


def test_the_store_follows_the_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QATLADDER_STORE", str(tmp_path))
    assert isinstance(open_store(load_settings()), FolderStore)
    monkeypatch.setenv("QATLADDER_STORE", "s3:///nothing")
    with pytest.raises(ConfigError, match="names no bucket"):
        open_store(load_settings())


@pytest.mark.parametrize(("text", "safe"), [("a b/c", "a_b_c"), ("..", "_"), ("", "_"), ("digits_cnn@1@bayes-e", "digits_cnn@1@bayes-e")])
def test_safe_names(text: str, safe: str) -> None:
    assert safe_name(text) == safe

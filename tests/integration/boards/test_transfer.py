"""Files to and from a board, over the virtual board's server and OpenSSH's: whole or not at all, and never twice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from qatladder.boards.session import BoardSession
from qatladder.boards.transfer import Files, sha256_of
from qatladder.errors import BrokenError

from .conftest import Reached  # type: ignore[import-not-found]


def write(path: Path, size: int, packs: bool = False) -> Path:
    path.write_bytes(b"QATL" * (size // 4) if packs else os.urandom(size))
    return path


class Cut:
    """Cuts the connection once, after so many bytes of one direction."""

    def __init__(self, session: BoardSession, method: str, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
        import paramiko

        self.left, self.cuts = after, 0
        real = getattr(paramiko.Channel, method)

        def cutting(channel: paramiko.Channel, *arguments: object) -> object:
            answer = real(channel, *arguments)
            moved = len(answer if isinstance(answer, bytes) else arguments[0])  # type: ignore[arg-type]
            if self.left > 0:
                self.left -= moved
                if self.left <= 0:
                    self.cuts += 1
                    session.close()
            return answer

        monkeypatch.setattr(paramiko.Channel, method, cutting)


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 3 << 20])
@pytest.mark.parametrize("packs", [False, True], ids=["random", "compressible"])
def test_files_go_both_ways_whole(session: BoardSession, reached: Reached, tmp_path: Path, size: int, packs: bool) -> None:
    local = write(tmp_path / "a file; with $(odd) name", size, packs)
    files = Files(session)
    remote = session.workdir / "x y"
    session.run(["mkdir", "-p", str(session.workdir)])
    files.put(local, remote)
    assert reached.path(remote).read_bytes() == local.read_bytes()
    files.get(remote, tmp_path / "back")
    assert sha256_of(tmp_path / "back") == sha256_of(local)
    assert not list(reached.path(session.workdir).glob("*part*"))
    assert {path.name for path in tmp_path.iterdir()} == {local.name, "back"}
    if size > 1 << 20:
        assert (session.bytes_sent < size / 10) == packs


def test_nothing_is_sent_twice(session: BoardSession, reached: Reached, tmp_path: Path) -> None:
    local = write(tmp_path / "model.hbm", 200_000)
    same = write(tmp_path / "same.hbm", 0)
    same.write_bytes(local.read_bytes())
    path = Files(session).cache([local])[local]
    assert path == session.workdir / "cache" / sha256_of(local)
    sent = session.bytes_sent
    assert sent == 200_000
    assert Files(session).cache([local, same]) == {local: path, same: path}
    assert session.bytes_sent == sent
    reached.path(path).write_bytes(b"damaged")
    assert Files(session).cache([local])[local] == path
    assert reached.path(path).read_bytes() == local.read_bytes()


@pytest.mark.parametrize("packs", [False, True], ids=["random", "compressible"])
def test_an_upload_goes_on_where_it_was_cut(
    session: BoardSession, reached: Reached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packs: bool
) -> None:
    local = write(tmp_path / "model.hbm", 8 << 20)
    if packs:  # half of it
        local.write_bytes(b"".join(os.urandom(500) + bytes(500) for _ in range(8_000)))
    cut = Cut(session, "sendall", 2 << 20, monkeypatch)
    path = Files(session).cache([local])[local]
    assert cut.cuts == 1
    assert reached.path(path).read_bytes() == local.read_bytes()
    # What was in flight at the cut is sent again, the rest is not.
    size = local.stat().st_size / (2 if packs else 1)
    assert session.bytes_sent < 1.5 * size


def test_a_download_goes_on_where_it_was_cut(
    session: BoardSession, reached: Reached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.run(["mkdir", "-p", str(session.workdir)])
    remote = write(reached.path(session.workdir) / "dump", 8 << 20)
    cut = Cut(session, "recv", 4 << 20, monkeypatch)
    Files(session).get(PurePosixPath(session.workdir / "dump"), tmp_path / "dump")
    assert cut.cuts == 1
    assert (tmp_path / "dump").read_bytes() == remote.read_bytes()
    assert session.bytes_received < 1.2 * (8 << 20)


def test_what_is_left_of_another_file_does_not_harm(session: BoardSession, reached: Reached, tmp_path: Path) -> None:
    local = write(tmp_path / "model.hbm", 300_000)
    folder = reached.path(session.workdir / "cache")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{sha256_of(local)}.{sha256_of(local)}.part").write_bytes(bytes(150_000))
    path = Files(session).cache([local])[local]
    assert reached.path(path).read_bytes() == local.read_bytes()


def test_two_send_the_same_file_at_once(reached: Reached, tmp_path: Path) -> None:
    import threading

    local = write(tmp_path / "model.hbm", 6 << 20)
    failures: list[BaseException] = []

    def send() -> None:
        try:
            with reached.session() as session:
                Files(session).cache([local])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert reached.path(f"{reached.spec.workdir}/cache/{sha256_of(local)}").read_bytes() == local.read_bytes()


def test_a_file_that_changes_on_the_way_is_refused_and_leaves_nothing(
    session: BoardSession, reached: Reached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = write(tmp_path / "x", 100_000)
    session.run(["mkdir", "-p", str(session.workdir)])
    with pytest.raises(BrokenError) as caught:
        Files(session).put(local, session.workdir / "refused", "0" * 64)
    assert caught.value.kind == "corrupt_transfer"
    assert caught.value.where["found"] == f"sha256 {sha256_of(local)}"
    assert not list(reached.path(session.workdir).glob("refused*"))
    files = Files(session)
    files.put(local, session.workdir / "dump")
    monkeypatch.setattr("qatladder.boards.transfer.sha256_of", lambda _path: "1" * 64)
    with pytest.raises(BrokenError) as caught:
        files.get(session.workdir / "dump", tmp_path / "y")
    assert caught.value.kind == "corrupt_transfer"
    assert {path.name for path in tmp_path.iterdir()} == {"x"}


def test_a_place_that_is_not_there(session: BoardSession, tmp_path: Path) -> None:
    local = write(tmp_path / "x", 10)
    calls: list[Callable[[], None]] = [
        lambda: Files(session).get(PurePosixPath("/userdata/nowhere/x"), tmp_path / "y"),
        lambda: Files(session).put(local, PurePosixPath("/userdata/nowhere/x")),
    ]
    for call in calls:
        with pytest.raises(BrokenError) as caught:
            call()
        assert caught.value.kind == "remote_file"
    assert {path.name for path in tmp_path.iterdir()} == {"x"}


def test_the_least_recently_used_files_make_room(session: BoardSession, reached: Reached, tmp_path: Path) -> None:
    folder = reached.path(session.workdir / "cache")
    session.run(["rm", "-rf", str(session.workdir / "cache")])
    old = [write(tmp_path / f"{index}.bin", 1_000_000) for index in range(4)]
    files = Files(session, cache_mb=4.5)
    paths = {local: reached.path(remote) for local, remote in files.cache(old).items()}
    for age, local in zip((400, 300, 200, 100), (old[2], old[0], old[3], old[1]), strict=True):
        os.utime(paths[local], (time.time() - age,) * 2)
    files.cache([old[0]])  # used: now the youngest
    files.cache([write(tmp_path / "new.bin", 1_000_000)])
    left = {path.name for path in folder.iterdir()}
    assert paths[old[2]].name not in left
    assert paths[old[0]].name in left
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4_500_000


def test_a_disk_that_is_too_small_is_said_before_anything_is_sent(
    session: BoardSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qatladder.boards.transfer.SPARE_MB", 1e9)
    with pytest.raises(BrokenError) as caught:
        Files(session).cache([write(tmp_path / "x", 10)])
    assert caught.value.kind == "disk_full"
    assert "MB free" in caught.value.where["found"]
    assert session.bytes_sent == 0

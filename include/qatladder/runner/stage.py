"""The other end of `places.server`, executed on the toolchain server from stdin: keeps files by content and lays jobs out.

    <root>/objects/<sha256>     files by content, verified before each use, forgotten 30 days after the last
    <root>/jobs/<job>/files/... what a job reads and writes, under the paths of the machine that asked
    <root>/jobs/<job>/library   the package as that machine has it

    put     {"job", "files": [[path, sha256, size, mode]...], "folders"} -> {"missing": [sha256...]} <- their bytes -> {"folder": absolute}
    job     {"job", "file", "content"} -> {"folder"}
    get     {"job", "folders", "own"} -> {"ready"}, then a tar of what the job wrote or changed there; its own folder's results and a mark come last
    forget  {"job"} -> removes the job's folder, and jobs nobody has written to for a week

Every answer may be {"error": text} instead. Python 3.8, standard library only; it is sent as text and imports nothing of qatladder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
import time
from pathlib import Path
from typing import Any, Dict, List


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(str(path), "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def answer(value: Dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(value).encode() + b"\n")
    sys.stdout.buffer.flush()


def receive(objects: Path, digest: str, size: int) -> None:
    part = objects / "{}.{}.part".format(digest, os.getpid())
    found = hashlib.sha256()
    try:
        with open(str(part), "wb") as file:
            left = size
            while left:
                block = sys.stdin.buffer.read(min(left, 1 << 20))
                if not block:
                    raise OSError("the connection ended in the middle of a file")
                left -= len(block)
                found.update(block)
                file.write(block)
        if found.hexdigest() != digest:
            raise OSError("a file changed while it was sent")
        os.chmod(str(part), 0o444)
        os.replace(str(part), str(objects / digest))
    finally:
        if part.exists():
            part.unlink()


def inside(folder: Path, name: str) -> Path:
    """A path below a job's folder.

    Raises:
        OSError: the name leaves it.
    """
    if name.startswith("/") or ".." in Path(name).parts:
        raise OSError("a name leaves the job's folder: " + name)
    return folder / name


def mark(path: Path) -> List[int]:
    """What changes when a file is written again."""
    found = path.stat()
    return [found.st_ino, found.st_mtime_ns, found.st_size]


def put(root: Path, folder: Path, request: Dict[str, Any]) -> None:
    objects = root / "objects"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    objects.mkdir(exist_ok=True)
    wanted = {digest: size for _, digest, size, _ in request["files"]}
    missing = [digest for digest in wanted if not (objects / digest).is_file() or sha256_of(objects / digest) != digest]
    answer({"missing": missing})
    for digest in missing:
        receive(objects, digest, wanted[digest])
    for name in request["folders"]:
        inside(folder, name).mkdir(parents=True, exist_ok=True)
    laid = {}
    for name, digest, _, mode in request["files"]:
        target = inside(folder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.utime(str(objects / digest), None)
        shutil.copyfile(str(objects / digest), str(target))  # no link: a job may write on what it was given
        os.chmod(str(target), mode)
        laid[name] = mark(target)
    (folder / "laid.json").write_text(json.dumps(laid), encoding="utf-8")
    answer({"folder": str(folder)})


def job(root: Path, folder: Path, request: Dict[str, Any]) -> None:
    path = inside(folder, request["file"])
    path.write_text(json.dumps(request["content"]), encoding="utf-8")
    os.chmod(str(path), 0o600)
    answer({"folder": str(folder)})


def get(root: Path, folder: Path, request: Dict[str, Any]) -> None:
    given = json.loads((folder / "laid.json").read_text(encoding="utf-8"))
    own = inside(folder, request["own"])
    last = [own / "result.json", own / "ended.json"]
    answer({"ready": True})
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", dereference=True) as tar:
        for name in request["folders"]:
            place = inside(folder, name)
            for path in sorted(place.rglob("*")):
                if not path.is_file() or path in last or path in (own / "job.json", own / "result.json.part", own / "ended.json.part"):
                    continue
                if path.is_symlink() and place.resolve() not in path.resolve().parents:
                    continue
                if given.get(str(path.relative_to(folder))) != mark(path):
                    add(tar, path, str(path.relative_to(folder / "files")))
        for path in last:
            if path.is_file():
                add(tar, path, str(path.relative_to(folder / "files")))
        tar.addfile(tarfile.TarInfo(WHOLE))
    sys.stdout.buffer.flush()


WHOLE = "qatladder-whole"
"""Name of the last member: a stream that ends without it was cut."""


def add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """A file by its content, whatever other names it has."""
    member = tar.gettarinfo(str(path), name)
    member.type, member.linkname = tarfile.REGTYPE, ""
    member.size = path.stat().st_size
    with open(str(path), "rb") as file:
        tar.addfile(member, file)


def forget(root: Path, folder: Path, request: Dict[str, Any]) -> None:
    shutil.rmtree(str(folder), ignore_errors=True)
    now = time.time()
    for path in (root / "jobs").glob("*"):
        try:
            newest = max(item.stat().st_mtime for item in [path, *path.rglob("*")])
        except OSError:
            continue
        if now - newest > 7 * 86400:
            shutil.rmtree(str(path), ignore_errors=True)
    for path in (root / "objects").glob("*"):
        try:
            if now - path.stat().st_mtime > 30 * 86400:
                path.unlink()
        except OSError:
            pass
    answer({"folder": str(folder)})


def main(verb: str) -> None:
    request = json.loads(sys.stdin.buffer.readline())
    root = Path(os.path.expanduser("~")) / os.path.expanduser(request["root"])
    try:
        {"put": put, "job": job, "get": get, "forget": forget}[verb](root, root / "jobs" / request["job"], request)
    except OSError as error:
        text = "{}: {}".format(type(error).__name__, error)
        if verb == "get":  # its answer is no line of JSON any more
            sys.stderr.write(text + "\n")
            sys.exit(1)
        answer({"error": text})


if __name__ == "__main__":
    main(sys.argv[2])

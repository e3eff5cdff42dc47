"""The other end of `places.server`, executed on the toolchain server from stdin: keeps files by content and lays jobs out.

    <root>/objects/<sha256>     files by content, verified before each use, forgotten 30 days after the last
    <root>/jobs/<job>/files/... what a job reads and writes, under the paths of the machine that asked
    <root>/jobs/<job>/library   the package as that machine has it

    put     {"job", "files": [[path, sha256, size]...], "folders"} -> {"missing": [sha256...]} <- their bytes -> {"folder": absolute}
    job     {"job", "file", "content"} -> {"folder"}
    get     {"job", "folders"} -> a tar of the files that the job wrote there
    forget  {"job"} -> removes the job's folder, and what was left behind more than two days ago

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
from typing import Any, Dict


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


def put(root: Path, folder: Path, request: Dict[str, Any]) -> None:
    objects = root / "objects"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    objects.mkdir(exist_ok=True)
    wanted = {digest: size for _, digest, size in request["files"]}
    missing = [digest for digest in wanted if not (objects / digest).is_file() or sha256_of(objects / digest) != digest]
    answer({"missing": missing})
    for digest in missing:
        receive(objects, digest, wanted[digest])
    for name in request["folders"]:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, digest, _ in request["files"]:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.utime(str(objects / digest), None)
        try:
            os.link(str(objects / digest), str(target))
        except OSError:
            shutil.copyfile(str(objects / digest), str(target))
    (folder / "laid.json").write_text(json.dumps([name for name, _, _ in request["files"]]), encoding="utf-8")
    answer({"folder": str(folder)})


def job(root: Path, folder: Path, request: Dict[str, Any]) -> None:
    (folder / request["file"]).write_text(json.dumps(request["content"]), encoding="utf-8")
    answer({"folder": str(folder)})


def get(root: Path, folder: Path, request: Dict[str, Any]) -> None:
    last = ("result.json", "ended.json")
    given = set(json.loads((folder / "laid.json").read_text(encoding="utf-8")))
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
        for name in request["folders"]:
            paths = [path for path in (folder / name).rglob("*") if path.is_file() and not path.is_symlink()]
            for path in sorted(paths, key=lambda path: (path.name in last, str(path))):
                if str(path.relative_to(folder)) not in given and path.name != "job.json" and not path.name.endswith(".part"):
                    tar.add(str(path), str(path.relative_to(folder / "files")))
    sys.stdout.buffer.flush()


def forget(root: Path, folder: Path, request: Dict[str, Any]) -> None:
    shutil.rmtree(str(folder), ignore_errors=True)
    for kind, days in (("jobs", 2), ("objects", 30)):
        for path in (root / kind).glob("*"):
            try:
                if time.time() - path.stat().st_mtime > days * 86400:
                    path.unlink() if path.is_file() else shutil.rmtree(str(path), ignore_errors=True)
            except OSError:
                pass
    answer({"folder": str(folder)})


def main(verb: str) -> None:
    request = json.loads(sys.stdin.buffer.readline())
    root = Path(os.path.expanduser("~")) / os.path.expanduser(request["root"])
    try:
        {"put": put, "job": job, "get": get, "forget": forget}[verb](root, root / "jobs" / request["job"], request)
    except OSError as error:
        answer({"error": "{}: {}".format(type(error).__name__, error)})


if __name__ == "__main__":
    main(sys.argv[2])

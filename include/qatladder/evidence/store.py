"""The object store: a folder by default, S3 by configuration.

    objects/ab/abcdef....npy          a file by the sha256 of its bytes; written once, verified when read
    runs/<run>/<ladder>/<rung>.json   what a rung answered
    runs/<run>/report.html, report.json
    runs/<run>/manifest.json          written last: a run without it is not whole
    expectations/<ladder>/suite.json  what the ladder's nights taught, for `qatladder.validation.expectations`
    history/facts/<month>/...         what every check answered, for `qatladder.history`
    announcements/...                 what is known of announced models, for `qatladder.announcements`

Everything is written to a temporary name and moved into place (S3 writes are atomic by themselves), so an interrupted
write is never taken for a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qatladder.settings
from qatladder.errors import BrokenError, ConfigError
from qatladder.ladder import Evidence
from qatladder.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SAFE = re.compile(r"[^A-Za-z0-9_.+=:@-]")


def safe_name(text: str) -> str:
    """A run id, label or file name as one path component; never empty, never starting with a dot."""
    return _SAFE.sub("_", text).lstrip(".") or "_"


def sha256_file(path: Path) -> tuple[str, int]:
    """Hex digest and size of a file, streamed."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


@dataclass(frozen=True)
class Item:
    """What the store has under a key: bytes, and seconds since 1970 of its last write or use."""

    key: str
    size: int
    modified: float


class Store(ABC):
    """Content-addressed evidence plus the named files of runs."""

    # The primitives a backend implements; keys are relative, with forward slashes.

    @abstractmethod
    def uri(self, key: str) -> str:
        """Where a key is, for people and links."""

    @abstractmethod
    def _exists(self, key: str) -> bool: ...

    @abstractmethod
    def _upload(self, key: str, path: Path) -> None: ...

    @abstractmethod
    def _download(self, key: str, path: Path) -> None:
        """Write the object to `path`; raises FileNotFoundError."""

    @abstractmethod
    def _delete(self, key: str) -> None:
        """Remove the object; nothing happens when it is not there."""

    @abstractmethod
    def items(self, prefix: str) -> Iterator[Item]:
        """All that is below a prefix that ends with a slash; of a key, what is there."""

    @abstractmethod
    def _touch(self, key: str) -> None:
        """Make an object as young as one that was stored now; nothing happens when it is not there."""

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys below a prefix that ends with a slash."""
        return (item.key for item in self.items(prefix))

    def put(self, path: Path, name: str | None = None) -> Evidence:
        """Store a file by its content. Storing the same bytes again costs only the hash."""
        name = name or path.name
        digest, size = sha256_file(path)
        key = self._object_key(digest, name)
        if self._exists(key):
            self._touch(key)  # so that retention, which may run at this moment, takes it for needed
        if not self._exists(key):
            self._upload(key, path)
        return Evidence(name=name, sha256=digest, size=size, uri=self.uri(key))

    def put_bytes(self, data: bytes, name: str) -> Evidence:
        with tempfile.NamedTemporaryFile(prefix="qatladder-") as file:
            file.write(data)
            file.flush()
            return self.put(Path(file.name), name)

    def put_json(self, data: Any, name: str) -> Evidence:
        return self.put_bytes(json.dumps(data, indent=1, sort_keys=True).encode(), name)

    def fetch(self, evidence: Evidence, path: Path) -> Path:
        """Bring an object to a local file and verify its hash.

        Raises:
            BrokenError: it is missing from the store, or its bytes are not what was stored.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        key = self._object_key(evidence.sha256, evidence.name)
        try:
            self._download(key, temporary)
        except FileNotFoundError:
            raise BrokenError(
                "the evidence is not in the object store",
                kind="store",
                name=evidence.name,
                uri=evidence.uri,
                next_step="check that all workers use the same QATLADDER_STORE; run the rung again",
            ) from None
        digest, size = sha256_file(temporary)
        if digest != evidence.sha256:
            temporary.unlink()
            raise BrokenError(
                "the object's bytes are not what was stored",
                kind="store",
                uri=evidence.uri,
                expected=f"sha256 {evidence.sha256}, {evidence.size} bytes",
                found=f"sha256 {digest}, {size} bytes",
                next_step="the storage is damaged or was tampered with; delete the object and run again",
            )
        temporary.replace(path)
        return path

    def has(self, evidence: Evidence, use: bool = False) -> bool:
        """Whether the object is there; with `use` it is also said to be needed, which retention goes by."""
        key = self._object_key(evidence.sha256, evidence.name)
        if use:
            self._touch(key)
        return self._exists(key)

    def rested(self, key: str) -> float:
        """Seconds since the file under a key was last written or used; infinity when it is not there."""
        found = next(iter(self.items(key)), None)
        return time.time() - found.modified if found else float("inf")

    def discard(self, evidence: Evidence) -> None:
        """Delete an object whose bytes turned out wrong, so that storing them again writes them anew."""
        self._delete(self._object_key(evidence.sha256, evidence.name))

    def read_object(self, name: str) -> bytes:
        """The bytes of an object by its file name (`<sha256>` or `<sha256>.<suffix>`), verified.

        Raises:
            FileNotFoundError: no such object, or no such name.
            BrokenError: its bytes are not what was stored.
        """
        digest, _, suffix = name.partition(".")
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or (suffix and safe_name(suffix) != suffix):
            raise FileNotFoundError(name)
        evidence = Evidence(name=f"object.{suffix}" if suffix else "object", sha256=digest, size=0, uri=name)
        with tempfile.TemporaryDirectory(prefix="qatladder-") as folder:
            if not self._exists(self._object_key(digest, evidence.name)):
                raise FileNotFoundError(name)
            return self.fetch(evidence, Path(folder) / "object").read_bytes()

    def write_run_file(self, run_id: str, name: str, data: bytes) -> str:
        """Write a named file of a run, replacing an older one; returns its URI."""
        key = self._run_key(run_id, name)
        self.write_bytes(key, data)
        return self.uri(key)

    def read_run_file(self, run_id: str, name: str) -> bytes:
        """The bytes of a named file of a run; raises FileNotFoundError."""
        return self.read_key(self._run_key(run_id, name))

    def touch_run_file(self, run_id: str, name: str) -> None:
        """Say that a named file of a run is still needed; retention goes by it."""
        self._touch(self._run_key(run_id, name))

    def delete_run_file(self, run_id: str, name: str) -> None:
        """Remove a named file of a run; nothing happens when it is not there."""
        self._delete(self._run_key(run_id, name))

    def write_key(self, key: str, path: Path) -> None:
        """Write a file under a key of its own, replacing an older one: whole or not at all."""
        self._upload(key, path)

    def write_bytes(self, key: str, data: bytes) -> None:
        """`write_key` of bytes."""
        with tempfile.NamedTemporaryFile(prefix="qatladder-") as file:
            file.write(data)
            file.flush()
            self._upload(key, Path(file.name))

    def fetch_key(self, key: str, path: Path) -> None:
        """Bring the file under a key to `path`; raises FileNotFoundError."""
        self._download(key, path)

    @abstractmethod
    def read_key(self, key: str) -> bytes:
        """The bytes under a key; raises FileNotFoundError."""

    def delete_key(self, key: str) -> None:
        """Remove the file under a key; nothing happens when it is not there."""
        self._delete(key)

    def run_files(self, run_id: str, folder: str) -> list[str]:
        """Names of the files of a run below a folder, sorted, relative to it."""
        prefix = self._run_key(run_id, folder) + "/"
        return sorted(key.removeprefix(prefix) for key in self.keys(prefix))

    def run_uri(self, run_id: str, name: str) -> str:
        return self.uri(self._run_key(run_id, name))

    def runs(self) -> list[str]:
        """Names of the whole runs (those with a manifest), oldest name first."""
        return sorted({key.split("/")[1] for key in self.keys("runs/") if key.endswith("/manifest.json") and key.count("/") == 2})

    @staticmethod
    def _object_key(digest: str, name: str) -> str:
        suffix = Path(name).suffix
        return f"objects/{digest[:2]}/{digest}" + (f".{safe_name(suffix)}" if suffix else "")

    @staticmethod
    def _run_key(run_id: str, name: str) -> str:
        return "/".join(["runs", safe_name(run_id), *(safe_name(part) for part in name.split("/"))])


class FolderStore(Store):
    """The object store as a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def uri(self, key: str) -> str:
        return (self.root / key).as_uri()

    def _exists(self, key: str) -> bool:
        return (self.root / key).is_file()

    def _upload(self, key: str, path: Path) -> None:
        target = self.root / key
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=".part-", dir=target.parent)
            try:
                with os.fdopen(handle, "wb") as out, path.open("rb") as source:
                    shutil.copyfileobj(source, out, 1 << 20)
                    out.flush()
                    os.fsync(out.fileno())
                os.chmod(temporary, 0o644)  # noqa: PTH101
                os.replace(temporary, target)  # noqa: PTH105
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise BrokenError(
                "the object store cannot be written",
                kind="store",
                file=target,
                found=error,
                next_step="free space, or correct QATLADDER_STORE",
            ) from error

    def _download(self, key: str, path: Path) -> None:
        shutil.copyfile(self.root / key, path)

    def read_key(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def _delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    def items(self, prefix: str) -> Iterator[Item]:
        place = self.root / prefix
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.name.startswith(".part-"):
                continue
            try:
                found = path.stat()
            except FileNotFoundError:  # removed while this looks
                continue
            if stat.S_ISREG(found.st_mode):
                yield Item(path.relative_to(self.root).as_posix(), found.st_size, found.st_mtime)

    def _touch(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.root / key)


@dataclass(frozen=True)
class S3Access:
    """Where an S3 server is and how to be let in; what is None comes from boto3's usual chain."""

    endpoint: str | None = None
    region: str | None = None
    key: str | None = None
    secret: str | None = None
    token: str | None = None

    def client(self) -> S3Client:
        """A client that repeats what fails on the way (5 times, with pauses) and never waits for ever."""
        import boto3
        from botocore.config import Config

        session = boto3.session.Session(
            aws_access_key_id=self.key, aws_secret_access_key=self.secret, aws_session_token=self.token, region_name=self.region
        )
        config = Config(retries={"max_attempts": 5, "mode": "standard"}, connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS)
        return session.client("s3", endpoint_url=self.endpoint, config=config)


CONNECT_SECONDS, READ_SECONDS = 10, 60


class S3Store(Store):
    """The object store as an S3 bucket and prefix. Large files go in parts, several at once; boto3 sends a checksum with each.

    Args:
        encryption: `AES256` or `aws:kms`, applied by the server; None: the bucket's own.
        kms_key: for `aws:kms`; None: the account's.
    """

    def __init__(
        self, bucket: str, prefix: str, access: S3Access | str | None, encryption: str | None = None, kms_key: str | None = None
    ) -> None:
        from boto3.s3.transfer import TransferConfig

        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self._client = (access if isinstance(access, S3Access) else S3Access(access)).client()
        self._transfer = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=4)
        self._extra: dict[str, Any] = {}
        if encryption:
            self._extra["ServerSideEncryption"] = encryption
        if kms_key:
            self._extra["SSEKMSKeyId"] = kms_key

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._key(key)}"

    def _exists(self, key: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            self._client.head_object(Bucket=self.bucket, Key=self._key(key))
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
                return False
            raise self._broken(key, error) from error
        except Exception as error:
            raise self._broken(key, error) from error
        return True

    def _upload(self, key: str, path: Path) -> None:
        try:
            self._client.upload_file(str(path), self.bucket, self._key(key), ExtraArgs=self._extra, Config=self._transfer)
        except Exception as error:
            raise self._broken(key, error) from error

    def _download(self, key: str, path: Path) -> None:
        with self._reading(key):
            self._client.download_file(self.bucket, self._key(key), str(path), Config=self._transfer)

    def read_key(self, key: str) -> bytes:
        whole = io.BytesIO()
        with self._reading(key):
            self._client.download_fileobj(self.bucket, self._key(key), whole, Config=self._transfer)
        return whole.getvalue()

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        from botocore.exceptions import ClientError

        try:
            yield
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
                raise FileNotFoundError(self.uri(key)) from error
            raise self._broken(key, error) from error
        except Exception as error:
            raise self._broken(key, error) from error

    def _delete(self, key: str) -> None:
        try:
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))
        except Exception as error:
            raise self._broken(key, error) from error

    def items(self, prefix: str) -> Iterator[Item]:
        start = len(self._key(""))
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(prefix)):
                for item in page.get("Contents", []):
                    yield Item(item["Key"][start:], item["Size"], item["LastModified"].timestamp())
        except Exception as error:
            raise self._broken(prefix, error) from error

    def _touch(self, key: str) -> None:
        """S3 has no other way than to copy an object onto itself; only done when it is older than a day."""
        from botocore.exceptions import ClientError

        name = self._key(key)
        try:
            found = self._client.head_object(Bucket=self.bucket, Key=name)
            if time.time() - found["LastModified"].timestamp() < 86400:
                return
            extra = {"MetadataDirective": "REPLACE", "Metadata": {"used": str(int(time.time()))}, **self._extra}
            self._client.copy({"Bucket": self.bucket, "Key": name}, self.bucket, name, ExtraArgs=extra)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchKey", "NotFound"):
                raise self._broken(key, error) from error
        except Exception as error:
            raise self._broken(key, error) from error

    def _broken(self, key: str, error: Exception) -> BrokenError:
        return BrokenError(
            "the S3 object store did not answer as it should",
            kind="store",
            uri=self.uri(key),
            found=error,
            next_step="check endpoint, bucket and credentials (QATLADDER_STORE, QATLADDER_S3_ENDPOINT, AWS_*)",
        )


def open_store(settings: Settings) -> Store:
    """The configured store."""
    if settings.store.startswith("s3://"):
        bucket, _, prefix = settings.store[len("s3://") :].partition("/")
        if not bucket:
            raise ConfigError(
                "the store names no bucket", found=settings.store, expected="s3://bucket/prefix", next_step="set QATLADDER_STORE"
            )
        return S3Store(bucket, prefix, s3_access(settings), settings.s3_encryption, settings.s3_kms_key)
    return FolderStore(Path(settings.store).expanduser())


def s3_access(settings: Settings) -> S3Access:
    """How the configured S3 server is reached.

    Raises:
        ConfigError: credentials are in an Airflow connection, and this is not Airflow.
    """
    if settings.s3_connection is None:
        return S3Access(settings.s3_endpoint)
    look_up = qatladder.settings.s3_connections
    if look_up is None:
        raise ConfigError(
            "the credentials of the object store are in an Airflow connection, which only Airflow can read",
            found=f"QATLADDER_S3_CONNECTION={settings.s3_connection}",
            next_step="on the command line unset it and give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    found = S3Access(**look_up(settings.s3_connection))
    return replace(found, endpoint=settings.s3_endpoint or found.endpoint)

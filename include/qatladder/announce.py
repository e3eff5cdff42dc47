"""Announces a trained model, from the training script itself: Python 3.8 and the standard library, in one file that may be copied.

    from qatladder.announce import announce
    announce("lanes", version="2026.11", artifacts={"float": "lanes/float.pt", "qat": "lanes/qat.pt"}, training={"git": commit})

    python announce.py lanes --version 2026.11 --artifact qat=lanes/qat.pt --training git=1f3a9c0

Where it goes is `to`, by default QATLADDER_ANNOUNCE_TO:

    /data/announcements          a folder that QATLadder watches (QATLADDER_ANNOUNCEMENTS there)
    s3://bucket/prefix           an S3 prefix that it watches; needs boto3
    http://airflow.lab:8080      Airflow's REST API; QATLADDER_AIRFLOW_TOKEN, or QATLADDER_AIRFLOW_USER and QATLADDER_AIRFLOW_PASSWORD

What arrives is described in docs/after-training.md. The artifacts must be where the zoo entry looks for them before they are announced.
"""

from __future__ import annotations

import argparse
import datetime
import getpass
import hashlib
import json
import os
import re
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Dict, Mapping, Optional

ASSET = "qatladder_models"
"""The Airflow asset whose events are announcements."""

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before Airflow is asked again that answered 5xx, or nothing."""

ROLES = ("float", "calib", "qat", "onnx", "int", "hbm")


class AnnounceError(RuntimeError):
    """The announcement did not arrive: where it was sent, what was found, what to do."""


def announce(
    model: str,
    version: Optional[str] = None,
    artifacts: Optional[Mapping[str, Any]] = None,
    target: Optional[str] = None,
    training: Optional[Mapping[str, Any]] = None,
    who: Optional[str] = None,
    when: Optional[str] = None,
    to: Optional[str] = None,
) -> str:
    """Send an announcement; see the module for `to`.

    Args:
        model: as the zoo entry calls it.
        version: of the zoo entry; may be left out when the zoo holds one version, or when the artifacts tell which.
        artifacts: by role (float, calib, qat, onnx, int, hbm) the file, which is hashed, or its sha256 in hex.
        target: only this target of the entry.
        training: whatever the run should be remembered with: git commit, MLflow run, notes; JSON values.
        who: default: user@host.
        when: end of the training, ISO 8601 with time zone; default: now.
    Returns:
        where it is: the file's path, its s3:// address, or the asset event's address.
    Raises:
        AnnounceError: it did not arrive.
        ValueError: a role that does not exist, or nowhere to send it to.
        OSError: an artifact cannot be read.
    """
    place = to or os.environ.get("QATLADDER_ANNOUNCE_TO")
    if not place:
        raise ValueError(
            "nowhere to announce to: give `to`, or set QATLADDER_ANNOUNCE_TO to a folder, s3://bucket/prefix or http(s)://host"
        )
    return send(content(model, version, artifacts, target, training, who, when), place)


def content(
    model: str,
    version: Optional[str] = None,
    artifacts: Optional[Mapping[str, Any]] = None,
    target: Optional[str] = None,
    training: Optional[Mapping[str, Any]] = None,
    who: Optional[str] = None,
    when: Optional[str] = None,
) -> Dict[str, Any]:
    """The announcement as JSON data; arguments as of `announce`."""
    wrong = sorted(set(artifacts or {}) - set(ROLES))
    if wrong:
        raise ValueError("no such artifact role: {}; there are {}".format(", ".join(wrong), ", ".join(ROLES)))
    data = {
        "announcement": 1,
        "model": model,
        "version": version,
        "target": target,
        "artifacts": {role: _sha256(file) for role, file in (artifacts or {}).items()},
        "who": _me() if who is None else who,
        "when": when or datetime.datetime.now(datetime.timezone.utc).isoformat(),
        "training": dict(training or {}),
    }
    json.dumps(data, allow_nan=False)  # what is no JSON is refused here, where it was written
    return {key: value for key, value in data.items() if value not in (None, {}, "")}


def send(data: Mapping[str, Any], to: str) -> str:
    """Send an announcement that `content` made; returns where it is."""
    if to.startswith(("http://", "https://")):
        return _to_airflow(data, to.rstrip("/"))
    if to.startswith("s3://"):
        return _to_s3(data, to)
    return _to_folder(data, to)


def file_name(data: Mapping[str, Any]) -> str:
    """A name of its own for every announcement: `lanes-2026.11-1f3a9c0d21.json`; the same announcement gets the same name."""
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]
    parts = [str(data["model"]), str(data.get("version") or "")]
    return "-".join([*(re.sub(r"[^A-Za-z0-9_.+-]", "_", part) for part in parts if part), digest]) + ".json"


def _to_folder(data: Mapping[str, Any], folder: str) -> str:
    """Written under another name first: who watches the folder never sees half a file."""
    path = os.path.join(folder, file_name(data))
    temporary = os.path.join(folder, ".{}.{}.part".format(os.path.basename(path), os.getpid()))
    try:
        os.makedirs(folder, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise AnnounceError("the announcement cannot be written to {}: {}".format(folder, error)) from error
    return path


def _to_s3(data: Mapping[str, Any], to: str) -> str:
    try:
        import boto3
    except ImportError as error:
        raise AnnounceError("announcing to {} needs boto3: pip install boto3, or announce to a folder or to Airflow".format(to)) from error
    bucket, _, prefix = to[len("s3://") :].partition("/")
    key = "/".join(part for part in (prefix.strip("/"), file_name(data)) if part)
    try:
        client = boto3.client("s3", endpoint_url=os.environ.get("QATLADDER_S3_ENDPOINT") or None)
        client.put_object(Bucket=bucket, Key=key, Body=json.dumps(data, indent=1).encode(), ContentType="application/json")
    except Exception as error:
        raise AnnounceError("the announcement cannot be written to {}: {}".format(to, error)) from error
    return "s3://{}/{}".format(bucket, key)


def _to_airflow(data: Mapping[str, Any], url: str) -> str:
    token = os.environ.get("QATLADDER_AIRFLOW_TOKEN")
    if not token:
        login = {"username": os.environ.get("QATLADDER_AIRFLOW_USER", ""), "password": os.environ.get("QATLADDER_AIRFLOW_PASSWORD", "")}
        if not login["username"]:
            raise AnnounceError("{} asks who you are: set QATLADDER_AIRFLOW_TOKEN, or QATLADDER_AIRFLOW_USER and _PASSWORD".format(url))
        token = str(_call(url, "/auth/token", "", login)["access_token"])
    found = _call(url, "/api/v2/assets?limit=100&name_pattern=" + urllib.parse.quote(ASSET), token)
    ids = [asset["id"] for asset in found["assets"] if asset["name"] == ASSET]
    if not ids:
        raise AnnounceError("{} knows no asset {}: is the DAG model_announced there, and was it read?".format(url, ASSET))
    event = _call(url, "/api/v2/assets/events", token, {"asset_id": ids[0], "extra": dict(data)})
    return "{}/api/v2/assets/events?asset_id={} event {}".format(url, ids[0], event["id"])


def _call(url: str, path: str, token: str, body: Optional[Mapping[str, Any]] = None) -> Any:
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    if token:
        headers["Authorization"] = "Bearer " + token
    request = urllib.request.Request(url + path, None if body is None else json.dumps(body).encode(), headers)
    host = urllib.parse.urlsplit(url).hostname
    handlers = [urllib.request.ProxyHandler({})] if host in ("127.0.0.1", "localhost", "::1") else []
    for pause in (*PAUSES, None):  # said twice is harmless, and Airflow may be restarting, or its database busy
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=30) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            detail = error.read(500).decode("utf-8", "replace")
            if error.code < 500 or pause is None:
                raise AnnounceError("{} answered {} to {}: {}".format(url, error.code, path.partition("?")[0], detail)) from error
        except (OSError, ValueError) as error:
            if pause is None:
                raise AnnounceError("{} cannot be reached: {}".format(url, error)) from error
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _sha256(file: Any) -> str:
    text = str(file)
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return text
    digest = hashlib.sha256()
    with open(text, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _me() -> str:
    try:
        return "{}@{}".format(getpass.getuser(), socket.gethostname())
    except Exception:  # no such user in a container's /etc/passwd
        return socket.gethostname()


def pairs(texts: Any, what: str) -> Dict[str, str]:
    """`["a=b"]` to `{"a": "b"}`; raises ValueError."""
    found = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise ValueError("{} {!r} is not NAME=VALUE".format(what, text))
        found[key] = value
    return found


def main(arguments: Optional[list] = None) -> int:  # type: ignore[type-arg]
    """The command line; exit code 0: it arrived, 2: it did not, 3: a wrong argument."""
    parser = argparse.ArgumentParser(description="Announce a trained model to QATLadder.")
    parser.add_argument("model")
    parser.add_argument("--version")
    parser.add_argument("--target")
    parser.add_argument("--artifact", action="append", metavar="ROLE=FILE", help="file (or its sha256) by role: " + ", ".join(ROLES))
    parser.add_argument("--training", action="append", metavar="NAME=VALUE", help="what to remember: git=1f3a9c0")
    parser.add_argument("--who")
    parser.add_argument("--when", help="ISO 8601 with time zone; default: now")
    parser.add_argument("--to", help="folder, s3://bucket/prefix or http(s)://airflow; default: QATLADDER_ANNOUNCE_TO")
    given = parser.parse_args(arguments)
    try:
        artifacts, training = pairs(given.artifact, "--artifact"), pairs(given.training, "--training")
        print(announce(given.model, given.version, artifacts, given.target, training, given.who, given.when, given.to))
    except AnnounceError as error:
        print("error: {}".format(error), file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print("error: {}".format(error), file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Versions of an MLflow model registry as announcements, by its REST API; mlflow itself is not needed.

A model version is of the zoo when it, or its registered model, has the tag `qatladder.model`, or when the registered model's name is a model of
the zoo. Tags of the version: `qatladder.model`, `qatladder.version`, `qatladder.target`, `qatladder.sha256.<role>`. Other versions are left
alone, and looked at again for `WINDOW`: a tag may be set after the version is made. Versions from before the registry was first looked at
are not announced. All times are the server's.

API: https://mlflow.org/docs/latest/rest-api.html, `model-versions/search` and `registered-models/get`. Who we are: MLFLOW_TRACKING_TOKEN, or
MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, as MLflow's own clients read them.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterator
from typing import Any

from qatladder.announcements.form import parse
from qatladder.announcements.inbox import Letter, is_known, letter_of, note, problem_letter, receive, remember
from qatladder.errors import BrokenError, ConfigError
from qatladder.evidence.store import Store

WINDOW = 24 * 3600 * 1000
"""Milliseconds before the newest version that versions are looked at again."""

PAGE = 200
TAG = "qatladder."
NOTE = "mlflow"


class Registry:
    """The model registry of one tracking server.

    Args:
        url: of the server; `http(s)://host[:port][/path]`.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        scheme, host = urllib.parse.urlsplit(url).scheme, urllib.parse.urlsplit(url).hostname
        if scheme not in ("http", "https") or not host:
            raise ConfigError(
                "QATLADDER_MLFLOW is no address of a tracking server", found=url, expected="http(s)://host:port", next_step="correct it"
            )
        proxies = [urllib.request.ProxyHandler({})] if host in ("127.0.0.1", "localhost", "::1") else []
        self._open = urllib.request.build_opener(*proxies).open

    def versions(self, since: int) -> Iterator[dict[str, Any]]:
        """Model versions made after `since` (milliseconds since 1970 by the server's clock), newest first.

        Raises:
            BrokenError: the server cannot be asked, or answers something else.
        """
        query = {"max_results": PAGE, "order_by": "creation_timestamp DESC"}
        while True:
            page = self._get("model-versions/search", **query)
            for version in page.get("model_versions", []):
                if _made(version) <= since:
                    return
                yield version
            token = page.get("next_page_token")
            if not token:
                return
            query["page_token"] = token

    def tags_of_model(self, name: str) -> dict[str, str]:
        """Tags of a registered model."""
        return _tags(self._get("registered-models/get", name=name)["registered_model"])

    def _get(self, path: str, **query: Any) -> dict[str, Any]:
        url = f"{self.url}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(query)}"
        try:
            with self._open(urllib.request.Request(url, headers=_login()), timeout=30) as answer:
                data = json.loads(answer.read())
            if not isinstance(data, dict):
                raise ValueError("no JSON object")
            return data
        except urllib.error.HTTPError as error:
            found = f"{error.code} {error.read(300).decode(errors='replace')}"
            raise self._broken(url, found) from error
        except (OSError, ValueError) as error:
            raise self._broken(url, str(error)) from error

    def _broken(self, url: str, found: str) -> BrokenError:
        return BrokenError(
            "the MLflow registry did not answer as it should",
            kind="mlflow",
            request=url.partition("?")[0],
            found=found,
            next_step="check QATLADDER_MLFLOW and MLFLOW_TRACKING_...; it is asked again",
        )


def look(registry: Registry, inbox: Store, models: Collection[str]) -> tuple[list[Letter], int]:
    """What the registry has and the inbox does not know yet, and when its newest version was made; changes nothing, except at the first look.

    Args:
        models: of the zoo.
    Raises:
        BrokenError: the server cannot be asked.
    """
    known = note(inbox, NOTE).get(registry.url)
    if not known:
        newest = next((_made(version) for version in registry.versions(0)), 0)
        remember(inbox, NOTE, {**note(inbox, NOTE), registry.url: {"first": newest, "last": newest}})
        return [], newest
    found, newest = [], known["last"]
    of_model: dict[str, dict[str, str]] = {}
    for version in registry.versions(max(known["first"], known["last"] - WINDOW)):
        newest = max(newest, _made(version))
        if version.get("status", "READY") != "READY":
            continue  # its files are still being registered
        name, source = version["name"], f"mlflow {version['name']} {version['version']}"
        if name not in of_model:
            of_model[name] = registry.tags_of_model(name)
        tags = {**of_model[name], **_tags(version)}
        model = tags.get(TAG + "model") or (name if name in models else None)
        if model is None:
            continue
        data = _announcement(version, model, tags)
        try:
            letter = letter_of(parse(data, source, datetime.datetime.now(datetime.UTC)), source)
        except ConfigError as error:
            letter = problem_letter(json.dumps(data).encode(), source, str(error))
        if not is_known(inbox, letter):
            found.append(letter)
    return found, newest


def poll(registry: Registry, inbox: Store, models: Collection[str], log: Callable[[str], None]) -> int:
    """Put the registry's new versions into the inbox; returns how many.

    Raises:
        BrokenError: the server cannot be asked; the same versions are found the next time.
    """
    letters, newest = look(registry, inbox, models)
    new = 0
    for letter in letters:
        new += receive(inbox, letter)
        log(f"{letter.source}: {letter.label}, announcement {letter.id}" + (f"\n{letter.problem}" if letter.problem else ""))
    notes = note(inbox, NOTE)
    remember(inbox, NOTE, {**notes, registry.url: {**notes[registry.url], "last": newest}})
    return new


def _announcement(version: dict[str, Any], model: str, tags: dict[str, str]) -> dict[str, Any]:
    """The same for the same model version, whenever it is asked for; so tags that may change later are only those of ours."""
    prefix = TAG + "sha256."
    made = datetime.datetime.fromtimestamp(_made(version) / 1000, datetime.UTC)
    training = {"mlflow_model": version["name"], "mlflow_version": version["version"], "mlflow_run": version.get("run_id") or None}
    data = {
        "model": model,
        "version": tags.get(TAG + "version"),
        "target": tags.get(TAG + "target"),
        "artifacts": {key.removeprefix(prefix): value for key, value in tags.items() if key.startswith(prefix)},
        "who": version.get("user_id") or "",
        "when": made.isoformat(),
        "training": {key: value for key, value in training.items() if value},
    }
    return {key: value for key, value in data.items() if value}


def _made(version: dict[str, Any]) -> int:
    return int(version["creation_timestamp"])


def _tags(item: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in item.get("tags", [])}


def _login() -> dict[str, str]:
    get = os.environ.get
    if token := get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{user}:{get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    return {}

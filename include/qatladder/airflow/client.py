"""Airflow's REST API, as little of it as a sweep needs; standard library only, and never through a proxy."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qatladder.errors import BrokenError

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class ApiError(BrokenError):
    """The API answered with an error; `status` is the HTTP status."""

    def __init__(self, status: int, method: str, path: str, detail: str) -> None:
        super().__init__(f"Airflow's API answered {status}", kind="airflow", request=f"{method} {path}", found=detail)
        self.status = status


class AirflowClient:
    """Calls to one API server.

    Args:
        url: `http://127.0.0.1:8080`.
        passwords: the SimpleAuthManager's generated password file; used when the server is not in all-admins mode.
    """

    def __init__(self, url: str, passwords: Path) -> None:
        self.url = url
        self._passwords = passwords
        self._token = ""

    def health(self) -> dict[str, Any]:
        """State and last heartbeat of every service; raises OSError until the server listens."""
        return dict(self._call("GET", "/api/v2/monitor/health"))

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        return dict(self._authorised("GET", f"/api/v2/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")))

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return dict(self._authorised("POST", f"/api/v2/{path}", body))

    def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return dict(self._authorised("PATCH", f"/api/v2/{path}", body))

    def pages(self, path: str, key: str) -> Iterator[dict[str, Any]]:
        """Every item of a collection, page by page."""
        seen, total = 0, 1
        while seen < total:
            page = self.get(path, limit=100, offset=seen)
            yield from page[key]
            seen, total = seen + max(len(page[key]), 1), page["total_entries"]

    def _authorised(self, method: str, path: str, body: Any = None) -> Any:
        if not self._token:
            self._token = self._log_in()
        try:
            return self._call(method, path, body)
        except ApiError as error:
            if error.status != 401:
                raise
        self._token = self._log_in()  # it expired
        return self._call(method, path, body)

    def _log_in(self) -> str:
        self._token = ""
        try:
            return str(self._call("GET", "/auth/token")["access_token"])
        except ApiError as error:
            if error.status not in (401, 403, 405):
                raise
        user, password = next(iter(json.loads(self._passwords.read_text()).items()))
        return str(self._call("POST", "/auth/token", {"username": user, "password": password})["access_token"])

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {self._token}"} if self._token else {})
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            with _open(urllib.request.Request(self.url + path, data, headers, method=method), timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, method, path, _detail(error.read(10_000).decode(errors="replace"))) from None


def _detail(text: str) -> str:
    """The sentence in an error answer; the schema dump below it is for machines."""
    try:
        detail = json.loads(text)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = text
    return str(detail).partition("\n")[0][:500]

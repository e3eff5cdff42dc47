"""Teaches apprise `file:///absolute/path.jsonl`, a scheme it knows only for attachments.

Imported when an alert is sent, because it imports apprise.
"""
# mypy: disable-error-code="assignment,no-untyped-call"

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from apprise.manager_plugins import NotificationManager
from apprise.plugins import NotifyBase

from qatladder.errors import ConfigError
from qatladder.reports.alerts import Message, append_alert


class NotifyFile(NotifyBase):
    """Appends to a local file; parses its address itself, because apprise's own parser takes the first folder for a host."""

    service_name = "File"
    service_url = setup_url = "https://www.rfc-editor.org/rfc/rfc8089"
    protocol = "file"
    templates = ("{schema}://{path}",)
    body_maxlen = 1 << 20
    title_maxlen = 1 << 12

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(**options)
        self.path = path

    def url(self, privacy: bool = False, *args: Any, **kwargs: Any) -> str:
        return "file://" + quote(self.path)

    def send(self, body: str, title: str = "", *args: Any, **kwargs: Any) -> bool:
        try:
            append_alert(Path(self.path), Message(title, body))
        except (OSError, ConfigError) as error:
            self.logger.warning("cannot append to the alert file: %s", error)
            return False
        return True

    @staticmethod
    def parse_url(url: str, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        parts = urlsplit(url)
        path = unquote(parts.path)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost") or len(path) < 2 or path.endswith("/"):
            return None
        return {"schema": "file", "path": path}


def register() -> None:
    """Make the scheme known; any number of times."""
    manager = NotificationManager()
    if "file" not in manager:
        manager.add(NotifyFile, schemas="file")

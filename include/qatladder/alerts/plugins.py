"""What apprise lacks: `file:///absolute/path.jsonl`, and chats that say "200 OK" and mean no.

Feishu, Lark, DingTalk and WeCom answer HTTP 200 whatever becomes of a message; whether they took it is in the JSON they answer with. apprise
2.2 looks at the status alone, so a wrong signature, a missing keyword or too many messages would count as delivered.

Imported when an alert is sent, because it imports apprise.
"""
# mypy: disable-error-code="assignment,no-untyped-call"

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import requests
from apprise.manager_plugins import NotificationManager
from apprise.plugins import NotifyBase
from apprise.plugins.dingtalk import NotifyDingTalk
from apprise.plugins.feishu import NotifyFeishu
from apprise.plugins.lark import NotifyLark
from apprise.plugins.wecombot import NotifyWeComBot

from qatladder.alerts.send import Message, append_alert
from qatladder.errors import ConfigError


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


def _post(chat: Any, url: str, payload: dict[str, Any], params: dict[str, str] | None = None) -> bool:
    """Send, and believe the answer's own code: 0 is the only yes."""
    chat.throttle()
    try:
        answer = requests.post(
            url,
            params=params,
            data=json.dumps(payload, ensure_ascii=False).encode(),
            headers={"User-Agent": chat.app_id, "Content-Type": "application/json; charset=utf-8"},
            verify=chat.verify_certificate,
            timeout=chat.request_timeout,
            allow_redirects=chat.redirects,
        )
    except requests.RequestException as error:
        chat.logger.warning("no answer from %s: %s", chat.service_name, type(error).__name__)
        return False
    try:
        said = answer.json()
        code = next((said[name] for name in ("code", "errcode", "StatusCode") if name in said), None)
    except (ValueError, TypeError):
        said, code = {}, None
    if answer.status_code == requests.codes.ok and code == 0:
        return True
    reason = next((said[name] for name in ("msg", "errmsg", "StatusMessage") if said.get(name)), "") if isinstance(said, dict) else ""
    chat.logger.warning("%s refused it: HTTP %d, code %s: %s", chat.service_name, answer.status_code, code, reason)
    return False


class Feishu(NotifyFeishu):
    def send(self, body: str, title: str = "", *args: Any, **kwargs: Any) -> bool:
        text = f"{title}\n{body}" if title else body
        return _post(self, self.notify_url.format(token=self.token).rstrip("/"), {"msg_type": "text", "content": {"text": text}})


class Lark(NotifyLark):
    def send(self, body: str, title: str = "", *args: Any, **kwargs: Any) -> bool:
        text = f"{title}\n{body}" if title else body
        return _post(self, self.webhook_url, {"msg_type": "text", "content": {"text": text}})


class WeComBot(NotifyWeComBot):
    def send(self, body: str, title: str = "", *args: Any, **kwargs: Any) -> bool:
        text = f"{title}\n{body}" if title else body
        return _post(self, self.api_url, {"msgtype": "text", "text": {"content": text}})


class DingTalk(NotifyDingTalk):
    def send(self, body: str, title: str = "", *args: Any, **kwargs: Any) -> bool:
        text = f"{title}\n{body}" if title else body
        payload = {"msgtype": "text", "text": {"content": text}, "at": {"atMobiles": self.targets, "isAtAll": False}}
        return _post(self, self.notify_url.format(token=self.token), payload, self._signature() if self.secret else None)

    def _signature(self) -> dict[str, str]:
        """Of a robot with a secret; requests quotes it, which apprise does a second time."""
        stamp = str(round(time.time() * 1000))
        digest = hmac.new(str(self.secret).encode(), f"{stamp}\n{self.secret}".encode(), hashlib.sha256).digest()
        return {"timestamp": stamp, "sign": base64.b64encode(digest).decode()}


def register() -> None:
    """Make them known; any number of times."""
    manager = NotificationManager()
    if "file" not in manager:
        manager.add(NotifyFile, schemas="file")
        for plugin in (Feishu, Lark, WeComBot, DingTalk):
            manager.add(plugin, force=True)

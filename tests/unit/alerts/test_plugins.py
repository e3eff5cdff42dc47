"""Promises of qatladder.alerts.plugins: Feishu, Lark, DingTalk, WeCom and Slack get what they document, and a 200 that means no is a failure.

The addresses of these services are fixed in apprise. The tests send over HTTP to a real receiver: requests' transport is replaced by one that
goes to 127.0.0.1 in place of the service's host and is otherwise requests' own. The services themselves are not asked.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from tests.unit.alerts.receivers import Receiver

from qatladder.alerts.send import CUT, Message, send

MESSAGE = Message("QATLadder no-ship: int.input", "measured: 1 < 2 & *more*\n\nreport: https://airflow.example/r?a=1&b=2")
TEXT = f"{MESSAGE.title}\n{MESSAGE.body}"

CHATS = {
    "feishu": ("feishu://abcDEF123-token", "open.feishu.cn", "/open-apis/bot/v2/hook/abcDEF123-token", "code"),
    "lark": ("lark://abcDEF123-token", "open.larksuite.com", "/open-apis/bot/v2/hook/abcDEF123-token", "code"),
    "dingtalk": ("dingtalk://abcDEF123token", "oapi.dingtalk.com", "/robot/send?access_token=abcDEF123token", "errcode"),
    "wecombot": ("wecombot://abcdef-123-key", "qyapi.weixin.qq.com", "/cgi-bin/webhook/send?key=abcdef-123-key", "errcode"),
}


@pytest.fixture
def hosts() -> list[str]:
    """Hosts that were asked for, see `to`."""
    return []


def to(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    """Send what goes to any https host to the receiver."""
    whole = requests.adapters.HTTPAdapter.send

    def local(self: Any, request: Any, **options: Any) -> Any:
        parts = urlsplit(request.url)
        if parts.scheme == "https":
            asked.append(str(parts.hostname))
            request.url = parts._replace(scheme="http", netloc=f"127.0.0.1:{receiver.port}").geturl()
        return whole(self, request, **{**options, "proxies": {}})

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", local)


@pytest.mark.parametrize("chat", CHATS)
def test_a_chat_gets_the_request_it_documents(chat: str, monkeypatch: pytest.MonkeyPatch, hosts: list[str]) -> None:
    url, host, path, code = CHATS[chat]
    receiver = Receiver(body=f'{{"{code}": 0}}')
    to(receiver, monkeypatch, hosts)
    (delivery,) = send(MESSAGE, [url])
    receiver.close()
    assert delivery.ok, delivery.reason
    assert hosts == [host]
    ((where, headers, data),) = receiver.requests
    assert where == path
    assert headers["Content-Type"].startswith("application/json")
    text = data["content"]["text"] if chat in ("feishu", "lark") else data["text"]["content"]
    assert data.get("msg_type", data.get("msgtype")) == "text"
    assert text.replace("\r\n", "\n") == TEXT
    assert "abcDEF123" not in delivery.url and "abcdef-123" not in delivery.url


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize(
    "body", ['{{"{code}": 19024, "msg": "Key Words Not Found", "errmsg": "Key Words Not Found"}}', "<html>a login page</html>", "[]"]
)
def test_a_200_that_means_no_is_a_failure(chat: str, body: str, monkeypatch: pytest.MonkeyPatch, hosts: list[str]) -> None:
    url, _, _, code = CHATS[chat]
    receiver = Receiver(body=body.format(code=code) if "{code}" in body else body)
    to(receiver, monkeypatch, hosts)
    (delivery,) = send(MESSAGE, [url])
    receiver.close()
    assert not delivery.ok
    assert len(receiver.requests) == 1
    if "19024" in body:
        assert "19024" in delivery.reason and "Key Words Not Found" in delivery.reason


def test_apprise_alone_takes_such_a_200_for_a_yes(monkeypatch: pytest.MonkeyPatch, hosts: list[str]) -> None:
    """Why there are plugins of our own; when this fails, they can go."""
    from apprise.plugins.feishu import NotifyFeishu

    receiver = Receiver(body='{"code": 19024, "msg": "Key Words Not Found"}')
    to(receiver, monkeypatch, hosts)
    assert NotifyFeishu(token="abcDEF123-token").send("text") is True  # type: ignore[no-untyped-call]
    receiver.close()


def test_a_dingtalk_robot_with_a_secret_gets_its_signature(monkeypatch: pytest.MonkeyPatch, hosts: list[str]) -> None:
    receiver = Receiver(body='{"errcode": 0}')
    to(receiver, monkeypatch, hosts)
    (delivery,) = send(MESSAGE, ["dingtalk://SECabc123@abcDEF123token"])
    receiver.close()
    assert delivery.ok, delivery.reason
    query = parse_qs(urlsplit(receiver.requests[0][0]).query)
    expected = hmac.new(b"SECabc123", f"{query['timestamp'][0]}\nSECabc123".encode(), hashlib.sha256).digest()
    assert base64.b64decode(query["sign"][0]) == expected, "quoted once, not twice"
    assert "SECabc123" not in delivery.url


def test_slack_gets_title_and_text_at_its_webhook(monkeypatch: pytest.MonkeyPatch, hosts: list[str]) -> None:
    receiver = Receiver(body="ok")
    to(receiver, monkeypatch, hosts)
    (delivery,) = send(MESSAGE, ["slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"])
    receiver.close()
    assert delivery.ok, delivery.reason
    assert hosts == ["hooks.slack.com"]
    ((where, _, data),) = receiver.requests
    assert where == "/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    assert MESSAGE.title in str(data)
    assert "measured: 1 &lt; 2 &amp; *more*" in str(data), "escaped as Slack asks"


def test_slack_that_says_no_is_a_failure(monkeypatch: pytest.MonkeyPatch, hosts: list[str]) -> None:
    receiver = Receiver(body="invalid_token")
    to(receiver, monkeypatch, hosts)
    (delivery,) = send(MESSAGE, ["slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"])
    receiver.close()
    assert not delivery.ok


def test_a_long_message_is_one_message_that_wecom_takes(monkeypatch: pytest.MonkeyPatch, hosts: list[str]) -> None:
    receiver = Receiver(body='{"errcode": 0}')
    to(receiver, monkeypatch, hosts)
    body = "first failing check: x\n" + "\n".join(f"- 车道 {index}" for index in range(400)) + "\n\nlog: https://a/b\nreport: https://a/c"
    (delivery,) = send(Message("t" * 100, body), ["wecombot://abcdef-123-key"])
    receiver.close()
    assert delivery.ok
    ((_, _, data),) = receiver.requests
    text = data["text"]["content"]
    assert len(text.encode()) <= 2048
    assert "first failing check: x" in text and CUT in text and text.endswith("report: https://a/c")

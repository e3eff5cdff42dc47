"""Real receivers on the loopback: an HTTP server that refuses as often as it is told, and an SMTP server."""

from __future__ import annotations

import email
import email.message
import email.policy
import http.server
import json
import socket
import threading
import time
from typing import Any

from aiosmtpd.controller import Controller


class Receiver:
    """An HTTP server that keeps what it is sent.

    Args:
        script: what becomes of the first requests: a status, or "hang" (longer than apprise waits) or "cut" (the connection ends without
            an answer); after that `status`.
        body: what it answers with.
    """

    def __init__(self, status: int = 200, script: tuple[int | str, ...] = (), body: str = "ok") -> None:
        self.received: list[dict[str, Any]] = []
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.refused: list[int | str] = []
        left = list(script)
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                step = left.pop(0) if left else status
                if step in ("hang", "cut"):
                    receiver.refused.append(step)
                    if step == "hang":
                        time.sleep(3)
                    self.close_connection = True
                    self.connection.close()
                    return
                (receiver.received if step == 200 else receiver.refused).append(data if step == 200 else step)
                receiver.requests.append((self.path, dict(self.headers), data))
                answer = body.encode()
                self.send_response(int(step))
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:  # a connection that was cut on purpose
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.port}/hook-token-1"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Mailbox:
    """An SMTP server that keeps the messages it accepts; `refuse` more are answered with 451 first."""

    def __init__(self, refuse: int = 0) -> None:
        self.refuse = refuse
        self.messages: list[email.message.EmailMessage] = []
        self.envelopes: list[tuple[str, list[str]]] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self.controller.start()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if self.refuse > 0:
            self.refuse -= 1
            return "451 4.3.0 try again later"
        self.envelopes.append((envelope.mail_from, list(envelope.rcpt_tos)))
        self.messages.append(email.message_from_bytes(envelope.content, policy=email.policy.default))  # type: ignore[arg-type]
        return "250 OK"

    @property
    def url(self) -> str:
        return f"mailto://127.0.0.1:{self.port}?from=qatladder@lab.example&to=lanes@lab.example"

    def close(self) -> None:
        self.controller.stop()

"""A worse network for machines without namespaces: a TCP proxy on the loopback address that delays, stalls and hangs up."""

from __future__ import annotations

import queue
import socket
import threading
import time
from contextlib import suppress


class Proxy:
    """Forwards connections to `target`.

    Attributes:
        delay: seconds one way, for what arrives from now on.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target, self.delay = target, 0.0
        self._flows, self._open = threading.Event(), True
        self._flows.set()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        """Nothing gets through; no connection ends."""
        self._flows.clear()

    def cut(self) -> None:
        """Every connection ends, and none is made."""
        self._open = False
        for connection in self._sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def restore(self) -> None:
        self._open, self.delay = True, 0.0
        self._flows.set()

    def close(self) -> None:
        self.restore()
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                if not self._open:
                    near.close()
                    continue
                far = socket.create_connection(self.target)
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    waiting: queue.Queue[tuple[float, bytes]] = queue.Queue()
                    threading.Thread(target=self._read, args=(source, waiting), daemon=True).start()
                    threading.Thread(target=self._write, args=(sink, waiting), daemon=True).start()

    def _read(self, source: socket.socket, waiting: queue.Queue[tuple[float, bytes]]) -> None:
        data = b"-"
        while data:
            data = b""
            with suppress(OSError):
                data = source.recv(1 << 16)
            waiting.put((time.monotonic() + self.delay, data))

    def _write(self, sink: socket.socket, waiting: queue.Queue[tuple[float, bytes]]) -> None:
        with suppress(OSError), sink:
            while True:
                due, data = waiting.get()
                time.sleep(max(0.0, due - time.monotonic()))
                self._flows.wait()
                if not data:
                    sink.shutdown(socket.SHUT_RDWR)
                    return
                sink.sendall(data)

"""A wire between two network namespaces: python wire.py CLIENT_PID BOARD_PID NUMBER

Both ends are TUN devices, so what it delays, loses and holds back are real IP packets, and what suffers is the kernels' own TCP.
Address of the client's end: 10.213.NUMBER.1; of the board's: 10.213.NUMBER.2.

Standard input: one JSON object per line, the wire's new behaviour:

    delay   seconds one way
    loss    share of packets lost; 1 is a cut wire
    rate    bytes per second in each direction; 0: as fast as it goes

Standard output: after each line `[to_board, to_client]`, the bytes delivered so far. It ends with its standard input.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
MAX_BACKLOG = 0.5
"""Seconds of traffic a slow wire holds before it drops packets, as a router does."""


def network_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/net")


def enter_network(namespace: Path) -> None:
    """Move the calling thread, and what it starts from now on, into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with namespace.open() as stream:
        if libc.setns(stream.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {namespace}")


def tun(name: str, address: str, peer: str) -> int:
    """A TUN device in the current network namespace; its packets are read from and written to the file descriptor."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "address", "add", address, "peer", peer, "dev", name], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    return device


def forward(client: int, board: int) -> None:
    """Move packets until standard input ends."""
    other, delivered, busy_until = {client: board, board: client}, {board: 0, client: 0}, {board: 0.0, client: 0.0}
    delay, loss, rate = 0.0, 0.0, 0.0
    chance, waiting, number = random.Random(1), [], 0
    while True:
        patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready = select.select([0, client, board], [], [], patience)[0]
        now = time.monotonic()
        if 0 in ready:
            line = sys.stdin.readline()
            if not line:
                return
            change = json.loads(line)
            delay, loss, rate = change.get("delay", delay), change.get("loss", loss), change.get("rate", rate)
            if loss == 1:
                waiting.clear()
            print(json.dumps([delivered[board], delivered[client]]), flush=True)
        for source in set(ready) - {0}:
            packet, target = os.read(source, 1 << 16), other[source]
            start = max(now, busy_until[target])
            if chance.random() < loss or start - now > MAX_BACKLOG:
                continue
            busy_until[target] = start + (len(packet) / rate if rate else 0.0)
            number += 1
            heapq.heappush(waiting, (busy_until[target] + delay, number, target, packet))
        while waiting and waiting[0][0] <= now:
            _, _, target, packet = heapq.heappop(waiting)
            delivered[target] += len(packet)
            os.write(target, packet)


def main(argv: Sequence[str]) -> None:
    client_pid, board_pid, number = map(int, argv)
    ours, theirs = f"10.213.{number}.1", f"10.213.{number}.2"
    enter_network(network_of(board_pid))
    board = tun("wire", theirs, ours)
    enter_network(network_of(client_pid))
    client = tun(f"wire{number}", ours, theirs)
    print("ready", flush=True)
    forward(client, board)


if __name__ == "__main__":
    main(sys.argv[1:])

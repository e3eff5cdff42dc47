"""A board behind another host: its SSH connection runs through a channel of the jump host's, whose key is checked as strictly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paramiko

from qatladder.boards.fleet import BoardSpec
from qatladder.errors import BrokenError, QATLadderError

CHANNEL_TIMEOUT = 10.0


class Tunnel:
    """What paramiko takes for a socket: a channel through the jump host. Closing it closes the connection that carries it."""

    def __init__(self, client: paramiko.SSHClient, channel: paramiko.Channel) -> None:
        self._client = client
        self._channel = channel

    def close(self) -> None:
        self._client.close()  # with its channels; paramiko closes a socket more than once

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


def open_jump(
    board: BoardSpec, connect: Callable[[BoardSpec], paramiko.SSHClient], address: tuple[str, int] | None = None
) -> Tunnel | None:
    """A way to a board through its jump host; None for a board without one.

    Args:
        connect: opens an SSH connection to a host described as a board is.
        address: (host, port) of the board as the jump host knows it; default: as the fleet says.
    Raises:
        BrokenError: kind `jump_host`: the jump host itself is the trouble, so the board is not to blame; kind `unreachable`: the jump
            host cannot reach the board.
    """
    jump = board.jump
    if jump is None:
        return None
    host, port = address or board.address
    named = f"{jump.user}@{jump.host}:{jump.port}" if jump.host else f"connection {jump.conn_id}"
    where = {"board": board.name, "jump_host": named}
    gate = board.model_copy(
        update={
            "jump": None,
            "virtual": False,
            **{key: getattr(jump, key) for key in ("host", "port", "user", "key_file", "known_hosts", "conn_id")},
        }
    )
    try:
        client = connect(gate)
    except QATLadderError as error:
        found = " ".join([error.message, *(f"{key} {value}" for key, value in error.where.items() if key in ("file", "found"))])
        step = error.next_step.replace("the board", "the jump host")
        raise BrokenError("the board's jump host cannot be used", step, kind="jump_host", found=found, **where) from error
    try:
        transport = client.get_transport()
        if transport is None:
            raise EOFError("the connection is closed")
        channel = transport.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=CHANNEL_TIMEOUT)
    except (OSError, EOFError, paramiko.SSHException) as error:
        client.close()
        refused = isinstance(error, paramiko.ChannelException) and error.code == 1
        raise BrokenError(
            "the jump host does not forward connections" if refused else "the jump host cannot reach the board",
            "set AllowTcpForwarding in its sshd_config"
            if refused
            else "check the board's power and network, and host and port in the fleet",
            kind="jump_host" if refused else "unreachable",
            address=f"{host}:{port}",
            found=str(error) or type(error).__name__,
            **where,
        ) from error
    return Tunnel(client, channel)

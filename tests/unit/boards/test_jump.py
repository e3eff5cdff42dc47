"""A board behind a jump host, and a host key made known: real SSH servers, every host key checked, the blame where it belongs."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from qatladder.boards.fleet import BoardSpec
from qatladder.boards.session import BoardSession, connect
from qatladder.errors import BrokenError


@dataclass
class Server:
    """One SSH server on 127.0.0.1 with a host key and a client key of its own."""

    folder: Path
    port: int = 0
    forwarded: list[tuple[str, int]] = field(default_factory=list)
    forwards: bool = True
    connections: int = 0

    @property
    def host(self) -> dict[str, Any]:
        return {"host": "127.0.0.1", "port": self.port, "key_file": self.folder / "client", "known_hosts": self.folder / "known_hosts"}

    async def start(self) -> None:
        self.folder.mkdir()
        host_key, client_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        client_key.write_private_key(str(self.folder / "client"))
        server = self

        class Handler(asyncssh.SSHServer):
            def connection_made(self, conn: Any) -> None:
                server.connections += 1

            def connection_lost(self, exc: Exception | None) -> None:
                server.connections -= 1

            def begin_auth(self, username: str) -> bool:
                return True

            def public_key_auth_supported(self) -> bool:
                return True

            def validate_public_key(self, username: str, key: Any) -> bool:
                return bool(key.public_data == client_key.public_data)

            def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
                server.forwarded.append((dest_host, dest_port))
                if not server.forwards:
                    raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "no")
                return True

        async def answer(process: Any) -> None:
            process.stdout.write(f"{self.folder.name} heard: {process.command}\n")
            process.exit(0)

        listener = await asyncssh.create_server(Handler, "127.0.0.1", 0, server_host_keys=[host_key], process_factory=answer)
        self.port = listener.get_port()
        public = host_key.export_public_key().decode()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """(jump host, board)."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    found = Server(tmp_path / "gate"), Server(tmp_path / "board")
    for server in found:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(20)
    yield found
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def spec(servers: tuple[Server, Server], **jump: Any) -> BoardSpec:
    gate, board = servers
    return BoardSpec.model_validate({"name": "far", "march": "bayes-e", **board.host, "jump": {**gate.host, **jump}})


def test_commands_go_through_the_jump_host_and_nothing_is_left_open(servers: tuple[Server, Server]) -> None:
    gate, board = servers
    with BoardSession(lambda: connect(spec(servers)), "far") as session:
        assert session.run(["uname", "-a"]).stdout.startswith("board heard: ")
        assert gate.forwarded == [("127.0.0.1", board.port)]
    for _ in range(100):
        if not gate.connections and not board.connections:
            break
        threading.Event().wait(0.05)
    assert (gate.connections, board.connections) == (0, 0)


@pytest.mark.parametrize("which", ["gate", "board"])
def test_both_host_keys_are_checked(servers: tuple[Server, Server], which: str) -> None:
    stranger = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    server = servers[0] if which == "gate" else servers[1]
    (server.folder / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {stranger}")
    with pytest.raises(BrokenError) as caught:
        connect(spec(servers))
    assert caught.value.kind == ("jump_host" if which == "gate" else "host_key"), "a board is not to blame for its jump host"
    assert "host key" in str(caught.value)
    assert caught.value.where["board"] == "far"
    if which == "board":
        assert f"ssh -p {servers[0].port} root@127.0.0.1 ssh-keyscan -p {server.port} 127.0.0.1" in caught.value.next_step


def test_a_board_the_jump_host_cannot_reach_is_unreachable(servers: tuple[Server, Server]) -> None:
    far = spec(servers).model_copy(update={"port": 1})
    (servers[1].folder / "known_hosts").write_text("[127.0.0.1]:1 " + (servers[1].folder / "known_hosts").read_text().split(" ", 1)[1])
    with pytest.raises(BrokenError) as caught:
        connect(far)
    assert caught.value.kind == "unreachable"


def test_a_jump_host_that_forwards_nothing_is_named(servers: tuple[Server, Server]) -> None:
    servers[0].forwards = False
    with pytest.raises(BrokenError) as caught:
        connect(spec(servers))
    assert caught.value.kind == "jump_host"
    assert "AllowTcpForwarding" in caught.value.next_step


@pytest.mark.parametrize("change", [{"port": 1}, {"key_file": Path("/nowhere/key")}])
def test_a_jump_host_that_cannot_be_used_is_named(servers: tuple[Server, Server], change: dict[str, Any]) -> None:
    with pytest.raises(BrokenError) as caught:
        connect(spec(servers, **change))
    assert caught.value.kind == "jump_host"
    assert caught.value.where["board"] == "far"
    assert "jump host" in str(caught.value)


@pytest.mark.skipif(shutil.which("ssh-keyscan") is None, reason="ssh-keyscan is not installed")
def test_the_command_of_the_error_makes_a_host_key_known(servers: tuple[Server, Server]) -> None:
    _, board = servers
    known = board.folder / "known_hosts"
    known.unlink()
    near = spec(servers).model_copy(update={"jump": None})
    for _ in range(2):  # no file, then a file that does not hold the key
        with pytest.raises(BrokenError) as caught:
            connect(near)
        assert caught.value.kind == "host_key"
        known.touch()
    command = caught.value.next_step.partition("then: ")[2]
    assert command.startswith("ssh-keyscan ")
    subprocess.run(["sh", "-c", command], check=True, capture_output=True, timeout=60)
    connect(near).close()
    stranger = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    known.write_text(f"[127.0.0.1]:{board.port} {stranger}")
    with pytest.raises(BrokenError) as caught:
        connect(near)
    assert caught.value.kind == "host_key"
    assert "has changed" in caught.value.message

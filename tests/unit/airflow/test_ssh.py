"""Boards through Airflow connections: against a real SSH server, with the right key, a wrong key and no key."""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace

import asyncssh
import pytest

from qatladder.airflow import ssh
from qatladder.boards.fleet import BoardSpec
from qatladder.errors import BrokenError


def other_key(kind: str = "ssh-ed25519") -> str:
    return asyncssh.generate_private_key(kind).export_public_key().decode().strip()


@pytest.fixture(scope="module")
def server():
    """An SSH server on 127.0.0.1 that takes one client key and the password `right`."""
    host_key, client_key = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    loop, started = asyncio.new_event_loop(), threading.Event()
    found = SimpleNamespace(
        client=client_key.export_private_key().decode(), host=host_key.export_public_key().decode().strip(), port=0, forwarded=[]
    )

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username):
            return True

        def public_key_auth_supported(self):
            return True

        def validate_public_key(self, username, key):
            return key.public_data == client_key.public_data

        def connection_requested(self, dest_host, dest_port, orig_host, orig_port):
            found.forwarded.append((dest_host, dest_port))
            return True

    async def serve():
        listener = await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[host_key], process_factory=hello)
        found.port = listener.get_port()
        started.set()

    async def hello(process):
        process.stdout.write("hello from the board\n")
        process.exit(0)

    def run():
        loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    yield found
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.fixture
def board(server, tmp_path, monkeypatch):
    """Defines the Airflow connection `board_x` with these extras; returns the board that names it."""
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody's ~/.ssh/known_hosts and keys

    def define(port=None, **extra):
        connection = {"conn_type": "ssh", "host": "127.0.0.1", "port": port or server.port, "login": "root"}
        defaults = {"private_key": server.client, "look_for_keys": "false"}
        monkeypatch.setenv("AIRFLOW_CONN_BOARD_X", json.dumps({**connection, "extra": {**defaults, **extra}}))
        return SimpleNamespace(name="bench-1", conn_id="board_x", jump=None)

    return define


def test_a_pinned_host_key_lets_the_board_in(server, board):
    with ssh.connect(board(host_key=server.host)) as client:
        assert client.exec_command("anything")[1].read() == b"hello from the board\n"


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        ({"host_key": other_key()}, "host_key"),
        ({"host_key": other_key("ecdsa-sha2-nistp256")}, "host_key"),
        ({}, "host_key"),
        ({"no_host_key_check": False}, "host_key"),
        ({"no_host_key_check": True}, "connection"),
        ({"allow_host_key_change": True}, "connection"),
        ({"host_key": "ssh-dss AAAA"}, "connection"),
    ],
    ids=[
        "another host key",
        "another kind of key",
        "no host key",
        "check on, no host key",
        "check switched off",
        "key changes allowed",
        "unusable key",
    ],
)
def test_anything_but_the_known_host_key_is_refused(server, board, extra, kind):
    with pytest.raises(BrokenError) as caught:
        ssh.connect(board(**extra))
    assert caught.value.kind == kind
    assert "bench-1" in str(caught.value)


def test_the_provider_alone_takes_any_key_when_changes_are_allowed(server, board):
    """Why `allow_host_key_change` is refused: the provider connects to a host nobody knows, whatever key it shows."""
    from airflow.providers.ssh.hooks.ssh import SSHHook

    SSHHook(ssh_conn_id=board(allow_host_key_change=True).conn_id, conn_retry_attempts=1).get_conn().close()


def test_a_pinned_key_is_not_overruled_by_the_users_known_hosts(server, board, tmp_path):
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {server.host}\n")
    ssh.connect(board()).close()
    with pytest.raises(BrokenError) as caught:
        ssh.connect(board(host_key=other_key()))
    assert caught.value.kind == "host_key"


def test_a_refused_login_and_a_silent_board_are_told_apart(server, board):
    stranger = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    with pytest.raises(BrokenError) as caught:
        ssh.connect(board(host_key=server.host, private_key=stranger))
    assert caught.value.kind == "auth"
    with pytest.raises(BrokenError) as caught:
        ssh.connect(board(host_key=server.host, port=1))
    assert caught.value.kind == "unreachable"


@pytest.fixture
def far(server, board, monkeypatch, tmp_path):
    """Defines the connection `gate` too, to the same server; returns the board behind it, named by a connection or by the fleet."""

    def define(by_connection=True, **gate):
        near = board(host_key=server.host)
        connection = {"conn_type": "ssh", "host": "127.0.0.1", "port": server.port, "login": "root"}
        extra = {"private_key": server.client, "look_for_keys": "false", "host_key": server.host, **gate}
        monkeypatch.setenv("AIRFLOW_CONN_GATE", json.dumps({**connection, "extra": extra}))
        (tmp_path / "key").write_text(server.client)
        (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {server.host}\n")
        files = {"key_file": tmp_path / "key", "known_hosts": tmp_path / "known_hosts"}
        return BoardSpec.model_validate(
            {
                "name": "far",
                "march": "bayes",
                "host": "127.0.0.1",
                "port": server.port,
                **({"conn_id": near.conn_id} if by_connection else files),
                "jump": {"conn_id": "gate"},
            }
        )

    return define


@pytest.mark.parametrize("by_connection", [True, False])
def test_a_board_behind_a_jump_host_is_reached_through_its_connection(server, far, by_connection):
    server.forwarded.clear()
    with ssh.connect(far(by_connection)) as client:
        assert client.exec_command("anything")[1].read() == b"hello from the board\n"
    assert server.forwarded == [("127.0.0.1", server.port)]


@pytest.mark.parametrize("gate", [{"host_key": other_key()}, {"host_key": None, "no_host_key_check": True}])
def test_the_jump_hosts_key_is_checked_as_strictly(server, far, gate):
    server.forwarded.clear()
    with pytest.raises(BrokenError) as caught:
        ssh.connect(far(**gate))
    assert caught.value.kind == "jump_host"
    assert not server.forwarded


@pytest.mark.parametrize("conn_id", [None, "nobody_defined_this"])
def test_without_a_connection_the_fleet_file_decides(conn_id, monkeypatch):
    import qatladder.boards.session

    monkeypatch.setattr(qatladder.boards.session, "connect", lambda board, gate: f"fleet's way to {board.name}")
    monkeypatch.setattr("airflow.sdk.bases.hook.BaseHook.get_connection", _not_found)
    assert ssh.connect(SimpleNamespace(name="bench-1", conn_id=conn_id)) == "fleet's way to bench-1"


def _not_found(hook, conn_id):
    from airflow.sdk.exceptions import AirflowNotFoundException

    raise AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined")

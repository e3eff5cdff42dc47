"""Boards through Airflow's SSH connections, with the host key always checked.

A board's `conn_id` names an Airflow connection (UI, `AIRFLOW_CONN_...` or a secrets backend). Without such a connection
the board is reached as the fleet file says. Either way an unknown or changed host key ends the attempt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qatladder.errors import BrokenError

if TYPE_CHECKING:
    import paramiko

    from qatladder.boards.fleet import BoardSpec


def connect(board: BoardSpec) -> paramiko.SSHClient:
    """Open an SSH connection to a board.

    One attempt: trying again is the board session's and the task's business.

    Raises:
        BrokenError: the Airflow connection switches host-key checking off or cannot be used as it is (`connection`); the
            board cannot be reached (`unreachable`), shows an unknown or another host key (`host_key`), refuses the login (`auth`); its jump host
            cannot be used (`jump_host`).
    """
    import paramiko
    from airflow.providers.ssh.hooks.ssh import SSHHook
    from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

    from qatladder.boards.jump import open_jump
    from qatladder.boards.session import connect as connect_as_the_fleet_says

    where = {"board": board.name, "connection": board.conn_id}
    if not board.conn_id:
        return connect_as_the_fleet_says(board, gate=connect)
    try:
        hook = SSHHook(ssh_conn_id=board.conn_id, conn_retry_attempts=1)
    except AirflowNotFoundException:
        return connect_as_the_fleet_says(board, gate=connect)
    except (ValueError, AirflowException, paramiko.SSHException) as error:
        raise BrokenError(
            "the Airflow connection of the board is wrong",
            kind="connection",
            found=error,
            next_step="correct it in Admin > Connections",
            **where,
        ) from error
    # With `allow_host_key_change` the provider accepts any key of a host it does not know.
    if hook.no_host_key_check or hook.allow_host_key_change:
        raise BrokenError(
            "the Airflow connection switches host-key checking off",
            kind="connection",
            found="no_host_key_check" if hook.no_host_key_check else "allow_host_key_change",
            next_step="remove that extra, and put the board's public key into the extra `host_key` (see `ssh-keyscan`)",
            **where,
        )
    if tunnel := open_jump(board, connect, (hook.remote_host, hook.port or 22)):
        hook.host_proxy = tunnel  # type: ignore[assignment]  # paramiko takes it for a socket as well as the proxy command it stands for
    try:
        client = hook.get_conn()
    except paramiko.AuthenticationException as error:
        raise BrokenError(
            "the board refused the login", kind="auth", found=error, next_step="check login and key of the connection", **where
        ) from error
    except paramiko.SSHException as error:
        if isinstance(error, paramiko.BadHostKeyException) or "not found in known_hosts" in str(error):
            raise BrokenError(
                "the board's host key is not the known one",
                kind="host_key",
                found=error,
                next_step="make sure it is the right board; then correct the extra `host_key` of the connection",
                **where,
            ) from error
        raise BrokenError(
            "the SSH connection to the board failed", kind="unreachable", found=error, next_step="check sshd on the board", **where
        ) from error
    except (OSError, EOFError) as error:
        raise BrokenError(
            "the board cannot be reached", kind="unreachable", found=error, next_step="check power, cable and address", **where
        ) from error
    # The provider also believes the user's own known_hosts, and before the pinned key; a pinned key is meant to be the only one.
    transport = client.get_transport()
    shown = transport.get_remote_server_key() if transport else None
    if hook.host_key is not None and shown != hook.host_key:
        client.close()
        raise BrokenError(
            "the board's host key is not the pinned one",
            kind="host_key",
            expected=hook.host_key.fingerprint,
            found=shown.fingerprint if shown else "none",
            next_step="make sure it is the right board; then correct the extra `host_key` of the connection",
            **where,
        )
    return client

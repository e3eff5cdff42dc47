"""python -m qatladder.boards.virtual {start,stop,status,serve} [BOARD ...]: the fleet's virtual boards on this machine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from qatladder.boards.fleet import load_fleet
from qatladder.boards.virtual import control, server
from qatladder.errors import ConfigError, QATLadderError
from qatladder.settings import load_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with the error on stderr; `status` exits 1 when a board does not run."""
    parser = argparse.ArgumentParser(prog="python -m qatladder.boards.virtual", description=__doc__)
    parser.add_argument("action", choices=("start", "stop", "status", "serve"))
    parser.add_argument("boards", nargs="*", metavar="BOARD", help="default: every virtual board of the fleet; serve takes one")
    parser.add_argument("--port", type=int, help="override the fleet's port; 0: any free one")
    parser.add_argument("--host", help="override the fleet's host; loopback only")
    parser.add_argument("--password", action="store_true", help=f"also accept the password in ${control.PASSWORD} (for hb_verifier)")
    options = parser.parse_args(argv)
    settings = load_settings()
    try:
        fleet = load_fleet()
        boards = [fleet.board(name) for name in options.boards] or [board for board in fleet.boards if board.virtual]
        if len(boards) > 1 and options.port:
            raise ConfigError("one port cannot serve several boards", next_step="name the board, or use --port 0")
        if options.action == "serve":
            if len(boards) != 1:
                raise ConfigError("serve takes exactly one board", found=", ".join(board.name for board in boards))
            password = os.environ.get(control.PASSWORD) if options.password else None
            if options.password and not password:
                raise ConfigError(f"--password needs the environment variable {control.PASSWORD}")
            server.serve(boards[0], settings, options.port, options.host, password)
            return 0
        missing = 0
        for board in boards:
            if options.action == "start":
                port = control.start_background(board, settings, options.port, options.host, options.password)
                print(f"{board.name}: listening on {options.host or board.host}:{port}")
            elif options.action == "stop":
                print(f"{board.name}: {'stopped' if control.stop(board, settings) else 'was not running'}")
            else:
                pid = control.running(board, settings)
                missing += pid is None
                print(f"{board.name}: {f'running, pid {pid}' if pid else 'not running'}")
        return 1 if missing else 0
    except QATLadderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

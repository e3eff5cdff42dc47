"""A worker that can be killed: python client.py RUN SPEC.json MODEL OUT FILE... runs one inference, one file per sample."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from qatladder.boards.device import Board
from qatladder.boards.fleet import BoardSpec


def main() -> None:
    run, (spec, model, out, *files) = sys.argv[1], map(Path, sys.argv[2:])
    with Board(BoardSpec.model_validate(json.loads(spec.read_text())), run=run) as board:
        board.infer(model, [[path] for path in files], out)


if __name__ == "__main__":
    main()

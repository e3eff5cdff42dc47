"""What a board is asked in the fault matrix, and whether it answered right."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.integration.boards.conftest import Model

from qatladder.boards import hrt
from qatladder.boards.device import Board
from qatladder.boards.session import BoardSession, connect
from qatladder.errors import BrokenError

from .lab import PATIENCE, LabBoard, until

Integers = npt.NDArray[np.generic]
AWAY = {"connection_lost", "unreachable", "timeout"}
"""Kinds of a board that was there and is not any more."""


RUN = "night"
"""Whoever asks the same question in the same run means the same job; see `Board`."""


def client(board: LabBoard, run: str = RUN, patience: float = 60.0, lock_timeout: float = 600.0) -> Board:
    """A client of its own, with its own connection; `patience` is the session's."""
    spec = board.spec
    return Board(spec, BoardSession(functools.partial(connect, spec), spec.name, spec.workdir, patience), lock_timeout, run)


class Probe:
    """Pictures for a model, and the integers its quantized ONNX gives for them.

    Args:
        files: per sample its input files.
        feed: the same for the quantized ONNX, [N, 1, H, W, C].
        out: folder for dumps; each question gets a folder of its own.
        known: expected integers of feeds seen before.
    """

    def __init__(
        self, model: Model, files: Sequence[Sequence[Path]], feed: npt.NDArray[np.int8], out: Path, known: dict[bytes, Integers]
    ) -> None:
        self.model, self.files, self.feed, self.out, self.known = model, files, feed, out, known
        self.asked = 0

    def __len__(self) -> int:
        return len(self.files)

    def part(self, first: int, last: int) -> Probe:
        """The same with some of the samples."""
        return Probe(self.model, self.files[first:last], self.feed[first:last], self.out / f"{first}-{last}", self.known)

    def expected(self, name: str) -> Integers:
        key = self.feed.tobytes()
        if key not in self.known:
            self.known[key] = self.model.reference(self.feed, name)[name]
        return self.known[key]

    def ask(self, device: Board, hbm: Path | None = None, **options: Any) -> None:
        """One inference that must give the right integers.

        Raises:
            BrokenError: the board gave none. Then nothing may lie in the output folder that could be taken for a result.
        """
        self.asked += 1
        out = self.out / str(self.asked)
        hbm = hbm or self.model.hbm
        try:
            info = device.model_info(hbm)
            results = device.infer(hbm, self.files, out, info=info, **options)
        except BrokenError:
            assert_nothing_half(out)
            raise
        found = np.stack([hrt.read_dump(paths[0], info.outputs[0]) for paths in results])
        np.testing.assert_array_equal(found, self.expected(info.outputs[0].name))
        assert_nothing_half(out)

    def attempt(self, board: LabBoard, kinds: set[str] | None = None, **options: Any) -> BrokenError | None:
        """Ask with a new client. The right integers, or an error of one of these kinds that names the board."""
        raised: BrokenError | None = None
        try:
            with client(board, **options) as device:
                self.ask(device)
        except BrokenError as error:
            raised = error
        if raised:
            assert raised.kind in (kinds or set()), f"{raised.kind}: {raised}"
            assert raised.where.get("board") == board.spec.name, f"the error does not name the board: {raised}"
        return raised

    def refused(self, board: LabBoard, *kinds: str, **options: Any) -> BrokenError:
        """Ask with a new client; the answer must be an error of one of these kinds."""
        error = self.attempt(board, set(kinds), **options)
        assert error is not None, "the fault went unnoticed"
        return error

    def assert_fine(self, board: LabBoard) -> None:
        """The board serves the next one as if nothing had happened, and is clean afterwards."""
        board.behave()
        board.go_on()
        assert self.attempt(board) is None
        board.assert_clean()


def assert_nothing_half(out: Path) -> None:
    """No temporary file and no archive is left here."""
    left = [path for path in out.rglob("*") if path.name.startswith(".") or ".part" in path.name or path.suffix in (".tar", ".gz")]
    assert not left


@contextmanager
def when(condition: Callable[[], object], what: str, *actions: Callable[[], object]) -> Iterator[None]:
    """During the block, once the condition holds, do the actions. A condition that never held fails the test."""

    def inject() -> None:
        until(condition, what)
        for action in actions:
            action()

    with ThreadPoolExecutor(1) as pool:
        injected = pool.submit(inject)
        yield
        injected.result(2 * PATIENCE)

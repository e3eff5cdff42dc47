"""The worst of `test_link.py` where there are no namespaces: the virtual board behind a proxy. Runs as any user."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.boards.conftest import X5, Bench, bench, home  # noqa: F401
from tests.integration.boards.test_device import tool_wrapped

from qatladder.boards.device import Board
from qatladder.boards.fleet import BoardSpec
from qatladder.boards.session import BoardSession, connect
from qatladder.errors import BrokenError

from .lab import until
from .probe import AWAY, RUN, Probe, when
from .proxy import Proxy

pytestmark = pytest.mark.vendor


@pytest.fixture
def proxy(bench: Bench) -> Iterator[Proxy]:  # noqa: F811
    bench.start(X5)
    proxy = Proxy(X5.address)
    yield proxy
    proxy.close()


@pytest.fixture
def log(bench: Bench, tmp_path: Path) -> Iterator[Callable[[str], int]]:  # noqa: F811
    """How often the tool began or ended an inference, which takes half a second, so that there is a middle.

    The tool runs the first sample of a job; the others go through the virtual board's bindings.
    """
    path = tmp_path / "log"
    path.touch()
    script = f'case "$1" in infer) echo begin >>{path}; sleep 0.5; "$REAL" "$@"; code=$?; echo end >>{path}; exit $code ;; *) exec "$REAL" "$@" ;; esac'
    with tool_wrapped(bench, script):
        yield lambda word: path.read_text().split().count(word)


def ask(probe: Probe, proxy: Proxy, tmp_path: Path, patience: float = 60.0) -> None:
    known = tmp_path / "known_hosts"
    assert X5.host_keys
    known.write_text(f"[127.0.0.1]:{proxy.port} {' '.join(X5.host_keys.read_text().split()[1:3])}\n")
    behind = {"virtual": False, "port": proxy.port, "key_file": str(X5.private_key), "known_hosts": str(known)}
    spec = BoardSpec.model_validate({**X5.model_dump(), **behind})
    with Board(spec, BoardSession(functools.partial(connect, spec), spec.name, spec.workdir, patience), run=RUN) as board:
        probe.ask(board)


def test_a_slow_network_is_no_fault(proxy: Proxy, probe: Probe, tmp_path: Path) -> None:
    proxy.delay = 0.05
    ask(probe.part(0, 1), proxy, tmp_path)


def test_a_network_that_stalls_for_a_moment_is_not_noticed(proxy: Proxy, probe: Probe, tmp_path: Path, log: Callable[[str], int]) -> None:
    with (
        when(lambda: log("begin"), "the inference began", proxy.stall),
        when(lambda: log("end"), "the tool finished alone", proxy.restore),
    ):
        ask(probe, proxy, tmp_path)
    assert log("begin") == 1, "the job was run twice"


def test_a_connection_that_ends_is_taken_up_again(proxy: Proxy, probe: Probe, tmp_path: Path, log: Callable[[str], int]) -> None:
    with (
        when(lambda: log("begin"), "the inference began", proxy.cut),
        when(lambda: log("end"), "the tool finished alone", proxy.restore),
    ):
        ask(probe, proxy, tmp_path)
    assert log("begin") == 1, "the job was run twice"


def test_a_network_that_is_gone_for_good_is_an_error_and_the_work_is_found_again(
    proxy: Proxy, probe: Probe, tmp_path: Path, log: Callable[[str], int]
) -> None:
    started = time.monotonic()
    with when(lambda: log("begin"), "the inference began", proxy.cut), pytest.raises(BrokenError) as caught:
        ask(probe, proxy, tmp_path, patience=0.5)
    assert caught.value.kind in AWAY
    assert time.monotonic() - started < 60
    proxy.restore()
    until(lambda: log("end"), "the tool finished alone")
    ask(probe, proxy, tmp_path)
    assert log("begin") == 1, "the job was run twice"

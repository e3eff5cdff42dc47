"""The fleet at work: which boards may be used, is this one fit, what happened to it?

What is known of a board is a fold over events (`qatladder.boards.state`). Each event is a file of its own in the object store,

    runs/fleet/<board>/<time>-<random>.json

so that workers that write at the same moment lose nothing. A look at the board folds them into `state.json`, which lists the files it
holds; those are deleted an hour later only, when nobody can still be reading the state before them.
"""

from __future__ import annotations

import datetime
import json
import secrets
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from qatladder.boards import golden, state
from qatladder.boards.device import Board, Health
from qatladder.boards.fleet import BoardSpec, Fleet, load_fleet
from qatladder.boards.session import BoardSession
from qatladder.boards.state import BoardState, Event
from qatladder.boards.taxonomy import kind_of
from qatladder.errors import ArtifactError, BrokenError, ConfigError, ToolchainError
from qatladder.evidence import Store
from qatladder.settings import Settings
from qatladder.toolchains.base import Toolchain
from qatladder.toolchains.hmct import Hmct
from qatladder.validation.golden import golden_of

MIN_DISK_MB = 200.0
MIN_MEMORY_MB = 50.0
MAX_CLOCK_SKEW_S = 300.0
MAX_TEMPERATURE_C = 95.0
"""Where the chips begin to throttle."""

GOLDEN_EVERY_S = 15 * 60.0
BUSY_WAIT_S = 60.0
"""How long somebody may use the BPU before a look at the board calls it busy: a health run and a ladder meet now and then."""

RUN = "fleet"
FOLDED_FOR = datetime.timedelta(hours=1)

Log = Callable[[str], None]


# --- what is known -----------------------------------------------------------------------------------------------------------


def board_state(store: Store, name: str, k: int) -> BoardState:
    """What is known of a board.

    Args:
        k: the fleet's `quarantine_after`.
    """
    return _fold(store, name, k)[0]


def note(store: Store, name: str, event: Event) -> None:
    """Add an event to what is known of a board."""
    file = f"{_now():%Y%m%dT%H%M%S-%f}-{secrets.token_hex(3)}.json"
    store.write_run_file(RUN, f"{name}/{file}", json.dumps(event).encode())


def note_failure(store: Store, spec: BoardSpec, error: BrokenError, run: str) -> None:
    """Infrastructure failed on a board; `run` says in which ladder, for people."""
    if spec.virtual and error.kind == "unreachable":
        return  # nobody started it on this machine; there is no board to repair
    note(store, spec.name, state.failure(error, run, _now()))


def note_success(store: Store, spec: BoardSpec, run: str) -> None:
    """A board rung ended with an answer on this board."""
    note(store, spec.name, state.event("ladder", _now(), run=run))


def compact(store: Store, name: str, k: int) -> BoardState:
    """Fold the events of a board into its `state.json`, and delete those an older `state.json` has held for an hour."""
    held = _base(store, name)[1]
    found, files = _fold(store, name, k)
    store.write_run_file(RUN, f"{name}/state.json", json.dumps({"state": found.to_json(), "folded": files}).encode())
    limit = f"{_now() - FOLDED_FOR:%Y%m%dT%H%M%S}"
    for file in held.intersection(files):
        if file < limit:
            store.delete_run_file(RUN, f"{name}/{file}")
    return found


def _base(store: Store, name: str) -> tuple[BoardState, set[str]]:
    """The folded state, and the event files it holds."""
    try:
        data = json.loads(store.read_run_file(RUN, f"{name}/state.json"))
    except FileNotFoundError:
        return BoardState(), set()
    return BoardState.from_json(data["state"]), set(data["folded"])


def _fold(store: Store, name: str, k: int) -> tuple[BoardState, list[str]]:
    """The state now, and every event file there is."""
    while True:
        found, held = _base(store, name)
        files = [file for file in store.run_files(RUN, name) if file != "state.json"]
        try:
            for file in files:
                if file not in held:
                    found = state.after(found, json.loads(store.read_run_file(RUN, f"{name}/{file}")), k)
            return found, files
        except FileNotFoundError:  # folded and deleted while we read: the new state.json holds it
            continue


# --- which boards ------------------------------------------------------------------------------------------------------------


def usable_boards(settings: Settings, store: Store, march: str, names: Sequence[str] = (), prefer: str = "") -> list[BoardSpec]:
    """The boards in service that can run a march, `prefer` first, the others in the order of `names` or of the fleet.

    Args:
        names: the target's boards; empty for every board of the march.
    Raises:
        ConfigError: a named board does not exist or has another march, or no board has it.
        BrokenError: kind `no_board`: every one is in quarantine; says since when and why.
    """
    fleet = load_fleet(settings.fleet)
    able = sorted(fleet.boards_for(march, names), key=lambda spec: spec.name != prefer)
    states = {spec.name: board_state(store, spec.name, fleet.quarantine_after) for spec in able}
    if ready := [spec for spec in able if states[spec.name].ready]:
        return ready
    error = BrokenError(
        "every board that can run this is in quarantine",
        "repair it; it returns with the next passed golden run: `qatladder fleet check`",
        kind="no_board",
        march=march,
    )
    error.where.update({name: f"since {item.since}: {item.reason}" for name, item in states.items()})
    raise error


# --- is it fit ---------------------------------------------------------------------------------------------------------------


def unfit(found: Health, march: str) -> list[str]:
    """Why a board may not judge a model of this march; empty when it may. Somebody who uses the BPU is no fault of the board."""
    problems = []
    if found.march is not None and found.march != march:
        problems.append(f"its march is {found.march}, not {march}")
    if found.disk_free_mb < MIN_DISK_MB:
        problems.append(f"only {found.disk_free_mb:.0f} MB free on disk")
    if found.memory_free_mb < MIN_MEMORY_MB:
        problems.append(f"only {found.memory_free_mb:.0f} MB of memory free")
    if abs(found.clock_skew_s) > MAX_CLOCK_SKEW_S:
        problems.append(f"the clock is {found.clock_skew_s:+.0f} s off")
    problems += [f"{name} at {value:.0f} °C" for name, value in found.temperatures.items() if value >= MAX_TEMPERATURE_C]
    return problems


def preflight(board: Board, spec: BoardSpec, march: str, store: Store, settings: Settings, log: Log) -> Health:
    """Whether a board may judge a model now: a fit board whose golden model passed within the last 15 minutes, or passes now.

    Notes what it saw, but not its own failure: whoever asked notes every failure of the board once, with `note_failure`.

    Raises:
        BrokenError: kinds `unfit_board`, `board_busy`, `golden_mismatch`, `nondeterministic`, `fleet`, or those of the session and the tool.
    """
    fleet = load_fleet(settings.fleet)
    found = _look(board, march, store, log, BUSY_WAIT_S)
    age = board_state(store, spec.name, fleet.quarantine_after).golden_age(_now())
    if age is not None and 0 <= age < GOLDEN_EVERY_S:
        log(f"the golden model passed {age:.0f} s ago")
        return found
    _prove(board, march, fleet, store, settings, log)
    return found


def _look(board: Board, march: str, store: Store, log: Log, patience: float) -> Health:
    """The board's health, noted and judged."""
    deadline = time.monotonic() + patience
    try:
        found = board.health()
        while found.bpu_idle is False and time.monotonic() < deadline:
            log("somebody uses the BPU; waiting")
            time.sleep(5)
            found = board.health()
    except ConfigError as error:  # of the fleet, not of the model
        raise BrokenError(error.message, error.next_step, kind="fleet", **error.where) from error
    problems = unfit(found, march)
    note(store, board.spec.name, state.event("health", _now(), health=asdict(found), problems=problems))
    if problems:
        raise BrokenError(f"the board is not fit: {'; '.join(problems)}", kind="unfit_board", board=board.spec.name)
    if found.bpu_idle is False:
        raise BrokenError(
            "somebody else uses the BPU",
            kind="board_busy",
            board=board.spec.name,
            found="; ".join(found.bpu_users or ()) or f"load {found.bpu_ratio} %",
            next_step="wait, or see on the board who it is: cat /sys/devices/system/bpu/bpu*/users",
        )
    return found


def _prove(board: Board, march: str, fleet: Fleet, store: Store, settings: Settings, log: Log) -> bool:
    """Run the golden model and note that it passed; False when there is none for this march, which is nobody's failure."""
    try:
        known = golden_of(march, fleet, settings, _toolchain(settings), log)
    except ToolchainError as error:
        log(f"golden model not available: {error}")
        return False
    except ArtifactError as error:  # damaged, or another march: nothing a board can do about it, and no reason to trust one
        raise BrokenError(error.message, error.next_step, kind="fleet", **error.where) from error
    result = golden.run(board, known)
    note(store, board.spec.name, state.golden_passed(result, _now()))
    log(f"golden model: {result.samples} samples twice, every integer as expected, in {result.seconds:.1f} s")
    return True


# --- looking after it --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    """What a check of a board found.

    Attributes:
        outcome: `fit`; `broken`; `busy` (somebody works on it: nothing learnt); `stopped` (a virtual board nobody serves).
        why: one text for people; empty when it is fit.
        golden: the golden model passed just now; None when there is none for its march, or it did not come to that.
        health: as far as it could be looked at.
        state: what is known of the board afterwards.
    """

    name: str
    outcome: str
    why: str
    kind: str
    golden: bool | None
    health: Health | None
    state: BoardState


def check_board(
    spec: BoardSpec,
    settings: Settings,
    store: Store,
    log: Log,
    connect: Callable[[BoardSpec], Any] | None = None,
    lock_timeout: float = 20.0,
) -> Checked:
    """Look at a board and run the golden model on it, quarantined or not; note what was found. Nothing of the board's raises.

    Args:
        connect: opens an SSH connection to a board (Airflow's); None for the fleet file's own data.
        lock_timeout: seconds to wait for somebody who works on the board.
    """
    fleet = load_fleet(settings.fleet)
    k = fleet.quarantine_after
    health, proven, error = None, None, None
    session = BoardSession(partial(connect, spec), spec.name, spec.workdir) if connect else None
    with Board(spec, session, lock_timeout) as board:
        try:
            health = _look(board, spec.march, store, log, patience=0)
            proven = _prove(board, spec.march, fleet, store, settings, log) or None
        except BrokenError as broken:
            error = broken
    if error is not None and error.kind == "unreachable" and spec.virtual:
        why = f"nobody serves this virtual board; `qatladder board start {spec.name}` does"
        return Checked(spec.name, "stopped", why, error.kind, None, None, compact(store, spec.name, k))
    if error is not None and error.kind != "board_busy":
        note_failure(store, spec, error, "")
        _maybe_power_cycle(spec, fleet, store, error, log)
    found = compact(store, spec.name, k)
    if error is None:
        return Checked(spec.name, "fit", "", "", proven, health, found)
    if not error.next_step:
        error.next_step = kind_of(error).help
    return Checked(spec.name, "busy" if error.kind == "board_busy" else "broken", str(error), error.kind, None, health, found)


def quarantine(store: Store, spec: BoardSpec, reason: str) -> None:
    """Take a board out of service until an operator gives it back."""
    note(store, spec.name, state.event("quarantine", _now(), reason=reason))


def give_back(spec: BoardSpec, settings: Settings, store: Store, log: Log, connect: Callable[[BoardSpec], Any] | None = None) -> Checked:
    """Give a board back: it is in service again when the golden model passes; without one for its march, when it is fit."""
    note(store, spec.name, state.event("release", _now(), proven=False))
    checked = check_board(spec, settings, store, log, connect)
    if checked.outcome == "fit" and checked.golden is None:
        note(store, spec.name, state.event("release", _now(), proven=True))
        checked = replace(checked, state=compact(store, spec.name, load_fleet(settings.fleet).quarantine_after))
    return checked


def power_cycle(spec: BoardSpec, store: Store, log: Log, timeout: float = 120.0) -> None:
    """Switch a board's power off and on with the fleet's command, which runs here, without a shell.

    Raises:
        ConfigError: the fleet names no command for this board.
        BrokenError: kind `power_cycle`: the command is not there, fails or takes too long.
    """
    if not spec.power_cycle:
        raise ConfigError("the fleet has no power_cycle command for this board", board=spec.name, next_step="add `power_cycle: [...]`")
    log(f"power-cycling {spec.name}: {spec.power_cycle[0]}")
    try:
        done = subprocess.run(spec.power_cycle, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout, check=False)
        found, console = f"exit code {done.returncode}", done.stdout + done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        found, console = str(error), ""
    if found != "exit code 0":
        raise BrokenError(
            "the board's power could not be cycled",
            "run the command by hand; correct `power_cycle` in the fleet file",
            kind="power_cycle",
            console=console,
            board=spec.name,
            file=spec.power_cycle[0],
            found=found,
        )
    note(store, spec.name, state.event("power_cycle", _now()))


def _maybe_power_cycle(spec: BoardSpec, fleet: Fleet, store: Store, error: BrokenError, log: Log) -> None:
    """Once since the board last worked, when the fleet asks for it."""
    if error.kind != "unreachable" or fleet.power_cycle_after is None or not spec.power_cycle:
        return
    known = board_state(store, spec.name, fleet.quarantine_after)
    if known.failures >= fleet.power_cycle_after and not known.power_cycled:
        try:
            power_cycle(spec, store, log)
        except BrokenError as broken:
            log(str(broken))


def fleet_status(settings: Settings, store: Store) -> list[dict[str, Any]]:
    """Every board with what is known of it, for the UI and machines: no address, no key."""
    fleet = load_fleet(settings.fleet)
    return [
        {
            **spec.model_dump(mode="json", include={"name", "march", "dialect", "cores", "slots", "tags", "virtual"}),
            **board_state(store, spec.name, fleet.quarantine_after).to_json(),
        }
        for spec in fleet.boards
    ]


def _toolchain(settings: Settings) -> Toolchain:
    return Hmct(settings)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)

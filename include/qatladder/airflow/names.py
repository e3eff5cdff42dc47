"""What a DAG file may know of the zoo and the fleet while it is parsed: names, and nothing else.

DAG files are parsed every few seconds, so this reads YAML and validates nothing. A file it cannot read is left out here
and reported in full by the plan task.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qatladder.ladder import Rung
from qatladder.settings import Settings, load_settings

RUNGS: tuple[str, ...] = tuple(str(rung) for rung in Rung)
NO_BOARD = "no_board"
"""Slot of ladders that no board of the fleet can take."""

ANNOUNCED = "announced-"
"""How the run ids of announced models' ladders begin (`qatladder.announcements.Decision.run_id`)."""

_NOT_ENTRIES = frozenset({"zoo.yaml", "fleet.yaml", "quarantine.yaml", "alerts.yaml", "acknowledged.yaml"})


@dataclass(frozen=True)
class ZooNames:
    """Names the trigger forms offer, each in zoo order and without repeats."""

    models: tuple[str, ...]
    versions: tuple[str, ...]
    targets: tuple[str, ...]


def zoo_names(settings: Settings | None = None) -> ZooNames:
    """Models, versions and targets of the zoo folder's entries."""
    folder = (settings or load_settings()).zoo
    entries = [_read(path) for path in sorted(folder.glob("*.y*ml")) if path.name not in _NOT_ENTRIES]
    entries = [entry for entry in entries if "model" in entry]
    targets = [target for entry in entries for target in entry.get("targets") or () if isinstance(target, dict)]
    return ZooNames(
        models=_unique(entry["model"] for entry in entries),
        versions=_unique(entry.get("version") for entry in entries),
        targets=_unique(target.get("name") or target.get("march") for target in targets),
    )


def cron(expression: str) -> str | None:
    """The schedule of a DAG that runs by the clock; None where the clock starts nothing (QATLADDER_SCHEDULE=0)."""
    return None if os.environ.get("QATLADDER_SCHEDULE") == "0" else expression


def board_names(settings: Settings | None = None) -> tuple[str, ...]:
    """Names of the fleet's boards, in fleet order."""
    return tuple(board_slots(settings))


def board_slots(settings: Settings | None = None) -> dict[str, int]:
    """How many ladders each board takes at once, in fleet order: slots of its pool."""
    boards = _read((settings or load_settings()).fleet).get("boards") or ()
    slots = {str(board["name"]): board.get("slots", 1) for board in boards if isinstance(board, dict) and board.get("name") is not None}
    return {name: count if isinstance(count, int) and count > 0 else 1 for name, count in slots.items()}


def pool_of(board: str) -> str:
    """The Airflow pool that holds back the work on a board: one slot unless the fleet states another number."""
    return f"board_{board}"


def group_of(slot: str) -> str:
    """Task group of the ladders that climb to a board."""
    return slot if slot == NO_BOARD else "on_" + re.sub(r"[^A-Za-z0-9_-]", "_", slot)


def run_key(dag_id: str, run_id: str) -> str:
    """Name of a DAG run in the object store: unique over all DAGs, and computable from what a UI address carries."""
    return f"{dag_id}@{run_id}"


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError):
        return {}
    return data if isinstance(data, dict) else {}


def _unique(values: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(value) for value in values if value is not None))

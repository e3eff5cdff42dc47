"""What the checks of one rung work with: the entry, the store, earlier rungs' results, and the model's environment."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from qatladder.errors import ArtifactError, BrokenError
from qatladder.evidence import Store
from qatladder.evidence.store import safe_name, sha256_file
from qatladder.ladder import Evidence, Rung, RungResult
from qatladder.runner.client import run_job
from qatladder.settings import Settings
from qatladder.toolchains.base import Toolchain
from qatladder.zoo.load import Zoo
from qatladder.zoo.schema import Entry, Target

Log = Callable[[str], None]


def ladder_key(ladder: dict[str, Any]) -> str:
    """A ladder as one path component."""
    return safe_name(f"{ladder['model']}@{ladder['version']}@{ladder['target']}")


@dataclass
class Context:
    """One rung of one ladder while it is being validated.

    Attributes:
        ladder: the plan's description of the ladder.
        folder: scratch folder of this rung; deleted when the rung is done.
        products: what this rung hands to later rungs; the checks add to it.
        facts: what later rungs and reports need to know; the checks add to it.
        connect: opens an SSH connection to a board; None for the product's own way.
        patience: seconds a board's job is waited for before `StillRunning` is raised; None waits for its end.
        seen: what the jobs of the model's own code read, a report of `qatladder.runner.seen` each.
        declared: the state of what the entry says its adapter reads, before the rung ran.
    """

    ladder: dict[str, Any]
    entry: Entry
    target: Target
    rung: Rung
    run_id: str
    settings: Settings
    zoo: Zoo
    store: Store
    toolchain: Toolchain
    folder: Path
    log: Log
    connect: Callable[[Any], Any] | None = None
    patience: float | None = None
    products: dict[str, Evidence] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    seen: list[dict[str, Any]] = field(default_factory=list)
    declared: list[Any] = field(default_factory=lambda: [[], []])

    def earlier(self, rung: Rung) -> RungResult | None:
        """The result of another rung of this ladder in this run, if it has one."""
        return load_rung(self.store, self.run_id, self.ladder, rung)

    @cached_property
    def int_result(self) -> RungResult | None:
        return self.earlier(Rung.INT)

    def artifact(self, which: str) -> Path:
        """The entry's artifact, proven to be the file that was there when the run was planned.

        Raises:
            ArtifactError: the entry declares none, or the file does not exist.
            BrokenError: kind `artifact_changed`: somebody replaced it during the run.
        """
        path = self.zoo.artifact(self.entry, which)
        if path is None or not path.is_file():
            raise ArtifactError(
                "the artifact does not exist",
                model=self.entry.model,
                rung=self.rung,
                file=path or f"(artifacts.{which} is empty)",
                next_step="train or export it (the sample zoo: make zoo), or correct `artifacts` in the zoo entry",
            )
        digest = sha256_file(path)[0]
        planned = self.ladder.get("artifacts", {}).get(which)
        if planned is not None and planned != digest:
            raise BrokenError(
                "the artifact was replaced during the run, so the rungs would not be of one model",
                kind="artifact_changed",
                model=self.entry.model,
                file=path,
                expected=f"sha256 {planned}",
                found=f"sha256 {digest}",
                next_step="run again when the training has finished; give each training its own version",
            )
        self.facts.setdefault("artifacts", {})[which] = digest
        return path

    def keep(self, name: str, path: Path, file_name: str | None = None) -> Evidence:
        """Store a file as a product of this rung."""
        evidence = self.store.put(path, file_name or path.name)
        self.products[name] = evidence
        return evidence

    def fetch(self, result: RungResult, name: str) -> Path:
        """A product of an earlier rung as a local file.

        Raises:
            BrokenError: the rung's result lists no such product.
        """
        evidence = result.products.get(name)
        if evidence is None:
            raise BrokenError(
                "an earlier rung left no such product",
                kind="store",
                rung=result.rung,
                product=name,
                next_step="run that rung again in this run",
            )
        path = self.folder / "products" / str(result.rung) / safe_name(name) / safe_name(evidence.name)
        return path if path.exists() else self.store.fetch(evidence, path)

    def model_job(self, function: str, args: dict[str, Any], name: str, module: str = "evaluate") -> Any:
        """Run a function of a module of `qatladder.runner` in the model's own environment; returns its value."""
        answer = run_job(
            self.zoo.environment(self.entry),
            f"qatladder.runner.{module}:{function}",
            {"adapter": self.zoo.adapter(self.entry), "options": self.entry.adapter_options, **args},
            self.folder / name,
            timeout=60 * self.entry.timeout_minutes,
            log=self.log,
            reads=[self.zoo.folder],
            watch=[self.folder],
            model=self.entry.model,
            rung=self.rung,
        )
        self.facts.setdefault("environments", {})[self.entry.environment] = answer.environment
        self.seen.append(answer.seen or {"files": [], "folders": [], "blind": ["what it reads was not watched"]})
        if answer.peak_memory_mb is not None:
            self.facts["peak_memory_mb"] = max(answer.peak_memory_mb, self.facts.get("peak_memory_mb", 0.0))
        return answer.value


_LOCATION = re.compile(rb"\n\x08location\x12(.)", re.DOTALL)


def external_data(model: Path) -> dict[str, str | None]:
    """sha256 of the files beside an ONNX model that hold its weights, by name; its own bytes do not change when they do."""
    if model.suffix != ".onnx" or not model.is_file() or not model.stat().st_size:
        return {}
    names = set()
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for found in _LOCATION.finditer(content):
            name = content[found.end() : found.end() + found.group(1)[0]]
            if found.group(1)[0] < 128:
                names.add(name.decode("utf-8", "replace"))
    beside = {name: model.parent / name for name in sorted(names)}
    return {name: sha256_file(path)[0] if path.is_file() else None for name, path in beside.items()}


def rung_file(ladder: dict[str, Any], rung: Rung) -> str:
    return f"{ladder_key(ladder)}/{rung}.json"


def load_rung(store: Store, run_id: str, ladder: dict[str, Any], rung: Rung) -> RungResult | None:
    try:
        return RungResult.from_json(json.loads(store.read_run_file(run_id, rung_file(ladder, rung))))
    except FileNotFoundError:
        return None

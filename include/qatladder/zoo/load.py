"""Finds and reads zoo entries; every mistake is reported with the file, the field and what to write instead."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from qatladder.errors import ConfigError
from qatladder.runner.client import Environment
from qatladder.runner.places import Container, Server
from qatladder.settings import Settings
from qatladder.zoo.schema import Entry, EnvironmentSpec, ZooFile

Model = TypeVar("Model", Entry, ZooFile)

_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it: a zoo of a thousand entries in one second, not ten."""

NOT_ENTRIES = frozenset({"zoo.yaml", "fleet.yaml", "quarantine.yaml", "alerts.yaml", "acknowledged.yaml"})


@dataclass(frozen=True)
class Zoo:
    """All entries of a zoo folder.

    Attributes:
        folder: where the entries are.
        entries: by file, in name order.
        artifact_root: what artifact paths are relative to.
        environments: where models' own code runs, by name.
        problems: entries that could not be read; the others still run.
        trend: what counts as a regression: fields of `schema.TrendPolicy`.
    """

    folder: Path
    entries: dict[Path, Entry]
    artifact_root: Path
    environments: dict[str, Environment]
    problems: list[ConfigError] = field(default_factory=list)
    trend: dict[str, float] = field(default_factory=dict)

    def adapter(self, entry: Entry) -> str:
        """The adapter reference with an absolute path."""
        path, _, name = entry.adapter.rpartition(":")
        return f"{(self.folder / path).resolve()}:{name}"

    def artifact(self, entry: Entry, which: str) -> Path | None:
        """Absolute path of an artifact (float, calib, qat, onnx), None when the entry has none."""
        name = getattr(entry.artifacts, which)
        return None if name is None else self.artifact_root / name

    def environment(self, entry: Entry) -> Environment:
        return self.environment_named(entry.environment, entry.model)

    def environment_named(self, name: str, model: str) -> Environment:
        try:
            return self.environments[name]
        except KeyError:
            raise ConfigError(
                "the entry names an environment that zoo.yaml does not define",
                model=model,
                found=name,
                expected=" | ".join(self.environments),
                next_step=f"define it under `environments` in {self.folder / 'zoo.yaml'}",
            ) from None


def load_entry(path: Path) -> Entry:
    """Read one entry.

    Raises:
        ConfigError: not YAML, or not an entry; names every wrong field.
    """
    return _validated(Entry, _read_yaml(path), path)


def load_zoo(settings: Settings, entries: bool = True) -> Zoo:
    """Read every `*.yaml` of the zoo folder.

    Args:
        entries: read the entries too; without them it is what entries share, for whoever has the one that matters.
    """
    folder = settings.zoo
    if not folder.is_dir():
        raise ConfigError("the zoo folder does not exist", file=folder, next_step="set QATLADDER_ZOO, or create it")
    zoo_file = folder / "zoo.yaml"
    shared = _validated(ZooFile, _read_yaml(zoo_file) or {}, zoo_file) if zoo_file.exists() else ZooFile()
    environments = {"product": Environment("product", Path(sys.executable))}
    for name, spec in shared.environments.items():
        environments[name] = _environment(name, spec, folder, settings)
    found, problems = _entries(folder) if entries else ({}, [])
    return Zoo(folder, found, _expand(shared.artifacts, folder, settings), environments, problems, shared.trend.model_dump())


def _entries(folder: Path) -> tuple[dict[Path, Entry], list[ConfigError]]:
    """The entries of a zoo folder in name order, and what is wrong with the others."""
    entries: dict[Path, Entry] = {}
    problems: list[ConfigError] = []
    seen: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.glob("*.y*ml")):
        if path.name in NOT_ENTRIES:
            continue
        try:
            entry = load_entry(path)
            key = (entry.model, entry.version)
            if key in seen:
                raise ConfigError(
                    "two files declare the same model and version",
                    file=path,
                    also=seen[key],
                    found=f"{entry.model} {entry.version}",
                    next_step="rename one, or give it another version",
                )
            seen[key] = path
            entries[path] = entry
        except ConfigError as error:
            problems.append(error)
    return entries, problems


def _environment(name: str, spec: EnvironmentSpec, folder: Path, settings: Settings) -> Environment:
    """As jobs need it. Paths of a container or a server are paths there, and stay as they are written."""
    place: Container | Server | None = None
    if spec.container is not None:
        place = Container(spec.container.image, spec.container.engine, spec.container.options)
    elif spec.server is not None:
        place = Server(spec.server.host, spec.server.options, spec.server.folder, spec.server.shared)

    def path(text: str) -> Path:
        return _expand(text, folder, settings) if place is None else Path(text)

    return Environment(
        name,
        path(spec.python),
        dict(spec.variables),
        [path(item) for item in spec.paths],
        [path(item) for item in spec.path],
        None if spec.memory_gb is None else round(1000 * spec.memory_gb),
        place,
    )


def _expand(text: str, folder: Path, settings: Settings) -> Path:
    text = text.replace("${QATLADDER_HOME}", "$QATLADDER_HOME").replace("$QATLADDER_HOME", str(settings.home))
    return folder / Path(os.path.expandvars(text)).expanduser()


def _read_yaml(path: Path) -> object:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _YAML)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            "the file cannot be read as YAML", file=path, found=str(error).replace("\n", " "), next_step="correct it"
        ) from error


def _validated(schema: type[Model], data: object, path: Path) -> Model:
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        wrong = [f"{'.'.join(str(part) for part in item['loc']) or '(file)'}: {item['msg']}" for item in error.errors()]
        raise ConfigError(
            f"{len(wrong)} field(s) of the zoo file are wrong",
            next_step="correct them; zoo.schema.json completes and checks the file in an editor",
            file=path,
            **{f"field {index}": text for index, text in enumerate(wrong, 1)},
        ) from error

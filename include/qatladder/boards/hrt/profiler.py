"""`profiler.log` and `profiler.csv`: where did the time of a `perf` run go?

With `--profile_path` the tool writes two JSON objects with a line of `***` between them: what was run and how fast, and the latencies
of processors, nodes and tasks. J6 and S100 put the UCP version in front, and split a BPU node into stages. The CSV file holds the first
object only. Times are milliseconds per frame.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qatladder.boards.hrt.console import plain
from qatladder.errors import BrokenError


@dataclass(frozen=True)
class Latency:
    average_ms: float
    max_ms: float
    min_ms: float


@dataclass(frozen=True)
class Profile:
    """One profiled run.

    Attributes:
        model: name of the model.
        average_ms: latency of one frame in a thread.
        fps: frames per second over all threads.
        frames, threads: what was run.
        core_id: `0` any core, `1` core 0, `1,2` two cores ...
        run_ms: from the first frame to the end of the last.
        processors: `BPU` and `CPU`; empty in a CSV file, as the next two.
        nodes: per node of the model in the order of the file; stages of a node as `node/stage`.
        tasks: `TaskPendingTime`, `TaskRunningTime`.
        version: UCP version; empty when not stated.
        unknown: what was not understood, by its path in the file, kept.
    """

    model: str
    average_ms: float
    fps: float
    frames: int
    threads: int
    core_id: str
    run_ms: float
    processors: dict[str, Latency] = field(default_factory=dict)
    nodes: dict[str, Latency] = field(default_factory=dict)
    tasks: dict[str, Latency] = field(default_factory=dict)
    version: str = ""
    unknown: dict[str, Any] = field(default_factory=dict)


_RUN: dict[str, Callable[[Any], Any]] = {"model_name": str, "frame_count": int, "thread_num": int, "core_id": str, "run_time": float}
_RESULT: dict[str, Callable[[Any], Any]] = {"average_latency": float, "FPS": float}
_TIMES = ("avg_time", "max_time", "min_time")


def parse_profile(text: str) -> Profile:
    """The profile of a `profiler.log` or `profiler.csv`.

    Raises:
        BrokenError: kind `console`; names the field that is missing or no number.
    """
    text = plain(text)
    head, separator, body = text.partition("***")
    version = re.search(r"(?m)^ucp_version\s*[:,]\s*(\S+)", head)
    unknown: dict[str, Any] = {}
    if "{" not in text:
        return _profile(_csv(text), {}, version.group(1) if version else "", unknown, text)
    if not separator:
        raise _incomplete("the second part, behind ***", text)
    return _profile(_json(head[head.find("{") :], text), _json(body, text), version.group(1) if version else "", unknown, text)


def _profile(run: dict[str, Any], times: dict[str, Any], version: str, unknown: dict[str, Any], text: str) -> Profile:
    condition = _fields(run, "running_condition", _RUN, unknown, text)
    result = _fields(run, "perf_result", _RESULT, unknown, text)
    tables: dict[str, dict[str, Latency]] = {"processor_latency": {}, "model_latency": {}, "task_latency": {}}
    if times:
        # Older builds call it chip_latency.
        times = {"processor_latency" if key == "chip_latency" else key: value for key, value in times.items()}
        for key in tables:
            if not isinstance(times.get(key), dict):
                raise _incomplete(f"`{key}`", text)
            _latencies(times.pop(key), key, tables[key], unknown, text)
    unknown |= {key: value for key, value in {**run, **times}.items() if key not in ("running_condition", "perf_result")}
    processors = {name.removesuffix("_inference_time_cost"): latency for name, latency in tables["processor_latency"].items()}
    return Profile(
        condition["model_name"],
        result["average_latency"],
        result["FPS"],
        condition["frame_count"],
        condition["thread_num"],
        condition["core_id"],
        condition["run_time"],
        processors,
        tables["model_latency"],
        tables["task_latency"],
        version,
        unknown,
    )


def _fields(
    found: dict[str, Any], section: str, wanted: dict[str, Callable[[Any], Any]], unknown: dict[str, Any], text: str
) -> dict[str, Any]:
    values = found.get(section)
    if not isinstance(values, dict):
        raise _incomplete(f"`{section}`", text)
    unknown |= {f"{section}/{key}": value for key, value in values.items() if key not in wanted}
    typed = {}
    for key, kind in wanted.items():
        try:
            typed[key] = kind(values[key])
        except (KeyError, TypeError, ValueError) as error:
            raise _incomplete(f"`{key}` of {section}", text) from error
    return typed


def _latencies(found: dict[str, Any], path: str, into: dict[str, Latency], unknown: dict[str, Any], text: str) -> None:
    """Nodes by name; a node of stages is its `Total`, and its other stages are `node/stage`."""
    for name, value in found.items():
        if not isinstance(value, dict):
            unknown[f"{path}/{name}"] = value
        elif any(key in value for key in _TIMES):
            into[name] = _latency(value, f"{path}/{name}", text)
        else:
            for stage, times in value.items():
                if not isinstance(times, dict):
                    raise _incomplete(f"`{path}/{name}/{stage}` in milliseconds", text)
                into[name if stage == "Total" else f"{name}/{stage}"] = _latency(times, f"{path}/{name}/{stage}", text)


def _latency(times: dict[str, Any], path: str, text: str) -> Latency:
    for key in _TIMES:
        if isinstance(times.get(key), bool) or not isinstance(times.get(key), int | float):
            raise _incomplete(f"`{key}` of {path}", text)
    return Latency(*(float(times[key]) for key in _TIMES))


def _json(part: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(part)
    except ValueError as error:
        raise _incomplete(f"whole JSON ({error})", text) from error
    if not isinstance(found, dict):
        raise _incomplete("a JSON object", text)
    return found


def _csv(text: str) -> dict[str, Any]:
    """A section is a line without a comma; `key,value` lines follow. A core list is a value with a comma of its own."""
    sections: dict[str, Any] = {}
    values: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        key, comma, value = line.partition(",")
        if not comma:
            values = sections.setdefault(key, {})
        elif key != "ucp_version":
            values[key] = value.strip('"')
    return sections


def _incomplete(missing: str, text: str) -> BrokenError:
    return BrokenError(
        f"the profile of hrt_model_exec does not state {missing}",
        kind="console",
        console=text,
        field=missing,
        next_step="the tool writes it when it ends normally: look at the console of perf",
    )

"""Command line flags as gflags reads them: `--f=v`, `--f v`, `-f=v`, `--bool`, `--nobool`; the last of a repeated flag wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qatladder.boards.dialects import DIALECTS

DEFAULTS: dict[str, Any] = {
    "model_file": "",
    "model_name": "",
    "core_id": 0,
    "input_file": "",
    "roi_infer": False,
    "roi": "",
    "frame_count": None,  # infer 1, perf 200
    "dump_intermediate": 0,
    "enable_dump": False,
    "dump_path": ".",
    "dump_precision": 9,
    "dump_format": "bin",
    "dump_txt_axis": 4,
    "hybrid_dequantize_process": False,
    "enable_cls_post_process": False,
    "perf_time": 0,
    "thread_num": 1,
    "profile_path": "",
    "dequantize_process": False,
    "remove_padding_process": False,
    "input_img_properties": "",
    "input_valid_shape": "",
    "input_stride": "",
    "perf_time_in_seconds": 0,
    "task_priority": 0,
    "log_level": 2,
    "version": False,
    "help": False,
}
"""Documented flags of all dialects and their defaults."""

_INTEGERS = {"core_id", "frame_count", "dump_intermediate", "dump_precision", "dump_txt_axis", "perf_time", "thread_num"} | {
    "perf_time_in_seconds",
    "task_priority",
    "log_level",
}
_TRUE, _FALSE = {"1", "t", "true", "y", "yes"}, {"0", "f", "false", "n", "no"}


class FlagError(Exception):
    """A flag gflags would refuse."""


def known(dialect: str) -> list[str]:
    """Names of the flags a dialect has, in the order of `DEFAULTS`; gflags' own are in all."""
    return [name for name in DEFAULTS if name in DIALECTS[dialect].flags or name in ("version", "help")]


def parse(argv: Sequence[str], dialect: str = "x5") -> tuple[list[str], dict[str, Any]]:
    """(positional arguments, flags); flags the dialect does not have keep their defaults.

    Raises:
        FlagError: a flag the dialect does not have, or a value it does not take.
    """
    flags, items, names = dict(DEFAULTS), list(argv), known(dialect)
    positional: list[str] = []
    while items:
        item = items.pop(0)
        if item == "--":
            return positional + items, flags
        if not item.startswith("-") or item == "-":
            positional.append(item)
            continue
        name, equals, value = item.lstrip("-").partition("=")
        if name not in names and name.startswith("no") and name[2:] in names and isinstance(DEFAULTS[name[2:]], bool) and not equals:
            flags[name[2:]] = False
            continue
        if name not in names:
            raise FlagError(f"unknown command line flag '{name}'")
        if isinstance(DEFAULTS[name], bool):
            flags[name] = _boolean(name, value) if equals else True
            continue
        if not equals:
            if not items:
                raise FlagError(f"flag '--{name}' is missing its argument")
            value = items.pop(0)
        cores = name == "core_id" and DIALECTS[dialect].core_list
        flags[name] = _integer(name, value) if name in _INTEGERS and not cores else value
    return positional, flags


def _boolean(name: str, value: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise FlagError(f"illegal value '{value}' specified for bool flag '{name}'")


def _integer(name: str, value: str) -> int:
    try:
        return int(value, 0)
    except ValueError:
        raise FlagError(f"illegal value '{value}' specified for int32 flag '{name}'") from None

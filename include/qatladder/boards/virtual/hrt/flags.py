"""Command line flags as gflags reads them: `--f=v`, `--f v`, `-f=v`, `--bool`, `--nobool`; the last of a repeated flag wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    "version": False,
    "help": False,
}
"""Documented flags and their defaults."""

_INTEGERS = {"core_id", "frame_count", "dump_intermediate", "dump_precision", "dump_txt_axis", "perf_time", "thread_num"}
_TRUE, _FALSE = {"1", "t", "true", "y", "yes"}, {"0", "f", "false", "n", "no"}


class FlagError(Exception):
    """A flag gflags would refuse."""


def parse(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """(positional arguments, flags)."""
    flags, items = dict(DEFAULTS), list(argv)
    positional: list[str] = []
    while items:
        item = items.pop(0)
        if item == "--":
            return positional + items, flags
        if not item.startswith("-") or item == "-":
            positional.append(item)
            continue
        name, equals, value = item.lstrip("-").partition("=")
        if name not in DEFAULTS and name.startswith("no") and isinstance(DEFAULTS.get(name[2:]), bool) and not equals:
            flags[name[2:]] = False
            continue
        if name not in DEFAULTS:
            raise FlagError(f"unknown command line flag '{name}'")
        if isinstance(DEFAULTS[name], bool):
            flags[name] = _boolean(name, value) if equals else True
            continue
        if not equals:
            if not items:
                raise FlagError(f"flag '--{name}' is missing its argument")
            value = items.pop(0)
        flags[name] = _integer(name, value) if name in _INTEGERS else value
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

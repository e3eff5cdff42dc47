"""Promises: an error names what, where and what next, and survives a process boundary with its kind and console."""

import pickle

from qatladder.errors import BrokenError, ConfigError


def test_the_text_names_what_where_and_what_next() -> None:
    text = str(ConfigError("two entries share a name", "rename one", file="a.yaml", found="x"))
    assert text.splitlines() == ["two entries share a name", "  file: a.yaml", "  found: x", "  next: rename one"]


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(BrokenError("gone", "look", kind="unreachable", console="no route", board="x5")))
    assert isinstance(error, BrokenError)
    assert (error.message, error.next_step, error.kind, error.console, error.where) == (
        "gone",
        "look",
        "unreachable",
        "no route",
        {"board": "x5"},
    )

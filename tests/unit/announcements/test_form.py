"""Promises: an announcement is read as it was meant, or refused with the file, the field, what is expected and what was found."""

from __future__ import annotations

import datetime
import json

import pytest

from qatladder.announcements.form import MAX_BYTES, parse
from qatladder.errors import ConfigError

ARRIVED = datetime.datetime(2026, 11, 27, 8, 30, tzinfo=datetime.UTC)
FULL = {
    "announcement": 1,
    "model": "lanes",
    "version": "2026.11",
    "target": "bayes-e",
    "artifacts": {"float": "0" * 64, "onnx": "f" * 64},
    "who": "ci@trainer",
    "when": "2026-11-27T09:30:00+02:00",
    "training": {"git": "1f3a9c0", "loss": [0.5, 0.25], "mlflow": {"run": "r"}},
}


def read(data: object) -> object:
    return parse(json.dumps(data).encode(), "drop/a.json", ARRIVED)


def test_everything_that_is_stated_is_kept_and_times_are_compared_as_times():
    found = read(FULL)
    assert found.when == datetime.datetime(2026, 11, 27, 7, 30, tzinfo=datetime.UTC)
    assert (found.label, found.artifacts["onnx"], found.training["mlflow"]) == ("lanes 2026.11 @ bayes-e", "f" * 64, {"run": "r"})


def test_a_model_alone_is_enough_and_dates_from_its_arrival():
    found = read({"model": "lanes"})
    assert (found.label, found.when) == ("lanes", ARRIVED)


def test_the_id_follows_from_the_content():
    assert read(FULL).id == read(dict(reversed(FULL.items()))).id
    changed = [{**FULL, "who": "me"}, {**FULL, "when": "2026-11-27T09:30:01+02:00"}, {**FULL, "artifacts": {}}, {**FULL, "training": {}}]
    assert len({read(data).id for data in [FULL, *changed]}) == 5


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"model": None}, "field model", "null"),
        ({"model": "two words"}, "field model", '"two words"'),
        ({"modle": "lanes"}, "field modle", "there are announcement, model, version"),
        ({"version": 1}, "field version", "found 1"),
        ({"announcement": 2}, "field announcement", "1"),
        ({"artifacts": {"weights": "0" * 64}}, "field artifacts.weights.[key]", "'float'"),
        ({"artifacts": {"float": "lanes/float.pt"}}, "field artifacts.float", '"lanes/float.pt"'),
        ({"when": "2026-11-27T08:30:00"}, "field when", "with its zone"),
        ({"when": "yesterday"}, "field when", '"yesterday"'),
        ({"training": "git 1f"}, "field training", '"git 1f"'),
    ],
)
def test_a_wrong_field_is_named_with_what_was_found(change, field, told):
    with pytest.raises(ConfigError) as caught:
        read({**FULL, **change})
    assert told in caught.value.where[field], caught.value
    assert caught.value.where["source"] == "drop/a.json"
    assert "unreadable" not in caught.value.where
    assert caught.value.next_step


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError) as caught:
        read({"version": "1"})
    assert "needed" in caught.value.where["field model"]


@pytest.mark.parametrize("whole", [FULL, {"model": "lanes"}])
def test_no_beginning_of_an_announcement_is_one(whole):
    text = json.dumps(whole, indent=1).encode()
    for length in range(len(text)):
        with pytest.raises(ConfigError) as caught:
            parse(text[:length], "a", ARRIVED)
        assert caught.value.where["unreadable"], "half a file is told from a wrong one"


@pytest.mark.parametrize(
    "data", [b"[]", b'"lanes"', b"null", b"3", b"\xff\xfe", b"[" * 50_000, b'{"model": "lanes", "training": {"a": NaN}}']
)
def test_other_data_is_refused_and_never_crashes(data):
    with pytest.raises(ConfigError):
        parse(data, "a", ARRIVED)


def test_a_file_that_is_too_large_is_refused():
    with pytest.raises(ConfigError, match="too large"):
        parse(b" " * (MAX_BYTES + 1), "a", ARRIVED)

"""Promises: `qatladder baseline` shows what the nights are held against, and accepts a result with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.history.test_history import night

from qatladder import cli
from qatladder.evidence import Store, open_store
from qatladder.history import facts_of, write_facts
from qatladder.history.baselines import advance, baseline_of
from qatladder.reports.report import report_json
from qatladder.settings import load_settings


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Two whole nights of which the first is model_0's baseline; in the second model_1 fails nothing either."""
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path))
    monkeypatch.delenv("QATLADDER_STORE", raising=False)
    store = open_store(load_settings())
    for number, failing in ((1, ""), (2, ""), (3, "int.fidelity")):
        results, run = night(number, failing=failing)
        store.write_run_file(run["id"], "report.json", json.dumps(report_json(results, run)).encode())
        store.write_run_file(run["id"], "manifest.json", b"{}")
        write_facts(store, facts_of(results, run), run)
    advance(store, "model_0", "1", "bayes", "night-20261001", "2026-10-01T01:00:00+00:00")
    return store


def call(*arguments: str) -> int:
    try:
        cli.app(list(arguments), standalone_mode=False)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_newest_that_ships_is_proposed_and_accepted(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    call("baseline", "accept", "model_0", "--why", "stricter labels", "--by", "ann", "--yes")
    said = capsys.readouterr().out
    assert "Run `night-20261002`" in said, "the third does not ship"
    assert "It replaces `night-20261001`" in said
    call("baseline", "list")
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split()[:3] == ["model_0", "1", "bayes"]
    assert "ann: stricter labels" in line and line.endswith("night-20261002")
    call("baseline", "list", "model_0", "--json")
    assert json.loads(capsys.readouterr().out)[0]["before"][0]["run_id"] == "night-20261001"


def test_a_run_of_ones_choice_and_a_question(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.click, "confirm", lambda text, abort: (_ for _ in ()).throw(cli.click.Abort()))
    with pytest.raises(cli.click.Abort):
        call("baseline", "accept", "model_0", "--run", "night-20261002", "--why", "x")
    found = baseline_of(store, "model_0", "1", "bayes")
    assert found is not None and not found.approved


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model_0", "--run", "night-20261003"), "only a ladder that ships"),
        (("model_9",), "no result of this model ships"),
        (("model_0", "--run", "nothing"), "no such run"),
        (("model_0", "--target", "x3"), "no result of this model ships"),
        (("model_0", "--run", "night-20261002", "--version", "7"), "no such ladder"),
    ],
)
def test_what_cannot_be_accepted_is_said(arguments: tuple[str, ...], message: str, store: Store) -> None:
    with pytest.raises(cli.ConfigError, match=message):
        call("baseline", "accept", *arguments, "--why", "x", "--yes")

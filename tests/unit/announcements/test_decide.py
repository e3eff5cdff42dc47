"""Promises: exactly the announced model's ladder is started, once; what is doubled, old, unknown or no announcement starts none, and says why."""

from __future__ import annotations

import itertools
import json
from datetime import datetime, timedelta

import pytest
from tests.unit.announcements.conftest import letter

from qatladder.announcements import Decision, decide, inbox, pending, problem_letter, settle
from qatladder.errors import BrokenError
from qatladder.evidence import open_store
from qatladder.evidence.store import sha256_file
from qatladder.settings import load_settings
from qatladder.zoo import load_zoo


@pytest.fixture
def lab(toy_zoo):
    return Lab(toy_zoo)


class Lab:
    """A zoo, an inbox, and a scheduler that starts what it is told to."""

    def __init__(self, zoo):
        self.zoo = zoo
        self.store = open_store(load_settings())

    def sha(self, role="qat"):
        return sha256_file(self.zoo.artifacts / f"{role}.json")[0]

    def decide(self):
        return decide(self.store, load_zoo(load_settings()))

    def announce(self, *letters):
        """Receive, decide, and settle what is to be settled; outcomes in the order of the letters."""
        for item in letters:
            inbox.receive(self.store, item)
        decisions = {item.letter.id: item for item in self.decide()}
        for item in decisions.values():
            latest = {"key": item.key, "content": item.content} if item.outcome == "run" else None
            if item.outcome != "waiting":
                settle(self.store, item.letter, item.outcome, item.why, item.run_id if latest else "", latest)
        return [decisions[item.id] for item in letters]


def outcomes(decisions):
    return [item.outcome for item in decisions]


def test_the_ladder_of_exactly_that_model_is_started(lab):
    (decision,) = lab.announce(letter(version="1", target="bayes", artifacts={"qat": lab.sha()}))
    assert decision.outcome == "run"
    assert decision.params == {"model": "toy", "version": "1", "target": "bayes"}
    assert decision.run_id == f"announced-toy-1-{decision.letter.id}"


def test_the_version_is_filled_in(lab):
    assert lab.announce(letter())[0].params == {"model": "toy", "version": "1"}


def test_deciding_changes_nothing_and_comes_to_the_same_again(lab):
    inbox.receive(lab.store, letter())
    first, second = lab.decide(), lab.decide()
    assert first == second and [item.outcome for item in first] == ["run"]
    assert len(pending(lab.store)) == 1


def test_a_decision_survives_the_way_from_one_task_to_another(lab):
    inbox.receive(lab.store, letter(training={"git": "1f"}))
    (decision,) = lab.decide()
    assert Decision.from_json(json.loads(json.dumps(decision.to_json()))) == decision


def test_the_same_bytes_again_are_a_duplicate_however_they_are_announced(lab):
    assert outcomes(lab.announce(letter(at=1))) == ["run"]
    again = lab.announce(letter(at=2), letter(at=3, artifacts={"qat": lab.sha()}), letter(at=0, version="1"), letter(at=4, target="bayes"))
    assert outcomes(again) == ["duplicate"] * 4
    assert "announced-toy-1-" in again[0].why


def test_new_bytes_are_a_new_ladder_and_so_are_old_bytes_that_came_back(lab):
    assert outcomes(lab.announce(letter(at=1))) == ["run"]
    lab.zoo.artifact("qat", 1)
    assert outcomes(lab.announce(letter(at=2))) == ["run"]
    lab.zoo.artifact("qat", 0)
    assert outcomes(lab.announce(letter(at=3))) == ["run"]


def test_a_changed_entry_is_a_new_ladder(lab):
    lab.announce(letter(at=1))
    lab.zoo.entry(gates={"float": {"min": 0.95}, "calib": {"max_drop": 0.1}, "qat": {"max_drop": 0.0}})
    assert outcomes(lab.announce(letter(at=2))) == ["run"]


def test_one_of_many_that_come_together_is_run_and_each_is_answered(lab):
    assert outcomes(lab.announce(letter(at=1), letter(at=3), letter(at=2))) == ["duplicate", "run", "duplicate"]


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_in_any_order_the_newest_training_has_its_ladder(lab, order):
    hashes = []
    for wrong in (0, 1, 2):  # three trainings; the zoo holds the third
        lab.zoo.artifact("qat", wrong)
        hashes.append(lab.sha())
    letters = [letter(at=index, artifacts={"qat": digest}) for index, digest in enumerate(hashes)]
    found = {}
    for index in order:
        found[index] = lab.announce(letters[index])[0].outcome if letters[index] not in pending(lab.store) else None
    final = {item.letter.id: item.outcome for item in lab.decide()}
    assert found[2] == "run"
    for index in (0, 1):
        # Announced before the newest was: it may still be on its way. Decided again afterwards: superseded.
        assert found[index] in ("superseded", "waiting")
        assert final.get(letters[index].id, "superseded") == "superseded"


def test_an_old_announcement_that_proves_nothing_is_superseded(lab):
    lab.announce(letter(at=5))
    lab.zoo.artifact("qat", 1)
    (decision,) = lab.announce(letter(at=1))
    assert decision.outcome == "superseded" and "12:05:00 UTC" in decision.why and "12:01:00 UTC" in decision.why


def test_bytes_are_believed_more_than_clocks(lab):
    lab.announce(letter(at=5))
    lab.zoo.artifact("qat", 1)
    assert outcomes(lab.announce(letter(at=1, artifacts={"qat": lab.sha()}))) == ["run"], "the zoo holds it, and nobody validated it"


def test_a_clock_that_is_ahead_silences_nobody(lab):
    lab.announce(letter(at=60 * 24 * 365))
    lab.zoo.artifact("qat", 1)
    evening = letter(at=8 * 60)
    assert outcomes(lab.announce(evening)) == ["run"]


def test_bytes_that_are_still_copied_are_waited_for(lab, monkeypatch):
    lab.zoo.artifact("qat", 1)
    later = lab.sha()
    lab.zoo.artifact("qat", 0)
    monkeypatch.setattr(inbox, "_now", lambda: datetime.now().astimezone().isoformat())
    one = letter(artifacts={"qat": later})
    (decision,) = lab.announce(one)
    assert decision.outcome == "waiting" and later[:12] in decision.why and lab.sha()[:12] in decision.why
    lab.zoo.artifact("qat", 1)
    assert outcomes(lab.decide()) == ["run"]


def test_bytes_that_never_come_are_told(lab, monkeypatch):
    monkeypatch.setattr(inbox, "_now", lambda: (datetime.now().astimezone() - timedelta(hours=2)).isoformat())
    (decision,) = lab.announce(letter(artifacts={"qat": "0" * 64}))
    assert decision.outcome == "missing" and "did not come" in decision.why
    (decision,) = lab.announce(letter(artifacts={"hbm": "0" * 64}))
    assert decision.outcome == "missing" and "hbm missing" in decision.why


def test_an_announcement_that_was_interrupted_before_it_was_settled_gets_the_same_run(lab, monkeypatch):
    inbox.receive(lab.store, letter())
    (first,) = lab.decide()
    with monkeypatch.context() as patch:
        patch.setattr(inbox, "DONE", "/dev/null/")  # the last write fails, the one before it does not
        with pytest.raises(BrokenError):
            settle(lab.store, first.letter, first.outcome, first.why, first.run_id, {"key": first.key, "content": first.content})
    assert inbox.latest_of(lab.store, first.key).run == first.run_id
    (second,) = lab.decide()
    assert (second.outcome, second.run_id) == ("run", first.run_id)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": "tow"}, "the zoo has no model tow; it has toy"),
        ({"version": "2"}, "no version 2 of toy; it has 1"),
        ({"target": "bayes-e"}, "toy has no target bayes-e; it has bayes"),
    ],
)
def test_what_the_zoo_does_not_have_is_told_and_the_others_are_served(lab, fields, told):
    unknown, good = lab.announce(letter(**fields), letter(at=1))
    assert unknown.outcome == "unknown" and told in unknown.why
    assert good.outcome == "run"


def test_a_model_that_was_unknown_can_be_announced_again(lab):
    assert outcomes(lab.announce(letter(version="2"))) == ["unknown"]
    lab.zoo.entry(version="2")
    assert outcomes(lab.announce(letter(at=1, version="2"))) == ["run"]


def test_an_entry_that_cannot_be_read_is_not_called_unknown_without_its_reason(lab):
    lab.zoo.entry(gates={"flaot": {"min": 1}})
    (decision,) = lab.announce(letter())
    assert decision.outcome == "unknown" and "flaot" in decision.why


def test_of_several_versions_the_artifacts_tell_which_and_otherwise_nobody_guesses(lab):
    (lab.zoo.folder / "zoo" / "toy2.yaml").write_text(
        (lab.zoo.folder / "zoo" / "toy.yaml").read_text().replace("version: '1'", "version: '2'").replace("toy/qat.json", "toy/qat2.json")
    )
    lab.zoo.artifact("qat2", 2)
    ambiguous, told = lab.announce(letter(at=1), letter(at=2, artifacts={"qat": lab.sha("qat2")}))
    assert ambiguous.outcome == "unknown" and "1, 2" in ambiguous.why
    assert told.outcome == "run" and told.version == "2"


def test_a_target_of_its_own_does_not_speak_for_all_targets(lab):
    lab.zoo.entry(targets=[{"march": "bayes"}, {"march": "bayes", "name": "fast"}])
    assert outcomes(lab.announce(letter(at=1, target="fast"))) == ["run"]
    assert outcomes(lab.announce(letter(at=2, target="fast"), letter(at=2, target="bayes"))) == ["duplicate", "run"]
    assert outcomes(lab.announce(letter(at=3))) == ["run"]


def test_what_is_no_announcement_is_rejected_with_its_reason(lab):
    bad, good = lab.announce(problem_letter(b"{", "drop/a.json", "cannot be\n  read"), letter())
    assert (bad.outcome, bad.why, bad.params) == ("rejected", "cannot be read", {})
    assert good.outcome == "run"

"""Promises: a question is asked once, however many threads ask; different questions do not wait for each other; a failure is asked again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from qatladder.runner.once import Once


def test_threads_that_ask_together_get_the_one_answer() -> None:
    once, asked, together = Once[object](), [], threading.Barrier(8)

    def ask() -> object:
        asked.append(1)
        release.wait(10)
        return object()

    def come() -> object:
        together.wait(10)
        return once("board", ask)

    release = threading.Event()
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(come) for _ in range(8)]
        while not asked:
            pass
        release.set()
        assert len({id(answer.result(10)) for answer in answers}) == 1
    assert len(asked) == 1


def test_another_question_does_not_wait() -> None:
    once, slow = Once[str](), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(once, "dead board", lambda: str(slow.wait(10)))
        assert once("live board", lambda: "fit") == "fit"
        slow.set()
        assert waiting.result(10) == "True"


def test_none_is_an_answer_and_a_failure_is_not() -> None:
    once, answers = Once[object](), iter([ValueError("no"), None, 3])

    def ask() -> object:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    with pytest.raises(ValueError, match="no"):
        once("key", ask)
    assert once("key", ask) is None
    assert once("key", ask) is None


def test_who_waits_for_a_failure_hears_of_it() -> None:
    once, began, go = Once[None](), threading.Event(), threading.Event()

    def ask() -> None:
        began.set()
        go.wait(10)
        raise ValueError("no")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(once, "key", ask)
        assert began.wait(10)
        second = threads.submit(once, "key", ask)
        go.set()
        for waiting in (first, second):
            with pytest.raises(ValueError, match="no"):
                waiting.result(10)

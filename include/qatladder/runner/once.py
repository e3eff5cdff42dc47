"""Asks each question once, whatever the number of threads that ask it."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Callable, Dict, Generic, Hashable, TypeVar

Answer = TypeVar("Answer")


class Once(Generic[Answer]):
    """Answers by key. Who asks first finds the answer, others wait for it; questions with other keys do not wait.

    What raised is asked again by whoever comes next.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Dict[Hashable, "Future[Answer]"] = {}

    def __call__(self, key: Hashable, ask: Callable[[], Answer]) -> Answer:
        with self._lock:
            known = self._answers.get(key)
            answer: Future[Answer] = known or self._answers.setdefault(key, Future())
        if known is None:
            try:
                answer.set_result(ask())
            except BaseException as error:
                with self._lock:
                    del self._answers[key]
                answer.set_exception(error)
        return answer.result()

"""What can go wrong, in three kinds that never mix.

* `QATLadderError`: the user can fix it (a zoo entry, a file, a flag). Shown without a traceback.
* `BrokenError`: infrastructure (a board, a tool, a network) kept a question from being answered.
  A check that meets one is `broken`, never `failed`; it may be tried again.
* `InternalError`: a bug of ours. Outside the hierarchy on purpose, so that no handler swallows it.

Python 3.8, standard library only: the runner raises these inside a model's own environment.
"""

from __future__ import annotations

from typing import Optional


class QATLadderError(Exception):
    """An error the user can act on: what is wrong, where, and what to do next.

    Args:
        message: one sentence; what was expected and what was found.
        next_step: what the reader should do; shown on a line of its own.
        **where: the model, rung, file, field ... the error is about, shown as `key: value` lines.
    """

    def __init__(self, message: str, next_step: str = "", **where: object) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.where = {key: str(value) for key, value in where.items()}

    def __str__(self) -> str:
        lines = [self.message]
        lines += ["  {}: {}".format(key, value) for key, value in self.where.items()]
        if self.next_step:
            lines.append("  next: " + self.next_step)
        return "\n".join(lines)

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return _rebuild, (type(self), self.message, self.next_step, self.where), self.__dict__


def _rebuild(cls, message, next_step, where):  # type: ignore[no-untyped-def]
    return cls(message, next_step, **where)


class ConfigError(QATLadderError):
    """A zoo entry, fleet file or setting is wrong."""


class ArtifactError(QATLadderError):
    """A file of the model is missing, truncated, or not what it is declared to be."""


class ToolchainError(QATLadderError):
    """The vendor toolchain refused the model, or would have built something else than was asked."""


class RunnerError(QATLadderError):
    """The model's own code failed in its environment."""


class BrokenError(QATLadderError):
    """Infrastructure failed; nothing was learnt about the model.

    Attributes:
        kind: short stable identifier (`unreachable`, `auth`, `host_key`, `timeout`, `tool_missing`,
            `dump_missing`, `disk_full`, `killed`, `store`, `tool_crashed` ...).
        console: what the tool printed, kept for the log.
    """

    def __init__(
        self, message: str, next_step: str = "", kind: str = "infrastructure", console: Optional[str] = None, **where: object
    ) -> None:
        super().__init__(message, next_step, **where)
        self.kind = kind
        self.console = console or ""


class InternalError(Exception):
    """A bug in QATLadder. Please report it with the traceback."""

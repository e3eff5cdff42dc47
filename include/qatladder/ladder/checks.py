"""The checks of a ladder, in order, each with the question it answers."""

from __future__ import annotations

from dataclasses import dataclass

from qatladder.ladder.results import Rung


@dataclass(frozen=True)
class Check:
    """The definition of one check: its identifier and the question it answers."""

    id: str
    question: str

    @property
    def rung(self) -> Rung:
        return Rung(self.id.split(".", 1)[0])


CHECKS: tuple[Check, ...] = (
    Check("float.accuracy", "Does the float model reach its expected accuracy?"),
    Check("calib.accuracy", "Does the calibrated model keep the float model's accuracy?"),
    Check("qat.accuracy", "Does the QAT model keep the float model's accuracy?"),
    Check("int.input", "Is the int model fed the intermediate type of the same picture the float model sees?"),
    Check("int.accuracy", "Does the int model keep the accuracy of the model it was converted from?"),
    Check("int.fidelity", "Is every int output within a few LSB of the fake-quant model's output?"),
    Check("hbm.compile", "Does the compiler take every operator, within the latency, DDR and size gates?"),
    Check("hbm.input", "Do the runtime input bytes derive from the same picture as the int model's input?"),
    Check("hbm.bit_exact", "Does the compiled model give the int model's integers, bit for bit?"),
    Check("board.health", "Is the board fit to judge a model (reachable, right chip, right tools, idle, space)?"),
    Check("board.runtime", "Does hrt_model_exec on the board give the int model's integers, bit for bit?"),
    Check("board.accuracy", "Does the model keep the int model's accuracy on the board?"),
    Check("board.perf", "Does the model meet its latency and frame-rate gates on the board?"),
    Check(
        "board.quality",
        "Are the board's dumps sane data (finite, in range, not constant, complete), and like those of the last good nights?",
    ),
    Check("board.app_input", "Does the user's on-board program feed the model what hrt_model_exec was fed?"),
    Check("board.app_output", "Does the user's on-board post-processing agree with the Python post-processing?"),
)

_BY_ID = {check.id: check for check in CHECKS}


def question(check_id: str) -> str:
    """The question a check answers."""
    return _BY_ID[check_id].question


def check_ids(rung: Rung | None = None) -> tuple[str, ...]:
    """Identifiers in ladder order: of one rung, or of all."""
    return tuple(check.id for check in CHECKS if rung in (None, check.rung))


def checks_of(rung: Rung) -> tuple[Check, ...]:
    return tuple(check for check in CHECKS if check.rung is rung)

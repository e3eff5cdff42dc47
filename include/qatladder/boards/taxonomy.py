"""What can go wrong with a board, what to do about it, and whether the board is to blame.

Every `BrokenError` of the board layer has one of these kinds. `retry` says where another attempt makes sense:

    same        on the same board, a moment later (the session or the scheduler does it)
    elsewhere   on another board of the same march, if there is one
    never       a human has to act first; another attempt would find the same

A kind that `blames_board` counts towards the board's quarantine. The others are faults of the network on our side, of the
configuration or of the model's files: no board gets better by being taken out of service for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qatladder.errors import BrokenError

Retry = Literal["same", "elsewhere", "never"]


@dataclass(frozen=True)
class Kind:
    """One kind of infrastructure failure.

    Attributes:
        retry: where another attempt makes sense; see the module.
        blames_board: counts towards quarantine.
        help: what to do, for somebody who is not the author of this software.
    """

    retry: Retry
    blames_board: bool
    help: str


TAXONOMY: dict[str, Kind] = {
    # --- reaching the board ---
    "unreachable": Kind(
        "elsewhere", True, "check the board's power and network, and host and port in the fleet; `qatladder fleet power-cycle`"
    ),
    "host_key": Kind(
        "elsewhere", True, "another machine answers or the board was reinstalled: compare fingerprints, then renew known_hosts"
    ),
    "auth": Kind("elsewhere", True, "put the public key into the board user's authorized_keys, or correct the Airflow connection"),
    "jump_host": Kind("elsewhere", False, "the host in front of the board fails, not the board: check it and `jump` in the fleet file"),
    "connection": Kind(
        "never", False, "correct the board's Airflow connection (Admin > Connections); `qatladder fleet sync --check` says what is wrong"
    ),
    "fleet": Kind("never", False, "correct the fleet file; `qatladder board list` reads it back"),
    "connection_lost": Kind(
        "elsewhere", True, "look at the board's uptime: it may have rebooted; else check the network between worker and board"
    ),
    "timeout": Kind("elsewhere", True, "see what else runs on the board; raise `timeout_minutes` if it is merely slow"),
    "silence": Kind("elsewhere", True, "the tool printed nothing for long: it hangs in the driver; reboot the board"),
    "power_cycle": Kind("never", False, "run the board's `power_cycle` command by hand; correct it in the fleet file"),
    # --- storage and transfer ---
    "disk_full": Kind("elsewhere", True, "free space below the board's `workdir`, or lower `cache_mb` in the fleet"),
    "remote_file": Kind("elsewhere", True, "check rights and file system of the board's `workdir` (read-only after a crash?)"),
    "corrupt_transfer": Kind("elsewhere", True, "check the board's storage (dmesg, SD card) and memory; run the golden model"),
    "worker_disk": Kind("never", False, "free space on the worker, or move QATLADDER_HOME to a larger disk"),
    # --- exclusive use ---
    "board_busy": Kind("elsewhere", False, "somebody else uses the board: `fuser -v /tmp/hbdk_model_verifier.lock` on the board says who"),
    "cancelled": Kind("never", False, "nothing: somebody ended the job on purpose"),
    "killed": Kind("elsewhere", True, "something on the board killed the job: out of memory (dmesg), or a reboot"),
    # --- the vendor's tool ---
    "tool_missing": Kind("elsewhere", True, "install hrt_model_exec from the OpenExplorer package, or set `tool` in the fleet"),
    "tool_failed": Kind("elsewhere", True, "read the console; run the same command on the board by hand"),
    "device_error": Kind("elsewhere", True, "the BPU or its driver failed: dmesg on the board, then reboot it"),
    "transient_load": Kind("same", True, "the tool could not open a file that is there: seen right after uploads; try again"),
    "version_skew": Kind(
        "elsewhere", False, "the board's runtime refuses a model of this compiler: update libdnn/hbrt, or compile with the board's version"
    ),
    "model_refused": Kind(
        "never", False, "the runtime refuses the model: compare `hrt_model_exec model_info` with the compiler's description"
    ),
    "input_refused": Kind("never", False, "the runtime refuses an input file: compare its size with model_info (padding, input type)"),
    "console": Kind(
        "elsewhere", False, "the tool prints another format than its dialect says: set `dialect` in the fleet, keep the console for us"
    ),
    "program_failed": Kind("never", False, "the user's on-board program failed: read its output, run it on the board by hand"),
    "samples_changed": Kind("never", False, "the on-board program changed the samples it was given; let it read them only"),
    # --- dumps ---
    "app_dumps": Kind("never", False, "the on-board program's dumps are not whole: compare their names with the patterns of the entry"),
    "dump_missing": Kind("elsewhere", True, "the tool wrote no such dump: disk space, or the dump flags of another dialect"),
    "dump_truncated": Kind("elsewhere", True, "the dump ended early: disk space and storage of the board"),
    "dump_size": Kind("elsewhere", False, "the dump is of another tensor: model file and model_info must be of one model"),
    "dump_ambiguous": Kind("elsewhere", False, "two dumps of one tensor: two programs dumped into one folder"),
    "dump_type": Kind("never", False, "elements of this type cannot be compared; dequantise on the board or change the model's output"),
    "dump_stale": Kind("never", False, "the dumps are older than the model or the run: let the program run again"),
    # --- trust ---
    "unfit_board": Kind("elsewhere", True, "free disk and memory, let it cool, set its clock; `qatladder board check` looks again"),
    "golden_mismatch": Kind(
        "elsewhere", True, "the board computes wrong integers for a known model: driver, hbrt and libdnn version, memory; do not trust it"
    ),
    "nondeterministic": Kind("elsewhere", True, "the board gives two answers to one question: memory, power supply, overheating"),
    "bad_board": Kind("elsewhere", True, "another board proved the model right and this one wrong: compare driver and runtime versions"),
    "boards_disagree": Kind(
        "never", False, "two boards give two different wrong answers: compare their versions, then run the golden model on both"
    ),
    "no_board": Kind("never", False, "every board that could run this is in quarantine: `qatladder board list` says why"),
}


def kind_of(error: BrokenError) -> Kind:
    """How to treat an error; one that is not of the board layer is retried in place and blames no board."""
    return TAXONOMY.get(error.kind, Kind("same", False, ""))

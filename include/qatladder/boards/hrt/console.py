"""What a console says besides its results: did the tool fail and why, which versions are at work, which lines are only noise?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from qatladder.boards.taxonomy import TAXONOMY
from qatladder.errors import BrokenError

CODES = {
    # libdnn of X3, J5 and X5
    -6000001: "HB_DNN_INVALID_ARGUMENT",
    -6000002: "HB_DNN_INVALID_MODEL",
    -6000003: "HB_DNN_MODEL_NUMBER_EXCEED_LIMIT",
    -6000004: "HB_DNN_INVALID_PACKED_DNN_HANDLE",
    -6000005: "HB_DNN_INVALID_DNN_HANDLE",
    -6000006: "HB_DNN_CAN_NOT_OPEN_FILE",
    -6000007: "HB_DNN_OUT_OF_MEMORY",
    -6000008: "HB_DNN_TIMEOUT",
    -6000009: "HB_DNN_TASK_NUM_EXCEED_LIMIT",
    -6000010: "HB_DNN_TASK_BATCH_SIZE_EXCEED_LIMIT",
    -6000011: "HB_DNN_INVALID_TASK_HANDLE",
    -6000012: "HB_DNN_RUN_TASK_FAILED",
    -6000013: "HB_DNN_MODEL_IS_RUNNING",
    -6000014: "HB_DNN_INCOMPATIBLE_MODEL",
    -6000015: "HB_DNN_API_USE_ERROR",
    -6000016: "HB_DNN_MULTI_PROGRESS_USE_ERROR",
    -6000129: "HB_SYS_INVALID_ARGUMENT",
    -6000130: "HB_SYS_OUT_OF_MEMORY",
    -6000131: "HB_SYS_REGISTER_MEM_FAILED",
    # UCP of J6 and S100
    -100001: "HB_UCP_INVALID_ARGUMENT",
    -100002: "HB_UCP_API_USE_ERROR",
    -100003: "HB_UCP_INIT_FAILED",
    -100004: "HB_UCP_UNKNOWN_ERROR",
    -200001: "HB_UCP_TASK_NUMBER_EXCEED_LIMIT",
    -200002: "HB_UCP_TASK_TIMEOUT",
    -200003: "HB_UCP_TASK_RUN_FAILED",
    -200004: "HB_UCP_TASK_HANDLE_INVALID",
    -400001: "HB_UCP_MEM_ALLOC_FAIL",
    -400002: "HB_UCP_MEM_FREE_FAIL",
    -400003: "HB_UCP_MEM_FLUSH_FAIL",
    -400004: "HB_UCP_MEM_INVALIDATE_FAIL",
    -400005: "HB_UCP_MEM_IS_INVALID",
    -400006: "HB_UCP_MEM_MAP_FAIL",
    -400007: "HB_UCP_MEM_UNMAP_FAIL",
    -500001: "HB_UCP_FILE_OPEN_FAILED",
    -600001: "HB_UCP_MODEL_NUMBER_EXCEED_LIMIT",
    -600002: "HB_UCP_MODEL_INVALID",
    -600003: "HB_UCP_MODEL_IS_INUSE",
    -600004: "HB_UCP_MODEL_INCOMPATIBLE",
}
"""Documented error codes and what the headers call them."""

_RULES = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("disk_full", r"no space left"),
        ("console", r"unknown command line flag|illegal value .* specified for|flag .* is missing its argument"),
        ("model_refused", r"\bmarch\b"),
        # Before all that may follow from it: a load that found no memory, or a BPU whose cores disagree about addresses, goes on to
        # call the file unreadable or corrupt and the runtime too old.
        (
            "device_error",
            r"iova addr not equal|malloc bpu memory|ION_IOC_|RESOURCE_EXHAUSTED|OUT_OF_MEMORY|DNN_TIMEOUT|TASK_TIMEOUT|RUN_TASK_FAILED"
            r"|TASK_RUN_FAILED|MEM_\w+_FAIL|INIT_FAILED|/dev/(?:bpu|ion)|\bhb_(?:bpu|mem|sys)_\w+.*fail|cannot allocate memory"
            r"|\b(?:bpu|ion|cma|hbmem)\b.*(?:alloc|time ?out|timed out|reset|hang|(?:init|run|submit) fail)"
            r"|alloc\w*\b.*\b(?:bpu|ion|cma|ddr|common buffer)\b",
        ),
        (
            "version_skew",
            r"INCOMPATIBLE|\blib(?:hbrt|dnn|hbucp)\S*\b.*\b(?:update|upgrade)|(?:update|upgrade)\b.*\b(?:hbrt|libdnn|runtime)\b"
            r"|\bversion\b.*(?:mismatch|not (?:match|compatible|supported)|incompatible|too (?:old|new|low|high)|(?:lower|higher|newer|older) than)",
        ),
        (
            "input_refused",
            r"read (?:input )?file\b|\binput\b.*\b(?:size|length|shape|count)\b|\b(?:size|length) .*\bnot (?:equal|match)",
        ),
        ("tool_failed", r"\bdump\b.*fail"),
        ("transient_load", r"CAN_NOT_OPEN_FILE|FILE_OPEN_FAILED|can ?not open|open file"),
        (
            "model_refused",
            r"INVALID_(?:ARGUMENT|MODEL|DNN_HANDLE|PACKED)|MODEL_(?:INVALID|NUMBER)|API_USE_ERROR|BAD_DATA|CRC|corrupt|invalid model|model_name"
            r"|model handle|parse flags",
        ),
    )
)
"""Kinds of failure, the surest first; the first that any troubled line matches is the console's."""

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_VERSIONS = {
    "platform": r"BPU Platform Version\(([^)]*)\)|BPULib veri?s\w+\(([^)]*)\)",
    "hbrt": r"\[HBRT\][^\n]*version = (\S+)|\[DNN\]: [^\s_]+_\((\S+) HBRT\)",
    "runtime": r"\[DNN\][^\n]*?(?:Runtime version = |: )(\d[^\s_]*)_\(",
    "builder": r"model builder version = (\S+)",
    "ucp": r"UCP version = (\S+)",
    "march": r"set bpu march to ([A-Z0-9]+)",
    "hrt_model_exec": r"(?m)^hrt_model_exec (?:version )?(\d\S*)",
}
_SKEW = re.compile(r"Inconsistency between the hbrt library version (\S+) and the model build version (\S+) detected")
_TROUBLE = re.compile(
    r"\b(?:failed|failure|fail|errors?|aborted|core dumped|segmentation fault|no space left|cannot malloc|can ?not open)\b"
    r"|^\s*(?:\[[EF]\]|[EF]\d{4} )|iova addr not equal|HBRT4_STATUS_(?!OK|SUCCESS)",
    re.IGNORECASE,
)
_HARMLESS = re.compile(
    r"(?<!\S)(?!/dev/)\S*/\S*|\S+\.(?:bin|hbm|txt|jpe?g)\b|^\s*name:.*|^\[model name\]:.*|^\[[^\]\s]+\]\s*$|\berror code:? 0\b"
)
_CODE = re.compile(r"(?<![\w.-])-\d{6,7}\b")
_NOISE = re.compile(
    r"hrt_model_exec (?:model_info|infer|perf)\b|vlog_is_on\.cc|^\[(?:UCP|VP|DNN|HPL|UCPT|DSP)\]: |^\[(?:HBRT|BPU_PLAT|BPU)\]"
    r"|^\[DNN\] Runtime version|The model builder version|Inconsistency between the hbrt|^core\[\d+\] open|Load model to DDR cost"
    r"|\b(?:profile|dump)_path: .* exsit|\bsuccess!?$|\btask done$|\bfile length: \d|\bread file .* length: \d"
    r"|^-+(?:Frame \d+ (?:begin|end)-+)?$|^This model file has \d+ model|^\[[^\]]+\]$"
)


@dataclass(frozen=True)
class Failure:
    """How the tool failed.

    Attributes:
        kind: key of `qatladder.boards.taxonomy.TAXONOMY`.
        line: the line that says so, with the name of its error code; `exit code N` when the console is silent.
    """

    kind: str
    line: str


def plain(console: str) -> str:
    """The console without colours and carriage returns."""
    return _ANSI.sub("", console).replace("\r", "")


def trouble(console: str) -> list[str]:
    """The lines that say something failed, whatever the exit code was.

    Paths, file names and model names are taken out first: a model called `error_net` is no error.
    """
    return [line for line, _ in _troubled(console)]


def failure(console: str, exit_code: int = 0) -> Failure | None:
    """How the tool failed, or None when neither text nor exit code say it did.

    Exit code 0 with `failed` in the text is a failure; the bare warning that versions differ is none, see `skew`. A missing tool (exit codes
    126 and 127) and a tool that was killed are for the caller to see first: they are no matter of the tool's own words.
    """
    troubled = _troubled(console)
    for kind, pattern in _RULES:
        for line, bare in troubled:
            if pattern.search(bare):
                # The runtime warned that the model is of another version and then could not read it.
                warned = kind == "model_refused" and re.search("INVALID_MODEL|MODEL_INVALID|BAD_DATA", bare) and skew(console)
                return Failure("version_skew" if warned else kind, _with_names(line))
    if troubled:
        return Failure("tool_failed", _with_names(troubled[0][0]))
    return Failure("tool_failed", tail(console, 1) or f"exit code {exit_code}") if exit_code else None


def check(command: str, console: str) -> None:
    """Raise what `failure` finds.

    Raises:
        BrokenError: of the failure's kind.
    """
    found = failure(console)
    if found:
        raise BrokenError(
            f"hrt_model_exec {command} failed: {found.line}", kind=found.kind, console=console, next_step=TAXONOMY[found.kind].help
        )


def versions(console: str) -> dict[str, str]:
    """Version strings a console gives away: platform, hbrt, runtime (libdnn), builder, ucp, march, hrt_model_exec."""
    text = plain(console)
    found = {key: re.search(pattern, text) for key, pattern in _VERSIONS.items()}
    return {key: next(filter(None, match.groups())).replace(", ", ".") for key, match in found.items() if match}


def skew(console: str) -> str:
    """`hbrt A, model built with B` when the runtime warns that versions differ; empty otherwise."""
    match = _SKEW.search(plain(console))
    return f"hbrt {match.group(1)}, model built with {match.group(2)}" if match else ""


def tail(console: str, lines: int = 15) -> str:
    """The end of a console, for an error message."""
    return "\n".join(plain(console).strip().splitlines()[-lines:])


def unknown(lines: Iterable[str], known: re.Pattern[str] | None = None) -> tuple[str, ...]:
    """The lines nobody has read: neither `known` nor what every console says."""
    stripped = (line.strip() for line in lines)
    return tuple(line for line in stripped if line and not _NOISE.search(line) and not (known and known.search(line)))


def incomplete(command: str, missing: str, console: str) -> BrokenError:
    """The error for a field a console does not state."""
    return BrokenError(
        f"the console of hrt_model_exec {command} does not state {missing}",
        kind="console",
        console=console,
        field=missing,
        found=tail(console, 5) or "nothing",
        next_step="look at the console: the tool failed, or its build prints another format",
    )


def _troubled(console: str) -> list[tuple[str, str]]:
    """(line, the line without names and with its error codes spelt out) of all lines that say something failed."""
    found = []
    for line in plain(console).splitlines():
        names = _names(line)
        if names or _TROUBLE.search(_HARMLESS.sub(" ", line)):
            found.append((line.strip(), " ".join([_HARMLESS.sub(" ", line), *names])))
    return found


def _names(line: str) -> list[str]:
    return [CODES[int(code)] for code in _CODE.findall(line) if int(code) in CODES]


def _with_names(line: str) -> str:
    names = [name for name in _names(line) if name not in line]
    return f"{line} ({', '.join(names)})" if names else line

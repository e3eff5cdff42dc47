"""The `hrt_model_exec` dialects: what is asked on the command line, what its consoles say, what is in its dumps?

Sources of the rules: the public hrt_model_exec documentation of X3, J5, X5 and J6/S100 and published consoles. Three laws:
the exit code alone proves nothing (the text is scanned), alignment is read and never derived where the tool states it,
and a field that is needed but missing is an error that names the field, never a guess.

    commands.py   command lines, never with a flag the dialect does not have
    console.py    failures and their kinds, versions, version skew
    results.py    model_info, infer, perf
    profiler.py   profiler.log and profiler.csv
    dump.py       dump files
"""

from qatladder.boards.dialects import DIALECTS, Dialect
from qatladder.boards.hrt.commands import infer_argv, model_info_argv, perf_argv, version_argv
from qatladder.boards.hrt.console import CODES, Failure, failure, plain, skew, tail, trouble, versions
from qatladder.boards.hrt.dump import check_dump, find_dumps, read_dump
from qatladder.boards.hrt.profiler import Latency, Profile, parse_profile
from qatladder.boards.hrt.results import (
    DTYPES,
    IMAGES,
    Infer,
    ModelInfo,
    Padding,
    Perf,
    TensorInfo,
    parse_infer,
    parse_model_info,
    parse_perf,
)

__all__ = [
    "CODES",
    "DIALECTS",
    "DTYPES",
    "IMAGES",
    "Dialect",
    "Failure",
    "Infer",
    "Latency",
    "ModelInfo",
    "Padding",
    "Perf",
    "Profile",
    "TensorInfo",
    "check_dump",
    "failure",
    "find_dumps",
    "infer_argv",
    "model_info_argv",
    "parse_infer",
    "parse_model_info",
    "parse_perf",
    "parse_profile",
    "perf_argv",
    "plain",
    "read_dump",
    "skew",
    "tail",
    "trouble",
    "version_argv",
    "versions",
]

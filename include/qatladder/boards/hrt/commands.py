"""Command lines of `hrt_model_exec`. No function here can use a flag that the dialect's tool does not have."""

from __future__ import annotations

from collections.abc import Sequence

from qatladder.boards.dialects import DIALECTS
from qatladder.errors import ConfigError


def version_argv(tool: str) -> list[str]:
    return [tool, "--version"]


def model_info_argv(tool: str, model: str) -> list[str]:
    return [tool, "model_info", f"--model_file={model}"]


def infer_argv(
    tool: str,
    model: str,
    inputs: str | None,
    dialect: str = "x5",
    core_id: int | str | None = None,
    strides: Sequence[Sequence[int]] = (),
) -> list[str]:
    """One inference with raw, padded binary dumps into the working directory.

    Args:
        inputs: comma-separated input files, one per input as `model_info` lists them (J6 and S100: Y and UV of an NV12 picture are two);
            None leaves the flag to the caller.
        core_id: 0 any core, 1 core 0, 2 core 1; `1,2` for several, where the dialect can. None: the tool's default, any core.
        strides: bytes between neighbours along each axis, per input, for inputs whose strides `model_info` states as -1.
    Raises:
        ConfigError: the dialect has no such flag or value.
    """
    flags: dict[str, object] = {"model_file": model, "enable_dump": "true", "dump_format": "bin"}
    flags |= {name: value for name, value in {"dump_precision": 9, "dump_path": "."}.items() if name in DIALECTS[dialect].flags}
    if core_id is not None:
        flags["core_id"] = core_id
    if strides:
        flags["input_stride"] = ";".join(",".join(map(str, stride)) for stride in strides)
    if inputs is not None:
        flags["input_file"] = inputs
    return _argv(tool, "infer", flags, dialect)


def perf_argv(
    tool: str, model: str, frame_count: int, thread_num: int, core_id: int | str, dialect: str = "x5", profile_path: str = ""
) -> list[str]:
    """Latency and frame rate of random inputs.

    Args:
        frame_count: inferences in all.
        thread_num: parallel threads; the tools of X3, J5 and X5 take 9 and more for 8.
        core_id: see `infer_argv`.
        profile_path: existing folder for `profiler.log` and `profiler.csv`; none are written without it.
    Raises:
        ConfigError: the dialect has no such value.
    """
    flags: dict[str, object] = {"model_file": model, "frame_count": frame_count, "thread_num": thread_num, "core_id": core_id}
    if profile_path:
        flags["profile_path"] = profile_path
    return _argv(tool, "perf", flags, dialect)


def _argv(tool: str, command: str, flags: dict[str, object], dialect: str) -> list[str]:
    for name in flags.keys() - DIALECTS[dialect].flags:
        others = ", ".join(key for key, known in DIALECTS.items() if name in known.flags)
        raise ConfigError(
            f"hrt_model_exec has no flag --{name} in this dialect",
            dialect=dialect,
            expected=f"one of the dialects {others}",
            next_step="set `dialect` of the board in the fleet file",
        )
    if "," in str(flags.get("core_id", "")) and not DIALECTS[dialect].core_list:
        raise ConfigError(
            "hrt_model_exec takes one core in this dialect",
            dialect=dialect,
            expected="core_id 0 (any), 1 or 2",
            found=flags["core_id"],
            next_step="name one core, or 0 for any",
        )
    return [tool, command, *(f"--{name}={value}" for name, value in flags.items())]

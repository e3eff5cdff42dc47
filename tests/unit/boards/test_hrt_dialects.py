"""Dialects of hrt_model_exec: no command line uses a flag the board's tool does not have."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from qatladder.boards import hrt
from qatladder.boards.fleet import BoardSpec
from qatladder.boards.virtual.hrt import flags as gflags
from qatladder.errors import ConfigError

DIALECTS = sorted(hrt.DIALECTS)


def names(argv: list[str]) -> set[str]:
    """Flags of a command line; every one is `--name=value`."""
    return {re.fullmatch(r"--(\w+)=.*", item)[1] for item in argv[2:]}  # type: ignore[index]


def command_lines(dialect: str) -> dict[str, list[str]]:
    return {
        "model_info": hrt.model_info_argv("t", "m.hbm"),
        "infer": hrt.infer_argv("t", "m.hbm", "a.bin,b.bin", dialect, core_id=1),
        "infer of a caller's inputs": hrt.infer_argv("t", "m.hbm", None, dialect),
        "perf": hrt.perf_argv("t", "m.hbm", 20, 2, 1, dialect, profile_path="."),
    }


def test_the_fleet_knows_every_dialect() -> None:
    assert set(get_args(BoardSpec.model_fields["dialect"].annotation)) == set(hrt.DIALECTS)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_command_line_has_a_flag_of_another_dialect(dialect: str) -> None:
    for what, argv in command_lines(dialect).items():
        assert argv[1] == what.split()[0]
        assert names(argv) <= hrt.DIALECTS[dialect].flags, what
        positional, _ = gflags.parse(argv[1:], dialect)
        assert positional == [argv[1]], "a tool of this dialect reads it whole"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dumps_are_raw_and_binary_in_every_dialect(dialect: str) -> None:
    argv = hrt.infer_argv("t", "m", "a.bin", dialect)
    assert {"--enable_dump=true", "--dump_format=bin", "--input_file=a.bin"} <= set(argv)
    assert not names(argv) & {"hybrid_dequantize_process", "dequantize_process", "remove_padding_process", "input_img_properties"}


@pytest.mark.parametrize(
    ("dialect", "has", "has_not"),
    [
        ("x3", {"enable_dump", "profile_path"}, {"dump_path", "dump_precision", "hybrid_dequantize_process", "dequantize_process"}),
        ("j5", {"hybrid_dequantize_process", "dump_intermediate", "perf_time"}, {"dump_path", "dequantize_process", "input_stride"}),
        ("x5", {"hybrid_dequantize_process", "dump_path"}, {"dequantize_process", "remove_padding_process"}),
        (
            "j6",
            {"dequantize_process", "remove_padding_process", "input_img_properties", "input_stride", "perf_time_in_seconds", "dump_path"},
            {"hybrid_dequantize_process"},
        ),
    ],
)
def test_documented_differences(dialect: str, has: set[str], has_not: set[str]) -> None:
    flags = hrt.DIALECTS[dialect].flags
    assert has <= flags and not has_not & flags
    for flag in has_not:
        value = "1" if isinstance(gflags.DEFAULTS[flag], int) else "."
        with pytest.raises(gflags.FlagError, match=f"unknown command line flag '{flag}'"):
            gflags.parse(["infer", f"--{flag}={value}"], dialect)


@pytest.mark.parametrize(
    ("dialect", "named_dumps", "states_memory", "split_nv12", "core_list", "png"),
    [
        ("x3", False, False, False, False, False),
        ("j5", True, True, False, False, False),
        ("x5", True, True, False, False, True),
        ("j6", True, True, True, True, True),
    ],
)
def test_documented_habits(dialect: str, named_dumps: bool, states_memory: bool, split_nv12: bool, core_list: bool, png: bool) -> None:
    kind = hrt.DIALECTS[dialect]
    assert (kind.named_dumps, kind.states_memory, kind.split_nv12, kind.core_list) == (named_dumps, states_memory, split_nv12, core_list)
    assert ("png" in kind.pictures) == png


def test_j6_and_s100_are_one_tool() -> None:
    assert hrt.DIALECTS["j6"] is hrt.DIALECTS["s100"]


def test_every_flag_of_a_dialect_is_a_flag_of_the_virtual_tool() -> None:
    for dialect in DIALECTS:
        assert set(gflags.known(dialect)) == hrt.DIALECTS[dialect].flags | {"version", "help"}


def test_the_oldest_build_dumps_where_it_stands() -> None:
    assert hrt.infer_argv("hrt", "m.bin", "a.bin", "x3") == [
        "hrt",
        "infer",
        "--model_file=m.bin",
        "--enable_dump=true",
        "--dump_format=bin",
        "--input_file=a.bin",
    ]


def test_strides_the_caller_chooses() -> None:
    argv = hrt.infer_argv("t", "m.hbm", "y.bin,uv.bin", "j6", strides=((50176, 224, 1, 1), (25088, 224, 2, 1)))
    assert "--input_stride=50176,224,1,1;25088,224,2,1" in argv
    with pytest.raises(ConfigError) as caught:
        hrt.infer_argv("t", "m.hbm", "y.bin", "x5", strides=((1, 1),))
    assert "--input_stride" in caught.value.message
    assert caught.value.where == {"dialect": "x5", "expected": "one of the dialects j6, s100"}


def test_several_cores_only_where_the_tool_takes_a_list() -> None:
    assert "--core_id=1,2" in hrt.perf_argv("t", "m", 20, 2, "1,2", "s100")
    assert gflags.parse(["--core_id=1,2"], "s100")[1]["core_id"] == "1,2"
    for dialect in ("x3", "j5", "x5"):
        with pytest.raises(ConfigError, match="one core"):
            hrt.perf_argv("t", "m", 20, 2, "1,2", dialect)
        with pytest.raises(gflags.FlagError):
            gflags.parse(["--core_id=1,2"], dialect)


def test_no_folder_no_profile() -> None:
    assert "profile_path" not in names(hrt.perf_argv("t", "m", 20, 2, 0))

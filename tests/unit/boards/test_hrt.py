"""The hrt_model_exec dialect: command lines, consoles of several builds, dumps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qatladder.boards import hrt
from qatladder.errors import BrokenError

X5 = """\
I0000 00:00:00.000000 4711 vlog_is_on.cc:197] RAW: Set VLOG level for "*" to 3
[BPU_PLAT]BPU Platform Version(1.3.6)!
[HBRT] set log level as 0. version = 3.15.55.0
[DNN] Runtime version = 1.24.5_(3.15.55 HBRT)
[A][DNN][packed_model.cpp:247][Model](2025-01-01,00:00:00.000.000) [HorizonRT] The model builder version = 1.24.3
Load model to DDR cost 12.5ms.
This model file has 1 model:
[net]
---------------------------------------------------------------------
[model name]: net

input[0]:\x20
name: image
input source: HB_DNN_INPUT_FROM_PYRAMID
valid shape: (1,3,64,64,)
aligned shape: (1,3,64,64,)
aligned byte size: 6144
tensor type: HB_DNN_IMG_TYPE_NV12
tensor layout: HB_DNN_LAYOUT_NCHW
quanti type: NONE
stride: (0,0,0,0,)

output[0]:\x20
name: scores
valid shape: (1,2,3,5,)
aligned shape: (1,2,3,8,)
aligned byte size: 192
tensor type: HB_DNN_TENSOR_TYPE_S32
tensor layout: HB_DNN_LAYOUT_NCHW
quanti type: SCALE
stride: (192,96,32,4,)
scale data: 0.00046273,0.00109842,
quantizeAxis: 1
some new key: 7

---------------------------------------------------------------------
"""

# An old build: no name, no byte size, no stride, colours, and a line after the table.
X3 = """\
[HBRT] set log level as 0. version = 3.13.4
[HorizonRT] The model builder version = 1.1.49
This model file has 1 model:
[NET_hybrid]
---------------------------------------------------------------------
[model name]: NET_hybrid

stage count: 1
input[0]:
valid shape: (1,3,64,64,)
aligned shape: (1,8,64,64,)
tensor type: HB_DNN_IMG_TYPE_NV12
tensor layout: HB_DNN_LAYOUT_NCHW
quanti type: \x1b[32mNONE\x1b[0m
stage[0]: (0, 0, 63, 63)

output[0]:
valid shape: (1,10,1,1,)
aligned shape: (1,16,1,1,)
tensor type: HB_DNN_TENSOR_TYPE_F32
tensor layout: HB_DNN_LAYOUT_NCHW
quanti type: NONE

---------------------------------------------------------------------

I0727 08:05:30.890235 4711 main.cpp:410] hbDNNRelease success!
"""

# A newer family: no model name, no aligned shape, strides, and lists in brackets.
NEWER = """\
input[0]:\x20
name: points
valid shape: (1,4)
aligned byte size: 128
tensor type: HB_DNN_TENSOR_TYPE_F32
quanti type: NONE
stride: (16,4)

output[0]:\x20
name: grid
valid shape: (1,4,10)
aligned byte size: 64
tensor type: HB_DNN_TENSOR_TYPE_S8
quanti type: SCALE
stride: (64,16,1)
scale data: (0.0472441)
zero_point data: (0)
---------------------------------------------------------------------
"""

PERF = """\
I0822 08:15:01.979738 4711 main.cpp:233] profile_path: . exsit!
[W][DNN]bpu_model_info.cpp:491][Version](2025-01-01,00:00:00.000.000) Model: net. Inconsistency between the hbrt library version \
3.15.47.0 and the model build version 3.15.54.0 detected, in order to ensure correct model results, it is recommended to ...
Frame count: 200,  Thread Average: 21.258760 ms,  thread max latency: 22.173000 ms,  thread min latency: 6.904000 ms,  FPS: 186.498093

Running condition:
  Thread number is: 4
  Frame count   is: 200
  Program run time: 1072.543000 ms
Perf result:
  Frame totally latency is: 4251.751953 ms
  Average    latency    is: 21.258760 ms
  Frame      rate       is: 186.472710 FPS
"""

INFER = """\
[DNN] Runtime version = 1.24.5_(3.15.55 HBRT)
Load model to DDR cost 402.846ms.
read file ../../in/0_0.bin length: 6144

---------------------Frame 0 begin---------------------
Infer time: 1.464 ms
---------------------Frame 0 end---------------------
[I][4711][main.cpp:1156][hrt_model_exec] Dump path: ./model_infer_output_0_error_map.bin
"""


def test_command_lines_have_the_documented_flags() -> None:
    assert hrt.infer_argv("hrt_model_exec", "m.hbm", "a.bin,b.bin", "j5") == [
        "hrt_model_exec",
        "infer",
        "--model_file=m.hbm",
        "--enable_dump=true",
        "--dump_format=bin",
        "--dump_precision=9",
        "--input_file=a.bin,b.bin",
    ]
    assert "--dump_path=." in hrt.infer_argv("hrt_model_exec", "m.hbm", "a.bin", "x5")
    assert hrt.perf_argv("t", "m", 20, 2, 1) == ["t", "perf", "--model_file=m", "--frame_count=20", "--thread_num=2", "--core_id=1"]


def test_model_info_of_x5() -> None:
    (model,) = hrt.parse_model_info(X5)
    assert model.name == "net"
    assert model.versions == {"platform": "1.3.6", "hbrt": "3.15.55.0", "runtime": "1.24.5", "builder": "1.24.3"}
    image, scores = model.inputs[0], model.outputs[0]
    assert (image.name, image.source, image.tensor_type, image.byte_size, image.stride) == ("image", "pyramid", "NV12", 6144, ())
    assert image.is_image
    assert image.dtype is None
    assert scores == hrt.TensorInfo(
        0,
        "scores",
        "",
        (1, 2, 3, 5),
        (1, 2, 3, 8),
        192,
        "S32",
        "NCHW",
        "SCALE",
        (192, 96, 32, 4),
        (0.00046273, 0.00109842),
        quantize_axis=1,
        unknown=("some new key: 7",),
    )


def test_model_info_of_an_old_build() -> None:
    (model,) = hrt.parse_model_info(X3)
    assert model.inputs[0].name == ""
    assert model.inputs[0].quanti_type == "NONE"
    assert model.inputs[0].unknown == ("stage[0]: (0, 0, 63, 63)",)
    assert model.outputs[0].byte_size is None
    assert model.unknown == ("stage count: 1",), "what every console says is not unknown"


def test_model_info_of_a_newer_family() -> None:
    (model,) = hrt.parse_model_info(NEWER)
    assert model.outputs[0].scale == (0.0472441,)
    assert model.outputs[0].zero_point == (0,)
    assert model.outputs[0].aligned_shape == ()
    assert model.outputs[0].stride == (64, 16, 1)


def test_a_file_with_two_models() -> None:
    second = X5[X5.index("-----") :].replace("net", "other")
    assert [model.name for model in hrt.parse_model_info(X5 + second)] == ["net", "other"]


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("valid shape: (1,2,3,5,)\n", "`valid shape` of output[0]"),
        ("tensor type: HB_DNN_TENSOR_TYPE_S32\n", "`tensor type` of output[0]"),
        ("quanti type: SCALE\n", "`quanti type` of output[0]"),
        ("scale data: 0.00046273,0.00109842,\n", "`scale data` of output[0]"),
        ("quantizeAxis: 1\n", "`quantizeAxis` of output[0]"),
        ("aligned shape: (1,2,3,8,)\n", None),
    ],
)
def test_a_missing_field_is_named(line: str, field: str | None) -> None:
    assert line in X5
    console = X5.replace(line, "")
    if field is None:  # the strides still say it
        assert hrt.parse_model_info(console)[0].outputs[0].aligned_shape == ()
        console, field = console.replace("stride: (192,96,32,4,)\n", ""), "`stride` or `aligned shape` of output[0]"
    with pytest.raises(BrokenError) as caught:
        hrt.parse_model_info(console)
    assert caught.value.kind == "console"
    assert caught.value.where["field"] == field
    assert caught.value.console == console


@pytest.mark.parametrize("console", ["", "bash: hrt_model_exec: not found", X5[: X5.index("output[0]")]])
def test_half_a_console_is_no_model(console: str) -> None:
    with pytest.raises(BrokenError) as caught:
        hrt.parse_model_info(console)
    assert caught.value.kind == "console"


def test_perf() -> None:
    perf = hrt.parse_perf(PERF)
    assert (perf.average_ms, perf.max_ms, perf.min_ms, perf.fps) == (21.25876, 22.173, 6.904, 186.47271)
    assert (perf.frames, perf.threads, perf.estimated) == (200, 4, False)
    assert perf.skew == "hbrt 3.15.47.0, model built with 3.15.54.0"
    assert hrt.trouble(PERF) == []


def test_perf_without_frames_per_second_in_its_first_line() -> None:
    assert hrt.parse_perf(PERF.replace(",  FPS: 186.498093", "")).fps == 186.47271


@pytest.mark.parametrize("line", ["  Average    latency    is: 21.258760 ms\n", "  Frame      rate       is: 186.472710 FPS\n"])
def test_perf_names_what_is_missing(line: str) -> None:
    assert line in PERF
    with pytest.raises(BrokenError) as caught:
        hrt.parse_perf(PERF.replace(line, ""))
    assert caught.value.kind == "console"
    assert caught.value.where["field"].strip("`").split()[-1] in line


def test_perf_that_is_not_a_number() -> None:
    with pytest.raises(BrokenError) as caught:
        hrt.parse_perf(PERF.replace("186.472710 FPS", "-e FPS"))
    assert caught.value.where["field"] == "`Frame rate`"


def test_infer_and_a_tensor_called_error_map() -> None:
    infer = hrt.parse_infer(INFER)
    assert infer.times_ms == (1.464,)
    assert infer.dumps == ("./model_infer_output_0_error_map.bin",)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("[E][DNN] hbDNNInfer failed, error code: -6000009", "tool_failed"),
        ("E0727 08:05:31 4711 main.cpp:647] read file Failed!", "input_refused"),
        ("\x1b[31mERROR\x1b[0m: no BPU", "tool_failed"),
        ("Aborted (core dumped)", "tool_failed"),
    ],
)
def test_text_beats_the_exit_code(line: str, kind: str) -> None:
    for parse, console in ((hrt.parse_infer, INFER), (hrt.parse_perf, PERF)):
        parse(console)
        with pytest.raises(BrokenError) as caught:
            parse(console + line + "\n")
        assert caught.value.kind == kind
        assert hrt.plain(line) in caught.value.message
        assert caught.value.next_step


@pytest.mark.parametrize(
    "line",
    [
        "profile_path: . exsit!",
        "model_file=/userdata/error/failed_net.hbm",
        "[model name]: fail_net",
        "[error_net]",
        "name: error",
        "task done, error code: 0",
        "terror 0.1",
    ],
)
def test_harmless_lines(line: str) -> None:
    assert hrt.trouble(line) == []


def test_infer_without_a_time_did_not_infer() -> None:
    with pytest.raises(BrokenError) as caught:
        hrt.parse_infer(INFER.replace("Infer time", "time"))
    assert caught.value.kind == "console"


# --- dumps ---


def tensor(**changes: object) -> hrt.TensorInfo:
    return replace(hrt.parse_model_info(X5)[0].outputs[0], **changes)  # type: ignore[arg-type]


def test_padding_is_taken_off_by_the_stated_stride(tmp_path: Path, rng: np.random.Generator) -> None:
    valid = rng.integers(-(2**31), 2**31, (1, 2, 3, 5), dtype=np.int64).astype(np.int32)
    padded = np.full((1, 2, 3, 8), 0x55555555, np.int32)
    padded[..., :5] = valid
    (tmp_path / "d.bin").write_bytes(padded.astype("<i4").tobytes())
    found = hrt.read_dump(tmp_path / "d.bin", tensor())
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, valid)
    # A build without strides states the aligned shape; one without byte size too.
    np.testing.assert_array_equal(hrt.read_dump(tmp_path / "d.bin", tensor(stride=(), byte_size=None)), valid)


def test_strides_need_not_be_dense(tmp_path: Path) -> None:
    info = hrt.parse_model_info(NEWER)[0].outputs[0]
    raw = np.arange(64, dtype=np.int8)
    raw.tofile(tmp_path / "d.bin")
    np.testing.assert_array_equal(hrt.read_dump(tmp_path / "d.bin", info), raw.reshape(1, 4, 16)[:, :, :10])


@pytest.mark.parametrize(("size", "kind"), [(191, "dump_truncated"), (0, "dump_truncated"), (193, "dump_size"), (None, "dump_missing")])
def test_a_dump_of_another_size_is_never_read(tmp_path: Path, size: int | None, kind: str) -> None:
    if size is not None:
        (tmp_path / "d.bin").write_bytes(bytes(size))
    with pytest.raises(BrokenError) as caught:
        hrt.read_dump(tmp_path / "d.bin", tensor())
    assert caught.value.kind == kind
    if size is not None:
        assert (caught.value.where["expected"], caught.value.where["found"]) == ("192 bytes", f"{size} bytes")


def test_a_stride_beyond_the_buffer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.bin").write_bytes(bytes(192))
    with pytest.raises(BrokenError) as caught:
        hrt.read_dump(tmp_path / "d.bin", tensor(stride=(192, 128, 32, 4)))
    assert caught.value.kind == "console"


def test_dumps_are_found_with_and_without_names(tmp_path: Path) -> None:
    for name in (
        "model_infer_output_0_y.bin",
        "model_infer_output_1.bin",
        "model_infer_output_10_a_b.bin",
        "model_infer_input_0_x.bin",
        "x.txt",
    ):
        (tmp_path / name).touch()
    assert {index: path.name for index, path in hrt.find_dumps(tmp_path).items()} == {
        0: "model_infer_output_0_y.bin",
        1: "model_infer_output_1.bin",
        10: "model_infer_output_10_a_b.bin",
    }


def test_a_stale_dump_beside_a_new_one_is_never_chosen(tmp_path: Path) -> None:
    (tmp_path / "model_infer_output_0_y.bin").touch()
    (tmp_path / "model_infer_output_0.bin").touch()
    with pytest.raises(BrokenError) as caught:
        hrt.find_dumps(tmp_path)
    assert caught.value.kind == "dump_ambiguous"
    assert "model_infer_output_0_y.bin" in caught.value.where["found"]


def test_what_the_board_states_as_a_contract() -> None:
    info = tensor()
    contract = info.contract()
    assert (contract.name, contract.dtype, contract.valid_shape, contract.stride) == (info.name, "int32", info.valid_shape, info.stride)
    assert contract.padded_bytes == info.byte_size
    assert (contract.scale, contract.axis) == (info.scale, info.quantize_axis)
    assert tensor(name="", tensor_type="NV12").contract().name == "0"
    assert tensor(tensor_type="NV12").contract().dtype == ""


def test_a_float_dump_may_hold_nan(tmp_path: Path) -> None:
    np.full(48, np.nan, np.float32).tofile(tmp_path / "d.bin")
    assert np.isnan(hrt.read_dump(tmp_path / "d.bin", tensor(tensor_type="F32"))).all()

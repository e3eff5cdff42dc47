"""Consoles of real boards: each parses to the right types, and half of one never becomes a shape."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qatladder.boards import hrt
from qatladder.errors import BrokenError

LOGS = Path(__file__).resolve().parents[4] / "shared" / "vendor-logs"

J6_INFO = """\
Load model to DDR cost 1965.57ms.
This model file has 1 model:
[resnet50_224x224_nv12]
---------------------------------------------------------------------
[model name]: resnet50_224x224_nv12

input[0]:\x20
name: input_y
valid shape: (1,224,224,1,)
aligned byte size: -1
tensor type: HB_DNN_TENSOR_TYPE_U8
quanti type: NONE
stride: (-1,-1,1,1,)

input[1]:\x20
name: input_uv
valid shape: (1,112,112,2,)
aligned byte size: -1
tensor type: HB_DNN_TENSOR_TYPE_U8
quanti type: NONE
stride: (-1,-1,2,1,)

output[0]:\x20
name: output
valid shape: (1,1000,)
aligned byte size: 4096
tensor type: HB_DNN_TENSOR_TYPE_F32
quanti type: NONE
stride: (4000,4,)

---------------------------------------------------------------------
"""

J6_QUANTIZED = """\
input[0]:\x20
name: _input_0
valid shape: (1,6,3,256,704)
aligned byte size: 6488064
tensor type: HB_DNN_TENSOR_TYPE_S16
quanti type: SCALE
stride: (6488064,1081344,360448,1408,2)
scale data: (0.0177)
zero_point data: (0)

input[3]:\x20
name: _input_3
valid shape: (1,6,160000)
aligned byte size: 960000
tensor type: HB_DNN_TENSOR_TYPE_BOOL8
quanti type: NONE
stride: (960000,160000,1)

output[0]:\x20
name: _output_0
valid shape: (1,200,200,16)
aligned byte size: 2560000
tensor type: HB_DNN_TENSOR_TYPE_S32
quanti type: NONE
stride: (2560000,12800,64,4)
---------------------------------------------------------------------
"""

X3_INFO = """\
[HBRT] set log level as 0. version = 3.13.4
[BPU_PLAT]BPU Platform Version(1.3.2)!
[HorizonRT] The model builder version = 1.1.49
This model file has 1 model:
[MOBILENET_hybrid]
---------------------------------------------------------------------
[model name]: MOBILENET_hybrid

stage count: 1
input[0]:
valid shape: (1,3,224,224,)
aligned shape: (1,8,224,224,)
tensor type: HB_DNN_IMG_TYPE_NV12
tensor layout: HB_DNN_LAYOUT_NCHW
quanti type: NONE
stage[0]: (0, 0, 223, 223)

output[0]:
valid shape: (1,1000,1,1,)
aligned shape: (1,1000,1,1,)
tensor type: HB_DNN_TENSOR_TYPE_F32
tensor layout: HB_DNN_LAYOUT_NCHW
quanti type: NONE

---------------------------------------------------------------------
I0727 08:05:30.890235 21461 main.cpp:410] hbDNNRelease success!
"""

X5_INFO = """\
[BPU_PLAT]BPU Platform Version(1.3.6)!
[HBRT] set log level as 0. version = 3.15.55.0
[DNN] Runtime version = 1.24.5_(3.15.55 HBRT)
This model file has 2 models:
[a]
[b]
---------------------------------------------------------------------
[model name]: a

input[0]:\x20
name: images
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

---------------------------------------------------------------------
[model name]: b

input[0]:\x20
name: points
valid shape: (1,4,)
aligned shape: (1,4,)
aligned byte size: 16
tensor type: HB_DNN_TENSOR_TYPE_F32
tensor layout: HB_DNN_LAYOUT_NONE
quanti type: NONE
stride: (16,4,)

output[0]:\x20
name: shifted
valid shape: (1,4,)
aligned shape: (1,16,)
aligned byte size: 16
tensor type: HB_DNN_TENSOR_TYPE_S8
tensor layout: HB_DNN_LAYOUT_NONE
quanti type: SHIFT
stride: (16,1,)
shift data: 7,7,7,7,

---------------------------------------------------------------------
"""

J6_INFER = """\
[UCP]: log level = 3
[UCP]: UCP version = 3.15.8
[DNN]: log level = 3
/sdk/hrt_model_exec infer --model_file=/data/net.hbm --input_file=/in/rgb.bin,/in/targets.bin --enable_dump=true
[I][7463][09-24][19:18:42:801][main.cpp:324][hrt_model_exec][HRT_MODEL_EXEC] dump_path: ./ exsit
[DNN]: 3.15.8_(4.11.11 HBRT)
Load model to DDR cost 402.846ms.
[I][7463][09-24][19:18:43:208][file_util.cpp:128][hrt_model_exec][HRT_MODEL_EXEC] read file /in/rgb.bin length: 602112
[I][7463][09-24][19:18:43:225][file_util.cpp:128][hrt_model_exec][HRT_MODEL_EXEC] read file /in/targets.bin length: 448
[I][7463][09-24][19:18:43:226][file_util.cpp:155][hrt_model_exec][HRT_MODEL_EXEC] Input [/in/targets.bin] will padding, \
validShape: (1,8,14), stride: (512,64,4)
a line of a newer build

---------------------Frame 0 begin---------------------
Infer time: 33587.2 ms
---------------------Frame 0 end---------------------
[I][7463][09-24][19:19:16:834][function_util.cpp:1156][hrt_model_exec][HRT_MODEL_EXEC] Dump path: ./model_infer_input_0_rgb.bin
[I][7463][09-24][19:19:16:910][function_util.cpp:1156][hrt_model_exec][HRT_MODEL_EXEC] Dump path: ./model_infer_output_9_logits.bin
"""

X3_INFER = """\
[HBRT] set log level as 0. version = 3.13.4
I0727 08:05:31.061993 21475 main.cpp:623] get model handle success
file length: 75264
I0727 08:05:31.063504 21475 main.cpp:647] read file success!
I0727 08:05:31.086660 21475 main.cpp:689] task done

-----------------------------------------
Infer time: 22.899 ms
-----------------------------------------
I0727 08:05:31.163169 21475 main.cpp:733] Dump path: ./model_infer_input_0.txt
I0727 08:05:31.166076 21475 main.cpp:774] Dump path: ./model_infer_output_0.txt
I0727 08:05:31.166210 21475 main.cpp:788] class result: [id]340, [score]0.9762
I0727 08:05:31.167382 21475 main.cpp:410] hbDNNRelease success!
"""

J6_PERF = """\
[BPU][[BPU_MONITOR]][INFO]BPULib verison(2, 0, 1)[]!
Load model to DDR cost 1965.34ms.
Frame count: 200,  Thread Average: 5.262160 ms,  thread max latency: 5.498000 ms,  thread min latency: 1.636000 ms,  FPS: 1467.383789

Running condition:
  Thread number is: 8
  Frame count   is: 200
  Program run time: 136.440000 ms
Perf result:
  Frame totally latency is: 1052.432007 ms
  Average    latency    is: 5.262160 ms
  Frame      rate       is: 1465.845793 FPS
"""

INFOS = {"j6": J6_INFO, "j6 quantized": J6_QUANTIZED, "x3": X3_INFO, "x5": X5_INFO}


def log(name: str) -> str:
    if not LOGS.is_dir():
        pytest.skip("the published consoles are not beside this checkout")
    return (LOGS / name).read_text()


# --- what each dialect prints ---


def test_j6_separates_an_nv12_picture_into_y_and_uv_with_strides_of_the_caller() -> None:
    (model,) = hrt.parse_model_info(J6_INFO)
    y, uv = model.inputs
    assert (y.name, y.valid_shape, y.stride, y.byte_size) == ("input_y", (1, 224, 224, 1), (-1, -1, 1, 1), None)
    assert (uv.name, uv.valid_shape) == ("input_uv", (1, 112, 112, 2))
    assert y.is_dynamic and uv.is_dynamic and not y.is_image
    assert y.contract().stride == (), "-1 is no stride"
    assert not model.outputs[0].is_dynamic
    assert (model.outputs[0].byte_size, model.outputs[0].stride) == (4096, (4000, 4))


def test_a_dump_of_a_tensor_without_a_stated_size_is_refused(tmp_path: Path) -> None:
    (model,) = hrt.parse_model_info(J6_INFO)
    (tmp_path / "d.bin").write_bytes(bytes(224 * 224))
    with pytest.raises(BrokenError, match="how many bytes"):
        hrt.read_dump(tmp_path / "d.bin", model.inputs[0])


def test_a_shape_the_caller_chooses_is_no_contract() -> None:
    (model,) = hrt.parse_model_info(J6_INFO.replace("(1,224,224,1,)", "(1,-1,-1,1,)"))
    assert model.inputs[0].valid_shape == (1, -1, -1, 1)
    with pytest.raises(BrokenError) as caught:
        model.inputs[0].contract()
    assert (caught.value.kind, caught.value.where["tensor"]) == ("input_refused", "input_y")


def test_j6_states_strides_scales_and_zero_points() -> None:
    (model,) = hrt.parse_model_info(J6_QUANTIZED)
    first, flags = model.inputs
    assert (first.tensor_type, first.scale, first.zero_point, first.byte_size) == ("S16", (0.0177,), (0,), 6488064)
    assert (flags.index, flags.dtype, flags.stride) == (3, "bool", (960000, 160000, 1))
    assert model.gaps == ("input[1]", "input[2]"), "a console that skips tensors says so"


def test_x3_states_shapes_only() -> None:
    (model,) = hrt.parse_model_info(X3_INFO)
    image, output = model.inputs[0], model.outputs[0]
    assert (image.name, image.byte_size, image.aligned_shape, image.stride) == ("", None, (1, 8, 224, 224), ())
    assert output.contract().padded_bytes == 4000
    assert model.versions == {"platform": "1.3.2", "hbrt": "3.13.4", "builder": "1.1.49"}
    assert model.unknown == ("stage count: 1",) and image.unknown == ("stage[0]: (0, 0, 223, 223)",)
    assert model.gaps == ()


def test_infer_of_j6() -> None:
    infer = hrt.parse_infer(J6_INFER)
    assert infer.times_ms == (33587.2,)
    assert infer.dumps == ("./model_infer_input_0_rgb.bin", "./model_infer_output_9_logits.bin")
    assert infer.paddings == (hrt.Padding("/in/targets.bin", (1, 8, 14), (512, 64, 4)),)
    assert infer.versions == {"hbrt": "4.11.11", "runtime": "3.15.8", "ucp": "3.15.8"}
    assert infer.unknown == ("a line of a newer build",)
    with pytest.raises(BrokenError, match="how it pads"):
        hrt.parse_infer(J6_INFER.replace("(512,64,4)", "(512,64,"))


def test_a_resized_picture_is_told() -> None:
    line = (
        "[file_util.cpp:527][HRT_MODEL_EXEC] The input valid shape is (1,224,224,1), and the image [zebra.jpeg] will be scaled to 224x224\n"
    )
    assert hrt.parse_infer(line + J6_INFER).resized == ("zebra.jpeg",)
    assert hrt.parse_infer(J6_INFER).resized == ()


def test_infer_of_x3() -> None:
    infer = hrt.parse_infer(X3_INFER)
    assert infer.dumps == ("./model_infer_input_0.txt", "./model_infer_output_0.txt")
    assert infer.times_ms == (22.899,)
    assert infer.unknown == ("I0727 08:05:31.166210 21475 main.cpp:788] class result: [id]340, [score]0.9762",)


def test_perf_of_j6() -> None:
    perf = hrt.parse_perf(J6_PERF)
    assert (perf.average_ms, perf.max_ms, perf.min_ms, perf.fps) == (5.26216, 5.498, 1.636, 1465.845793)
    assert (perf.frames, perf.threads, perf.versions, perf.unknown) == (200, 8, {"platform": "2.0.1"}, ())
    assert hrt.parse_perf(J6_PERF + "  New figure is: 7\n").unknown == ("New figure is: 7",)


# --- half a console ---


def tensors(models: tuple[hrt.ModelInfo, ...]) -> list[tuple[hrt.TensorInfo, ...]]:
    return [side for model in models for side in (model.inputs, model.outputs)]


def parsed(console: str) -> tuple[hrt.ModelInfo, ...] | None:
    """The models, or None when the parser named the field that is missing."""
    try:
        return hrt.parse_model_info(console)
    except BrokenError as error:
        found = error
    assert found.kind == "console" and found.where["field"], console
    return None


@pytest.mark.parametrize("dialect", INFOS)
def test_a_console_cut_at_any_line_gives_the_same_tensors_or_names_what_is_missing(dialect: str) -> None:
    whole, lines = hrt.parse_model_info(INFOS[dialect]), INFOS[dialect].splitlines(keepends=True)
    found = [parsed("".join(lines[:count])) for count in range(len(lines))]
    assert found[0] is None and found[-2] is None, "only what follows the last table may be missing"
    assert all(tensors(models) == tensors(whole) for models in found if models)


@given(data=st.data())
def test_a_console_cut_at_any_character_gives_the_same_tensors_or_names_what_is_missing(data: st.DataObject) -> None:
    console = INFOS[data.draw(st.sampled_from(sorted(INFOS)))]
    found = parsed(console[: data.draw(st.integers(0, len(console)))])
    assert found is None or tensors(found) == tensors(hrt.parse_model_info(console))


def facts(models: tuple[hrt.ModelInfo, ...]) -> list[list[tuple[object, ...]]]:
    """What a dump is read by, but for strides and aligned shape, which say the same twice."""
    return [[(t.index, t.valid_shape, t.tensor_type, t.quanti_type, t.scale, t.shift) for t in side] for side in tensors(models)]


@pytest.mark.parametrize("dialect", INFOS)
def test_a_line_lost_anywhere_never_changes_a_shape(dialect: str) -> None:
    """What is lost is not needed, stated by another line too, or named as missing; two tensors never become one."""
    whole, lines = hrt.parse_model_info(INFOS[dialect]), INFOS[dialect].splitlines(keepends=True)
    for lost in range(len(lines)):
        found = parsed("".join(lines[:lost] + lines[lost + 1 :]))
        assert found is None or facts(found) == facts(whole), lines[lost]


@pytest.mark.parametrize(
    ("right", "wrong", "field"),
    [
        ("valid shape: (1,2,3,5,)", "valid shape: (1,2,3,5", "in numbers"),
        ("valid shape: (1,2,3,5,)", "valid shape: 1,2,3,5", "in numbers"),
        ("stride: (192,96,32,4,)", "stride: (192,96,32,)", "`stride`"),
        ("aligned shape: (1,2,3,8,)", "aligned shape: (1,2,3,)", "`aligned shape`"),
        ("aligned byte size: 192", "aligned byte size: many", "in numbers"),
        ("scale data: 0.00046273,0.00109842,", "scale data: 0.00046273,0.00109842,0.1,", "`scale data`"),
        ("quantizeAxis: 1", "quantizeAxis: 4", "`quantizeAxis`"),
        ("quantizeAxis: 1", "quantizeAxis: 2", "`scale data`"),
    ],
)
def test_a_tensor_that_contradicts_itself(right: str, wrong: str, field: str) -> None:
    assert right in X5_INFO
    with pytest.raises(BrokenError) as caught:
        hrt.parse_model_info(X5_INFO.replace(right, wrong))
    assert caught.value.kind == "console"
    assert field in caught.value.where["field"] and "output[0]" in caught.value.where["field"]


def test_a_tensor_that_is_printed_twice() -> None:
    with pytest.raises(BrokenError, match="each input once"):
        hrt.parse_model_info(J6_INFO.replace("input[1]", "input[0]"))


@pytest.mark.parametrize("console", [J6_PERF])
def test_perf_cut_at_any_line_names_a_figure(console: str) -> None:
    lines = console.splitlines(keepends=True)
    for count in range(len(lines)):
        with pytest.raises(BrokenError) as caught:
            hrt.parse_perf("".join(lines[:count]))
        assert caught.value.where["field"]


# --- every published console ---


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("yolo11n", 6),
        ("yolo11n_cls", 1),
        ("yolo11n_pose", 9),
        ("yolo13n", 6),
        ("yolov10n", 6),
        ("yolov5nu", 6),
        ("yolov8n", 6),
        ("yolov8n_seg", 10),
        ("yolov9t", 6),
    ],
)
def test_published_model_info_of_x5(name: str, outputs: int) -> None:
    console = log(f"x5_model_info_{name}.txt")
    (model,) = hrt.parse_model_info(console)
    assert f"[{model.name}]" in console
    assert (len(model.inputs), len(model.outputs), model.gaps, model.unknown) == (1, outputs, (), ())
    assert model.versions == {"platform": "1.3.6", "hbrt": "3.15.55.0", "runtime": "1.24.5", "builder": "1.24.3"}
    assert model.inputs[0].is_image and model.inputs[0].source == "pyramid"
    for tensor in model.outputs:
        assert tensor.name and tensor.unknown == ()
        assert tensor.contract().padded_bytes == tensor.byte_size
    assert hrt.failure(console) is None


def test_published_model_info_of_x3() -> None:
    (model,) = hrt.parse_model_info(log("x3_model_info_unet.txt"))
    output = model.outputs[0]
    assert (output.valid_shape, output.tensor_type, output.quantize_axis, len(output.scale)) == ((1, 21, 512, 512), "S32", 1, 21)
    assert model.versions["march"] == "BERNOULLI2" and model.unknown == ()


def test_published_consoles_of_an_old_x3() -> None:
    _, info, infer, perf = re.split(r"(?m)^== .*$", log("x3_console_transcripts.txt"))
    (model,) = hrt.parse_model_info(info)
    assert (model.name, model.outputs[0].valid_shape) == ("MOBILENET_hybrid_mobilenetv1", (1, 1000, 1, 1))
    assert hrt.parse_infer(infer).dumps[-1] == "./model_infer_output_0.txt"
    assert (hrt.parse_perf(perf).fps, hrt.parse_perf(perf).threads, hrt.parse_perf(perf).unknown) == (94.381026, 2, ())


def test_published_perf_of_x5() -> None:
    perf = hrt.parse_perf(log("x5_perf_repvgg.txt"))
    assert (perf.average_ms, perf.fps, perf.unknown) == (21.25876, 186.47271, ())
    assert perf.skew == "hbrt 3.15.47.0, model built with 3.15.54.0"


def test_published_consoles_of_j6() -> None:
    (model,) = hrt.parse_model_info(log("j6_real_model_info_bevfusion.txt"))
    assert [tensor.index for tensor in model.inputs] == [0, 3, 5, 6]
    assert [tensor.tensor_type for tensor in model.inputs] == ["S16", "BOOL8", "S8", "F32"]
    assert model.inputs[3].byte_size == 128
    infer, _, perf = log("j6_real_board_infer_perf.txt").partition("hrt_model_exec perf")
    assert hrt.parse_infer(infer).resized == ("zebra_cls.jpeg", "zebra_cls.jpeg")
    assert hrt.parse_perf(perf).fps == 1465.845793
    simulated = hrt.parse_infer(log("j6p_x86sim_hrt_model_exec_infer.log"))
    assert [padding.stride for padding in simulated.paddings] == [(128, 4), (512, 64, 4)]
    assert len(simulated.dumps) == 4


def test_the_flags_of_the_oldest_tool_are_those_of_its_help() -> None:
    text = log("x3_tool_help_transcript.txt").partition("[Examples]")[0]
    assert hrt.DIALECTS["x3"].flags == set(re.findall(r"(?m)^--(\w+)", text)) - {"per_time"}


def test_no_published_console_is_taken_for_a_failure() -> None:
    log("x5_perf_repvgg.txt")
    assert {path.name for path in LOGS.glob("*") if hrt.failure(path.read_text())} == set()

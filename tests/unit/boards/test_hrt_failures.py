"""What a console says went wrong, and of which kind it is."""

from __future__ import annotations

import pytest

from qatladder.boards import hrt
from qatladder.boards.hrt import console
from qatladder.boards.taxonomy import TAXONOMY

SKEW = (
    "[W][DNN]bpu_model_info.cpp:491][Version] Model: net. Inconsistency between the hbrt library version 3.15.47.0 and the model build "
    "version 3.15.54.0 detected, in order to ensure correct model results, it is recommended to use compilation tools and the BPU SDK from "
    "the same OpenExplorer package.\n"
)
FAILURES = [
    ("disk_full", "E0727 08:05:31 4711 main.cpp:733] dump failed: No space left on device"),
    ("disk_full", "write error: no space left on device"),
    ("device_error", "[E][DNN][task.cpp:1][Task] hbDNNInfer failed, error code: -6000012"),
    ("device_error", "[E][DNN] hbDNNWaitTaskDone failed, error code: -6000008"),
    ("device_error", "hbSysAllocCachedMem failed, error code: -6000130"),
    ("device_error", "[E][4711][UCP] task failed, ret: -200002"),
    ("device_error", "Cannot malloc bpu memory with length 3326941192 bytes"),
    ("device_error", "[E] Fail to do ION_IOC_ALLOC(ret=Cannot allocate memory)!"),
    ("device_error", "Load hbm failed! error: HBRT4_STATUS_RESOURCE_EXHAUSTED"),
    ("device_error", "hbrt4_loader/src/hbm4/parsing.rs:236: iova addr not equal for different core"),
    ("device_error", "[E][BPU] cma alloc failed, size 4096"),
    ("device_error", "[E][BPU] hb_bpu_map failed, ret -2"),
    ("device_error", "[E] bpu core 0 run timeout"),
    ("device_error", "[E] open /dev/bpu_core0 failed"),
    ("version_skew", "load model failed, error code: -6000014"),
    ("version_skew", "[E] load hbm failed, ret: -600004"),
    ("version_skew", "[E][HBRT] the hbm version 3.15.54 is not compatible with hbrt version 3.14"),
    ("version_skew", "[E][HBRT] libhbrt4.so needs update to load this hbm"),
    ("version_skew", SKEW + "[E][DNN] load model failed, error code: -6000002"),
    ("transient_load", "[E][DNN][packed_model.cpp:129][Model] Can not open /userdata/q/model.bin, file not exists or no read permission."),
    ("transient_load", "hbDNNInitializeFromFiles failed, error code: -6000006"),
    ("transient_load", "[E][4711][DNN] hbDNNInitializeFromFiles failed, ret: -500001"),
    ("model_refused", "load model failed, model net is compiled for march BERNOULLI2, the BPU is BAYES, error code: -6000002"),
    ("model_refused", "[E][DNN] load model failed, error code: -6000002"),
    ("model_refused", "Load model to DDR failed, error code: -6000002"),
    ("model_refused", "[E][DNN] load hbm failed, hbrtErrorHBMCRC32VerifyFail"),
    ("model_refused", "get model handle failed, model_name must be one of: a, b, error code: -6000001"),
    ("input_refused", "E0727 08:05:31 4711 main.cpp:647] read file Failed!"),
    ("input_refused", "input file /in/0.bin size 12 is not equal to 6144 of input image, read file failed, error code: -6000001"),
    ("input_refused", "[E] read file in/0.bin failed: No such file or directory, error code: -6000006"),
    ("console", "ERROR: unknown command line flag 'dump_path'"),
    ("tool_failed", "dump_path /nowhere does not exist, dump failed, error code: -6000006"),
    ("tool_failed", "[E][DNN] hbDNNInfer failed, error code: -6000009"),
    ("tool_failed", "Segmentation fault (core dumped)"),
]


@pytest.mark.parametrize(("kind", "text"), FAILURES)
@pytest.mark.parametrize("exit_code", [0, 1])
def test_kinds(kind: str, text: str, exit_code: int) -> None:
    before, after = "Load model to DDR cost 12.5ms.\n", "I0727 08:05:31 4711 main.cpp:410] hbDNNRelease success!\n"
    found = hrt.failure(f"{before}\x1b[31m{text}\x1b[0m\r\n{after}", exit_code)
    assert found is not None
    assert found.kind == kind
    assert found.line.startswith(text.splitlines()[-1])


def test_every_kind_is_in_the_taxonomy() -> None:
    assert {kind for kind, _ in FAILURES} == {kind for kind, _ in console._RULES} | {"tool_failed"}
    assert {kind for kind, _ in FAILURES} <= TAXONOMY.keys()


@pytest.mark.parametrize(
    "text",
    [
        "",
        SKEW,
        "profile_path: . exsit!",
        "task done, error code: 0",
        "read file /in/failed/0.bin length: 6144",
        "[model name]: error_net",
        "name: failed",
        "The input valid shape is (1,224,224,1), and the image [zebra_cls.jpeg] will be scaled to 224x224",
        "[Warning]: These operators have range limitations on input data",
        "read file in.bin length: -6000006x",
    ],
)
def test_what_is_no_failure(text: str) -> None:
    assert hrt.failure(text) is None


def test_the_warning_is_skew_and_no_failure() -> None:
    assert hrt.skew(SKEW) == "hbrt 3.15.47.0, model built with 3.15.54.0"
    assert hrt.failure(SKEW + "Infer time: 1.4 ms\n") is None


def test_a_silent_tool_that_exits_with_a_code_failed() -> None:
    assert hrt.failure("", 3) == hrt.Failure("tool_failed", "exit code 3")
    assert hrt.failure("get model input count success\n", 139) == hrt.Failure("tool_failed", "get model input count success")


def test_the_cause_beats_what_follows_from_it() -> None:
    """A load without memory goes on to call the file unreadable, corrupt, and the runtime too old."""
    said = (
        "[Model] Can not open /userdata/net.hbm\nHbm file is corrupted or libhbrt4.so needs update\n"
        "Cannot malloc bpu memory with length 5703561320 bytes\nhbDNNInitializeFromFiles failed, error code: -500001\n"
    )
    assert hrt.failure(said, 1) == hrt.Failure("device_error", "Cannot malloc bpu memory with length 5703561320 bytes")


def test_codes_are_spelt_out() -> None:
    found = hrt.failure("hbDNNInfer failed, error code: -6000012")
    assert found is not None and found.line == "hbDNNInfer failed, error code: -6000012 (HB_DNN_RUN_TASK_FAILED)"
    ours = {code for code in hrt.CODES if code < -6000000}
    assert ours == {*range(-6000016, -6000000), *range(-6000131, -6000128)}


@pytest.mark.parametrize("code", sorted(hrt.CODES))
def test_every_documented_code_is_a_failure(code: int) -> None:
    assert hrt.failure(f"hbDNNInfer returned {code}") is not None
    assert hrt.failure(f"length: {-code}") is None

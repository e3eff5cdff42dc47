"""Which flags does a board's `hrt_model_exec` take, and how does it name things?

Sources: the public documentation of the tool for X3 (2.x), J5 (1.1.33 and later), X5 (1.2) and J6/S100 (3.x). What has several builds
is described by the oldest one: its flags work with the newer ones too. Standard library only: the virtual board's tool, which runs
inside the vendor environment, reads the same table. docs/dialects.md shows it for readers.
"""

from __future__ import annotations

from dataclasses import dataclass

_OLDEST = {
    "model_file",
    "model_name",
    "core_id",
    "input_file",
    "enable_cls_post_process",
    "enable_dump",
    "dump_format",
    "profile_path",
    "frame_count",
    "thread_num",
}
_COMMON = _OLDEST | {
    "roi_infer",
    "roi",
    "dump_intermediate",
    "dump_precision",
    "dump_txt_axis",
    "hybrid_dequantize_process",
    "perf_time",
}
_UCP = (_COMMON - {"hybrid_dequantize_process"}) | {
    "dump_path",
    "dequantize_process",
    "remove_padding_process",
    "input_img_properties",
    "input_valid_shape",
    "input_stride",
    "perf_time_in_seconds",
    "task_priority",
    "log_level",
}


@dataclass(frozen=True)
class Dialect:
    """What differs between builds of the tool.

    Attributes:
        flags: the flags it takes; any other one it refuses. `--version` and `--help` are gflags' own and always there.
        named_dumps: dump files carry the tensor's name behind its index: `model_infer_output_0_scores.bin`.
        states_memory: `model_info` prints name, source, byte size and strides of a tensor; the oldest build prints its shapes only.
        split_nv12: an NV12 picture is two inputs, Y and UV, with a file each; otherwise it is one input and one file.
        core_list: `core_id` takes several cores (`1,2`), for models compiled for several.
        pictures: suffixes the tool takes for pictures, which it decodes and *resizes*: never used for consistency work.
    """

    flags: frozenset[str]
    named_dumps: bool = True
    states_memory: bool = True
    split_nv12: bool = False
    core_list: bool = False
    pictures: tuple[str, ...] = ("jpg", "JPG", "jpeg", "JPEG")

    @property
    def dump_path(self) -> bool:
        """It takes `--dump_path`; older builds always dump into the working directory."""
        return "dump_path" in self.flags


_PNG = (*Dialect.pictures, "png", "PNG")
_NASH = Dialect(frozenset(_UCP), split_nv12=True, core_list=True, pictures=_PNG)

DIALECTS = {
    # The help of the oldest build prints --per_time, its own examples --perf_time: neither can be relied on.
    "x3": Dialect(frozenset(_OLDEST), named_dumps=False, states_memory=False),
    "j5": Dialect(frozenset(_COMMON)),
    "x5": Dialect(frozenset(_COMMON | {"dump_path"}), pictures=_PNG),
    "j6": _NASH,
    "s100": _NASH,
}
"""By the value of `dialect` in the fleet file. J6 and S100 have one tool."""

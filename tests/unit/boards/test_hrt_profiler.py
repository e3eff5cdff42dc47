"""profiler.log and profiler.csv of two generations of the tool."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qatladder.boards import hrt
from qatladder.errors import BrokenError

X3 = """\
{
  "perf_result": {"FPS": 677.6192525182025, "average_latency": 11.506142616271973},
  "running_condition": {"core_id": 0, "frame_count": 200, "model_name": "mobilenetv1", "run_time": 295.151, "thread_num": 1}
}
***
{
  "chip_latency": {
    "BPU_inference_time_cost": {"avg_time": 11.09122, "max_time": 11.54, "min_time": 3.439},
    "CPU_inference_time_cost": {"avg_time": 0.18837, "max_time": 0.463, "min_time": 0.127}
  },
  "model_latency": {
    "BPU_MOBILENET_subgraph_0": {"avg_time": 11.09122, "max_time": 11.54, "min_time": 3.439},
    "Dequantize_fc7_1_HzDequantize": {"avg_time": 0.07885, "max_time": 0.158, "min_time": 0.068}
  },
  "task_latency": {
    "TaskPendingTime": {"avg_time": 0.029375, "max_time": 0.059, "min_time": 0.009},
    "TaskRunningTime": {"avg_time": 11.40324, "max_time": 11.801, "min_time": 4.008}
  }
}
"""
J6 = """\
ucp_version: 3.15.8
{
  "perf_result": {"FPS": 976.5, "average_latency": 2.046},
  "running_condition": {"core_id": "1,2", "frame_count": 100, "model_name": "net", "run_time": 102.4, "thread_num": 2}
}
***
{
  "model_latency": {
    "Node-0-BPU-net_bpu_segment_0": {
      "Stage1-GenerateBpuTask": {"avg_time": 0.02, "max_time": 0.03, "min_time": 0.01},
      "Stage2-BpuCoreProcess": {"avg_time": 2.0, "max_time": 11.6, "min_time": 1.0},
      "Total": {"avg_time": 2.023, "max_time": 11.623, "min_time": 1.099}
    }
  },
  "processor_latency": {
    "BPU_inference_time_cost": {"avg_time": 2.023, "max_time": 11.623, "min_time": 1.099},
    "CPU_inference_time_cost": {"avg_time": 0.0, "max_time": 0.0, "min_time": 0.0}
  },
  "task_latency": {"TaskRunningTime": {"avg_time": 2.046, "max_time": 11.647, "min_time": 1.139}}
}
"""
CSV = """\
ucp_version,3.15.8
running_condition
thread_num,2
core_id,1,2
frame_count,100
run_time,102.4
model_name,net

perf_result
average_latency,2.046
FPS,976.5

"""


def test_profile_of_x3() -> None:
    profile = hrt.parse_profile(X3)
    assert (profile.model, profile.fps, profile.average_ms) == ("mobilenetv1", 677.6192525182025, 11.506142616271973)
    assert (profile.frames, profile.threads, profile.core_id, profile.run_ms, profile.version) == (200, 1, "0", 295.151, "")
    assert profile.processors == {"BPU": hrt.Latency(11.09122, 11.54, 3.439), "CPU": hrt.Latency(0.18837, 0.463, 0.127)}
    assert list(profile.nodes) == ["BPU_MOBILENET_subgraph_0", "Dequantize_fc7_1_HzDequantize"]
    assert profile.tasks["TaskPendingTime"] == hrt.Latency(0.029375, 0.059, 0.009)
    assert profile.unknown == {}


def test_profile_of_j6() -> None:
    profile = hrt.parse_profile(J6)
    assert (profile.version, profile.core_id, profile.threads) == ("3.15.8", "1,2", 2)
    node = "Node-0-BPU-net_bpu_segment_0"
    assert profile.nodes[node] == hrt.Latency(2.023, 11.623, 1.099)
    assert profile.nodes[f"{node}/Stage2-BpuCoreProcess"] == hrt.Latency(2.0, 11.6, 1.0)
    assert len(profile.nodes) == 3
    assert profile.processors["CPU"] == hrt.Latency(0.0, 0.0, 0.0)


def test_the_csv_holds_the_same_figures_without_latencies() -> None:
    table, log = hrt.parse_profile(CSV), hrt.parse_profile(J6)
    for name in ("model", "average_ms", "fps", "frames", "threads", "core_id", "run_ms", "version", "unknown"):
        assert getattr(table, name) == getattr(log, name), name
    assert table.nodes == table.tasks == table.processors == {}


def test_what_is_new_is_kept() -> None:
    first, _, second = X3.partition("***")
    run, times = json.loads(first), json.loads(second)
    run["running_condition"]["warm_up"] = True
    run["sdk"] = "1.2"
    times["ddr_latency"] = {"a": 1}
    times["model_latency"]["note"] = "x"
    profile = hrt.parse_profile(json.dumps(run) + "\n***\n" + json.dumps(times))
    assert profile.unknown == {"running_condition/warm_up": True, "sdk": "1.2", "ddr_latency": {"a": 1}, "model_latency/note": "x"}


def paths(tree: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [(*prefix, key) for key in tree] + [
        path for key, value in tree.items() if isinstance(value, dict) for path in paths(value, (*prefix, key))
    ]


def wanted(part: int) -> list[tuple[str, ...]]:
    """Fields of one of the two objects; nodes, processors and tasks come and go with the model."""
    tree = json.loads(X3.split("***")[part])
    return [path for path in paths(tree) if part == 0 or len(path) != 2]


@pytest.mark.parametrize(("part", "path"), [(part, path) for part in (0, 1) for path in wanted(part)])
def test_a_missing_field_is_named(part: int, path: tuple[str, ...]) -> None:
    trees = [json.loads(text) for text in X3.split("***")]
    parent = trees[part]
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    with pytest.raises(BrokenError) as caught:
        hrt.parse_profile("\n***\n".join(map(json.dumps, trees)))
    assert caught.value.kind == "console"
    assert path[-1].replace("chip_latency", "processor_latency") in caught.value.where["field"]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "`running_condition`"),
        (X3.partition("***")[0], "the second part"),
        (X3.replace('"avg_time": 11.09122', '"avg_time": "fast"', 1), "`avg_time`"),
        (X3.replace('"frame_count": 200', '"frame_count": "many"'), "`frame_count`"),
        (CSV.replace("FPS,976.5\n", ""), "`FPS`"),
        (CSV.partition("perf_result")[0], "`perf_result`"),
        ("[1]\n***\n{}", "whole JSON"),
    ],
)
def test_half_a_profile_names_what_is_missing(text: str, field: str) -> None:
    with pytest.raises(BrokenError) as caught:
        hrt.parse_profile(text)
    assert field in caught.value.where["field"]


@given(st.sampled_from([X3, J6]), st.data())
def test_a_profile_cut_anywhere_is_no_profile(text: str, data: st.DataObject) -> None:
    whole = text.rstrip()
    with pytest.raises(BrokenError) as caught:
        hrt.parse_profile(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert caught.value.kind == "console"

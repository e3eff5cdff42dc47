"""What a board says of itself: the health script runs here for real, over a file tree that looks like a board's."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qatladder.boards import device
from qatladder.boards.device import Board, Health
from qatladder.boards.fleet import BoardSpec
from qatladder.boards.session import BoardSession, Completed
from qatladder.errors import BrokenError

SPEC = BoardSpec.model_validate({"name": "x5-1", "march": "bayes-e", "host": "192.0.2.1", "conn_id": "x5"})

HRUT = """\
=====================1=====================
temperature-->
\tDDR      : 59.5 (C)
\tBPU      : 58.5 (C)
cpu frequency-->
-e      cpu0: 300       300     1500
"""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    """A board whose root is a folder; hrt_model_exec and hrut_somstatus are on its PATH."""
    root = tmp_path / "root"
    tools = root / "bin"
    tools.mkdir(parents=True)
    for name, text in (("hrt_model_exec", "hrt_model_exec 1.9.1"), ("hrut_somstatus", HRUT)):
        (tools / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        (tools / name).chmod(0o755)
    # only these, of all the script looks at: the tests run on machines with sensors and packages of their own
    script = re.sub(r"(?<![\w$}])/(?=sys/|etc/version|usr/|proc/(?!meminfo|uptime))", f"{root}/", device._HEALTH).replace(
        "dpkg-query", "false"
    )
    monkeypatch.setattr(device, "_HEALTH", script)
    session = BoardSession(lambda: pytest.fail("no connection is made"), "x5-1", str(root / "userdata"))

    def run(argv: list[str], timeout: float = 60.0, *_: Any) -> Completed:
        done = subprocess.run(argv, capture_output=True, text=True, env={"PATH": f"{tools}:/usr/bin:/bin"}, timeout=timeout, check=False)
        return Completed(tuple(argv), done.returncode, done.stdout, done.stderr, 0.1)

    monkeypatch.setattr(session, "run", run)
    return Board(SPEC.model_copy(update={"workdir": str(root / "userdata")}), session)


def put(board: Board, path: str, text: str) -> None:
    file = Path(board.spec.workdir).parent / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


def test_a_board_that_says_little_is_healthy(board: Board) -> None:
    found = board.health()
    assert found.versions["tool"] == "hrt_model_exec 1.9.1"
    assert found.versions["kernel"]
    assert abs(found.clock_skew_s) < 60
    assert (found.bpu_idle, found.frequencies, found.throttled) == (None, {}, ())
    assert found.temperatures == {"DDR": 59.5, "BPU": 58.5}, "hrut_somstatus says them"


def test_everything_a_board_says_is_read(board: Board) -> None:
    put(board, "sys/class/thermal/thermal_zone0/temp", "71500")
    put(board, "sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    put(board, "sys/class/hwmon/hwmon0/temp1_input", "-5000")
    put(board, "sys/class/hwmon/hwmon0/name", "pvt_bpu")
    put(board, "sys/class/thermal/cooling_device0/cur_state", "2")
    put(board, "sys/class/thermal/cooling_device0/type", "thermal-cpufreq-0")
    put(board, "sys/class/thermal/cooling_device1/cur_state", "3")
    put(board, "sys/class/thermal/cooling_device1/type", "pwm-fan")
    put(board, "sys/class/thermal/cooling_device2/cur_state", "0")
    put(board, "sys/class/thermal/cooling_device2/type", "thermal-devfreq-0")
    put(board, "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "300000")
    put(board, "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "1500000")
    put(board, "sys/class/devfreq/3a000000.bpu/cur_freq", "500000000")
    put(board, "sys/class/devfreq/3a000000.bpu/max_freq", "1000000000")
    put(board, "sys/module/bpu_framework/version", "1.4.6")
    put(board, "etc/version", "RDK OS 3.2.1")
    put(board, "usr/lib/libdnn.so.1.24.5", "")
    (Path(board.spec.workdir).parent / "usr/lib/libdnn.so").symlink_to("libdnn.so.1.24.5")
    put(board, "sys/devices/system/bpu/ratio", "0")
    put(board, "sys/devices/system/bpu/bpu0/users", "User via BPU Bus(num:1)\n    4711    bench")
    found = board.health()
    assert found.temperatures == {"DDR": 59.5, "BPU": 58.5, "cpu-thermal": 71.5, "pvt_bpu temp1": -5.0}
    assert found.throttled == ("thermal-cpufreq-0",), "a fan at work is no throttling, nor a cooler at rest"
    assert found.frequencies == {"policy0": (300.0, 1500.0), "3a000000.bpu": (500.0, 1000.0)}
    assert found.versions["bpu_framework"] == "1.4.6"
    assert found.versions["system"] == "RDK OS 3.2.1"
    assert found.versions["libdnn"] == "1.24.5"
    assert found.bpu_idle is False
    assert any("4711" in line for line in found.bpu_users or ())


def test_a_sensor_that_fails_is_no_broken_board(board: Board) -> None:
    (Path(board.spec.workdir).parent / "sys/class/thermal/thermal_zone0/temp").mkdir(parents=True)  # cat says: is a directory
    put(board, "sys/class/thermal/thermal_zone1/temp", "no number")
    put(board, "sys/class/thermal/thermal_zone1/type", "error-zone failed")
    assert board.health().temperatures == {"DDR": 59.5, "BPU": 58.5}


def test_without_its_tool_a_board_is_broken(board: Board) -> None:
    (Path(board.spec.workdir).parent / "bin" / "hrt_model_exec").unlink()
    with pytest.raises(BrokenError) as caught:
        board.health()
    assert caught.value.kind == "tool_missing"


def test_a_virtual_board_has_no_sensors_of_its_own(board: Board) -> None:
    board.spec = BoardSpec.model_validate(
        {"name": "v", "march": "bayes-e", "host": "127.0.0.1", "virtual": True, "workdir": board.spec.workdir}
    )
    assert board.health().temperatures == {}


def health(**fields: Any) -> Health:
    return replace(Health("/usr/bin/hrt_model_exec", {}, "bayes-e", 1000.0, 1000.0, 100.0, 0.0, None, None), **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, []),
        ({"march": None}, []),
        ({"march": "bayes"}, ["its march is bayes"]),
        ({"disk_free_mb": 199.9}, ["MB free on disk"]),
        ({"memory_free_mb": 49.0}, ["of memory free"]),
        ({"clock_skew_s": 3600.0}, ["+3600 s off"]),
        ({"clock_skew_s": -301.0}, ["-301 s off"]),
        ({"temperatures": {"cpu": 94.9}}, []),
        ({"temperatures": {"cpu": 40.0, "bpu": 95.0}}, ["bpu at 95 °C"]),
        ({"bpu_users": ("4711 bench",)}, []),
        ({"disk_free_mb": 1.0, "memory_free_mb": 1.0}, ["on disk", "of memory"]),
    ],
)
def test_why_a_board_is_not_fit(fields: dict[str, Any], words: list[str]) -> None:
    from qatladder.validation.fleet import unfit

    found = unfit(health(**fields), "bayes-e")
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))

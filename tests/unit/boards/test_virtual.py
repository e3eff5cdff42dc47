"""Parts of the virtual board that need no simulator: flags, path mapping, preparation."""

from __future__ import annotations

import dataclasses
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qatladder.boards.fleet import BoardSpec
from qatladder.boards.virtual import server
from qatladder.boards.virtual.hrt import flags
from qatladder.errors import BrokenError, ConfigError
from qatladder.settings import load_settings

BOARD = BoardSpec(name="v", march="bayes", host="127.0.0.1", port=0, virtual=True)


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--model_file=a=b"], "model_file", "a=b"),
        (["--model_file", "a"], "model_file", "a"),
        (["-model_file=a"], "model_file", "a"),
        (["--model_file=a", "--model_file=b"], "model_file", "b"),
        (["--model_name="], "model_name", ""),
        (["--enable_dump"], "enable_dump", True),
        (["--enable_dump=false"], "enable_dump", False),
        (["--enable_dump=T"], "enable_dump", True),
        (["--enable_dump", "--noenable_dump"], "enable_dump", False),
        (["--frame_count=0x10"], "frame_count", 16),
    ],
)
def test_flags_are_read_as_gflags_reads_them(argv: list[str], name: str, value: object) -> None:
    assert flags.parse(["infer", *argv]) == (["infer"], {**flags.DEFAULTS, name: value})


@pytest.mark.parametrize("argv", [["--modelfile=a"], ["--enable_dump=2"], ["--frame_count=many"], ["--model_file"], ["--nomodel_file"]])
def test_flags_gflags_refuses(argv: list[str]) -> None:
    with pytest.raises(flags.FlagError):
        flags.parse(argv)


@pytest.mark.parametrize(
    ("command", "mapped"),
    [
        ("rm -rf /userdata/a; mkdir -p /userdata/a", "rm -rf /R/userdata/a; mkdir -p /R/userdata/a"),
        ("source /etc/profile;echo x", "source /R/etc/profile;echo x"),
        ("flock -x /tmp/hbdk_model_verifier.lock", "flock -x /R/tmp/hbdk_model_verifier.lock"),
        ("cd '/userdata/a b' && ls \"/userdata\"", "cd '/R/userdata/a b' && ls \"/R/userdata\""),
        ("cat /sys/devices/system/bpu/ratio", "cat /R/sys/devices/system/bpu/ratio"),
        ("--model_file=/userdata/m.hbm >/tmp/log", "--model_file=/R/userdata/m.hbm >/R/tmp/log"),
        (
            "ls /usr/tmp/x ./tmp/y ../userdata /tmpfs /userdata2 /etc/profile.d ~/tmp",
            "ls /usr/tmp/x ./tmp/y ../userdata /tmpfs /userdata2 /etc/profile.d ~/tmp",
        ),
    ],
)
def test_the_boards_absolute_paths_are_mapped(command: str, mapped: str) -> None:
    assert server.map_paths(command, Path("/R")) == mapped


def test_a_data_folder_that_would_need_quoting_is_refused(tmp_path: Path) -> None:
    settings = dataclasses.replace(load_settings(), home=tmp_path / "my data", vendor=True, vendor_python=Path(sys.executable))
    with pytest.raises(ConfigError, match="letters, digits"):
        server.prepare(BOARD, settings)


def test_without_the_vendor_environment_there_is_no_virtual_board(tmp_path: Path) -> None:
    for changes in ({"vendor": False, "vendor_python": Path(sys.executable)}, {"vendor": True, "vendor_python": tmp_path / "python"}):
        with pytest.raises(BrokenError) as caught:
            server.prepare(BOARD, dataclasses.replace(load_settings(), home=tmp_path, **changes))
        assert caught.value.kind == "tool_missing"


def test_keys_are_private_and_kept(tmp_path: Path) -> None:
    settings = dataclasses.replace(load_settings(), home=tmp_path, vendor=True, vendor_python=Path(sys.executable))
    place = server.prepare(BOARD, settings)
    for name in ("host_key", "client_key"):
        assert stat.S_IMODE((place.folder / name).stat().st_mode) == 0o600
    before = (place.folder / "host_key").read_bytes()
    assert server.prepare(BOARD, settings) == place
    assert (place.folder / "host_key").read_bytes() == before


def test_only_loopback_addresses_are_served(tmp_path: Path) -> None:
    settings = dataclasses.replace(load_settings(), home=tmp_path, vendor=True, vendor_python=Path(sys.executable))
    with pytest.raises(ConfigError, match="loopback"):
        server.serve(BOARD, settings, host="0.0.0.0")


def gone(pid: int) -> bool:
    """Within five seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_a_channels_end_kills_its_session_and_power_off_all_that_works_on_the_board(tmp_path: Path) -> None:
    place = server.Place(tmp_path)
    place.root.mkdir()
    script = "setsid sleep 300 >/dev/null & echo $!; sleep 301 >/dev/null & echo $!; wait"
    child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=place.root)
    assert child.stdout is not None
    detached, attached = int(child.stdout.readline()), int(child.stdout.readline())
    server.kill_session(child.pid)
    child.wait(5)
    assert gone(attached)
    assert Path(f"/proc/{detached}").exists()
    server.power_off(place)
    assert gone(detached)

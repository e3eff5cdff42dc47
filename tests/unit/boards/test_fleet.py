"""The fleet file: what is accepted, and how a mistake is reported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qatladder.boards.fleet import Fleet, load_fleet
from qatladder.errors import ConfigError

REAL = """
  - name: bench
    march: bayes-e
    host: 192.0.2.10
    key_file: $QATLADDER_HOME/keys/bench
    known_hosts: /etc/ssh/known_hosts
"""


def fleet(tmp_path: Path, boards: str) -> Fleet:
    path = tmp_path / "fleet.yaml"
    path.write_text("boards:\n" + boards)
    return load_fleet(path)


def test_the_fleet_that_ships_has_one_virtual_board_per_march(project: Path) -> None:
    shipped = load_fleet(project / "include" / "zoo" / "fleet.yaml")
    assert [(board.name, board.march, board.dialect, board.virtual) for board in shipped.boards] == [
        ("virtual-x5", "bayes-e", "x5", True),
        ("virtual-j5", "bayes", "j5", True),
    ]


def test_paths_are_relative_to_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path / "data"))
    board = fleet(tmp_path, REAL).board("bench")
    assert board.key_file == tmp_path / "data" / "keys" / "bench"
    assert (board.port, board.user, board.workdir, board.tool) == (22, "root", "/userdata/qatladder", "hrt_model_exec")


def test_a_virtual_board_is_where_its_server_says_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path))
    board = fleet(tmp_path, "  - {name: v, march: bayes, host: 127.0.0.1, port: 2206, virtual: true}").board("v")
    assert board.address == ("127.0.0.1", 2206)
    board.folder.mkdir(parents=True)
    (board.folder / "port").write_text("40123\n")
    assert board.address == ("127.0.0.1", 40123)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        (("march: bayes-e", "march: bayes_e"), "boards[bench].march", "bayes-e"),
        (("host: 192.0.2.10", "host: 192.0.2.10\n    prot: 2200"), "boards[bench].prot", "Extra inputs"),
        (("host: 192.0.2.10", "host: 192.0.2.10\n    port: ssh"), "boards[bench].port", "integer"),
        (("host: 192.0.2.10", "host: 192.0.2.10\n    port: 0"), "boards[bench]", "port 0"),
        (("$QATLADDER_HOME", "$HOME"), "boards[bench].key_file", "QATLADDER_HOME"),
        (("    key_file: $QATLADDER_HOME/keys/bench\n", ""), "boards[bench]", "key_file and known_hosts"),
        (("host: 192.0.2.10", "host: 192.0.2.10\n    virtual: true"), "boards[bench]", "loopback"),
        (("host: 192.0.2.10", "host: 192.0.2.10\n    workdir: '/userdata/a; rm -rf /'"), "boards[bench].workdir", "pattern"),
        (("host: 192.0.2.10", "host: 192.0.2.10\n    tool: 'hrt_model_exec; reboot'"), "boards[bench].tool", "pattern"),
        (("host: 192.0.2.10", "host: 192.0.2.10\n    slots: 0"), "boards[bench].slots", "greater than or equal to 1"),
        (("host: 192.0.2.10", "host: 192.0.2.10\n    cores: many"), "boards[bench].cores", "integer"),
        (("host: 192.0.2.10", "host: 192.0.2.10\n    jump: {host: gate}"), "boards[bench].jump", "key_file and known_hosts"),
        (("host: 192.0.2.10", "host: 192.0.2.10\n    jump: {conn_id: gate, pasword: x}"), "boards[bench].jump.pasword", "Extra inputs"),
        (
            ("host: 192.0.2.10", "host: 192.0.2.10\n    jump: {host: g, key_file: k, known_hosts: k}"),
            "boards[bench].jump.key_file",
            "absolute",
        ),
        (("host: 192.0.2.10", "host: 192.0.2.10\n    power_cycle: 'curl http://x'"), "boards[bench].power_cycle", "tuple"),
        (("host: 192.0.2.10", "host: 127.0.0.1\n    virtual: true\n    jump: {conn_id: gate}"), "boards[bench]", "no jump host"),
    ],
)
def test_a_wrong_field_is_named_with_its_board(tmp_path: Path, change: tuple[str, str], field: str, words: str) -> None:
    assert change[0] in REAL
    with pytest.raises(ConfigError) as caught:
        fleet(tmp_path, REAL.replace(*change))
    assert caught.value.where["file"] == str(tmp_path / "fleet.yaml")
    assert caught.value.where["field"] == field
    assert words in str(caught.value)


def test_names_are_unique(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found twice: bench"):
        fleet(tmp_path, REAL + REAL)


@pytest.mark.parametrize("text", ["boards: [", "boards: []", "", "- 1"])
def test_a_file_that_is_no_fleet(tmp_path: Path, text: str) -> None:
    (tmp_path / "fleet.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_fleet(tmp_path / "fleet.yaml")
    assert caught.value.where["file"] == str(tmp_path / "fleet.yaml")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_fleet(tmp_path / "nowhere.yaml")


def test_boards_are_chosen_by_march_and_name(tmp_path: Path) -> None:
    found = fleet(tmp_path, REAL + REAL.replace("bench", "second") + REAL.replace("bench", "j5").replace("bayes-e", "bayes"))
    assert [board.name for board in found.boards_for("bayes-e")] == ["bench", "second"]
    assert [board.name for board in found.boards_for("bayes-e", ["second"])] == ["second"]
    with pytest.raises(ConfigError, match="another march"):
        found.boards_for("bayes-e", ["j5"])
    with pytest.raises(ConfigError, match="no board named 'nobody'"):
        found.boards_for("bayes-e", ["nobody"])
    with pytest.raises(ConfigError, match="no board of the fleet has this march"):
        found.boards_for("bernoulli2")


def test_a_fleet_says_when_boards_leave_and_what_proves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path / "data"))
    path = tmp_path / "fleet.yaml"
    plain = fleet(tmp_path, REAL)
    assert (plain.quarantine_after, plain.power_cycle_after, plain.golden) == (3, None, {})
    extras = "    cores: 2\n    slots: 2\n    jump: {conn_id: gate}\n    power_cycle: [outlet, cycle, '3']\n"
    path.write_text(
        "quarantine_after: 5\npower_cycle_after: 2\ngolden: {bayes-e: $QATLADDER_HOME/ours}\nboards:\n" + REAL.rstrip() + "\n" + extras
    )
    found = load_fleet(path)
    assert (found.quarantine_after, found.power_cycle_after, found.golden) == (5, 2, {"bayes-e": tmp_path / "data" / "ours"})
    board = found.board("bench")
    assert (board.cores, board.slots, board.power_cycle) == (2, 2, ("outlet", "cycle", "3"))
    assert board.jump and board.jump.conn_id == "gate"


@pytest.mark.parametrize(
    "line", ["quarantine_after: 0", "power_cycle_after: 0", "golden: {bayes_e: /x}", "golden: {bayes: x}", "quarantine: 3"]
)
def test_a_wrong_rule_of_the_fleet_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "fleet.yaml").write_text(f"{line}\nboards:\n{REAL}")
    with pytest.raises(ConfigError) as caught:
        load_fleet(tmp_path / "fleet.yaml")
    assert caught.value.where["field"].startswith(line.split(":")[0])


def test_the_fleet_of_the_documentation_is_one(project: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (project / "docs" / "boards.md").read_text(), re.DOTALL)
    whole = next(block for block in blocks if "boards:" in block)
    (tmp_path / "fleet.yaml").write_text(whole + next(block for block in blocks if block.startswith("golden:")))
    found = load_fleet(tmp_path / "fleet.yaml")
    assert found.boards[0].jump and found.boards[0].power_cycle and found.golden

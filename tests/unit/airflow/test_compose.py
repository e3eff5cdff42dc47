"""The container set-up: whole, without a secret in it, running the same services as `make ui`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from qatladder.airflow.environment import SERVICES, native_environment
from qatladder.boards.fleet import load_fleet
from qatladder.settings import load_settings

PROJECT = Path(__file__).resolve().parents[3]
TEXT = (PROJECT / "docker-compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"].startswith("qatladder:")}


def test_every_dependency_volume_and_network_exists():
    for name, service in COMPOSE["services"].items():
        for other, condition in (service.get("depends_on") or {}).items():
            assert other in COMPOSE["services"], f"{name} waits for {other}"
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in COMPOSE["services"][other], f"{name} waits for the health of {other}, which has no healthcheck"
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (PROJECT / source).is_dir() if source.startswith(".") else source in COMPOSE["volumes"], f"{name} mounts {volume}"
        if service.get("network_mode"):
            assert service["network_mode"].removeprefix("service:") in COMPOSE["services"]


def test_no_service_waits_in_a_circle():
    waits = {name: set(service.get("depends_on") or ()) for name, service in COMPOSE["services"].items()}
    while ready := {name for name, others in waits.items() if not others & set(waits)}:
        waits = {name: others for name, others in waits.items() if name not in ready}
    assert not waits


def test_commands_are_the_ones_that_run_natively():
    used = {name: service["command"][0] for name, service in OURS.items() if "entrypoint" not in service}
    assert set(used.values()) == set(SERVICES), "every native service, and nothing else"
    entrypoint = next(line for line in (PROJECT / "Dockerfile").read_text().splitlines() if line.startswith("ENTRYPOINT"))
    assert '"qatladder.airflow.services", "run"' in entrypoint


def test_a_service_serves_every_virtual_board_of_the_sample_fleet():
    served = {service["command"][1] for service in OURS.values() if service["command"][:1] == ["virtual-board"]}
    assert served == {board.name for board in load_fleet(PROJECT / "include" / "zoo" / "fleet.yaml").boards if board.virtual}


def test_every_long_running_airflow_service_says_whether_it_is_healthy():
    for name in ("api-server", "scheduler", "dag-processor", "triggerer", "postgres", "store"):
        assert COMPOSE["services"][name]["healthcheck"]["test"][0] == "CMD"


def test_secrets_come_from_the_environment_and_the_example_names_each_without_a_value():
    for service in COMPOSE["services"].values():
        for name, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|FERNET|ACCESS_KEY|ROOT_USER", name):
                assert re.fullmatch(r"\$\{\w+:\?set it in \.env\}", value), f"{name} has a value in the file"
    required = set(re.findall(r"\$\{(\w+):\?", TEXT))
    example = dict(line.split("=", 1) for line in (PROJECT / ".env.example").read_text().splitlines() if re.match(r"\w+=", line))
    assert set(example) == required
    assert set(example.values()) == {""}


def test_only_the_ui_is_published_and_only_on_loopback():
    published = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert list(published) == ["api-server"]
    assert all(port.startswith("127.0.0.1:") for port in published["api-server"])


def test_images_are_pinned():
    for service in COMPOSE["services"].values():
        tag = service["image"].partition(":")[2]
        assert tag not in ("", "latest"), service["image"]
        assert re.search(r"\d+\.\d+|\d{4}-\d{2}", tag), service["image"]


def test_airflow_knows_every_setting_we_make(home):
    """A misspelt AIRFLOW__SECTION__KEY is ignored in silence."""
    from airflow.configuration import conf

    known = {
        f"AIRFLOW__{section}__{key}".upper() for section, options in conf.configuration_description.items() for key in options["options"]
    }
    manager = {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"}
    ours = {name for service in OURS.values() for name in service["environment"]} | set(native_environment(load_settings(), 18080, base={}))
    ours = {name for name in ours if name.startswith("AIRFLOW__")}
    assert len(ours) > 20
    assert ours - known <= manager


def test_composes_own_check_passes(tmp_path):
    """`config` reads, interpolates and validates the file; it needs no engine."""
    command = next(
        (
            command
            for command in (["docker", "compose"], ["docker-compose"])
            if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
        ),
        None,
    )
    if command is None:
        pytest.skip("neither `docker compose` nor `docker-compose` is installed")
    environment = {**os.environ, **dict.fromkeys(re.findall(r"\$\{(\w+):\?", TEXT), "x" * 32)}
    done = subprocess.run(
        [*command, "-f", str(PROJECT / "docker-compose.yaml"), "config"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr

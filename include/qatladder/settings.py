"""Where things are: the data folder, the vendor environment, the object store. Read from the environment once, here.

QATLADDER_HOME           data folder (evidence, trained zoo, work files); default: <project>/var
QATLADDER_ZOO            zoo folder; default: <project>/include/zoo
QATLADDER_FLEET          fleet file; default: <zoo>/fleet.yaml
QATLADDER_STORE          object store: a folder or s3://bucket/prefix; default: <home>/evidence
QATLADDER_S3_ENDPOINT    endpoint of an S3-compatible server, when the store is s3://
QATLADDER_S3_CONNECTION  Airflow connection with its credentials; default: boto3's usual chain (AWS_...)
QATLADDER_S3_ENCRYPTION  encryption the server applies: AES256 or aws:kms; default: the bucket's own
QATLADDER_S3_KMS_KEY     key for aws:kms; default: the account's
QATLADDER_CARRY_DAYS     a rung's unchanged answer is carried over for so many days before it is asked for anew; default: 30, 0: never
QATLADDER_VENDOR         0: do not use (or install) the proprietary vendor packages
QATLADDER_VENDOR_PYTHON  interpreter of the vendor environment; default: <project>/.venv-vendor/bin/python
QATLADDER_LEARN_NIGHTS   good nights that expectations are learnt from, newest first; default: 14; 0: none are learnt
QATLADDER_LEARN_MINIMUM  good nights below which nothing is learnt yet; default: 3
QATLADDER_ALERTS         comma-separated apprise URLs; default: what <zoo>/alerts.yaml says, or a file in <home>/alerts
QATLADDER_ANNOUNCEMENTS  where announcements of trained models are dropped: folders and s3://bucket/prefix, comma-separated, or `off`;
                         default: <home>/announcements
QATLADDER_MLFLOW         MLflow tracking server whose registry announces models: http(s)://host; default: none
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qatladder.errors import ConfigError

s3_connections: Callable[[str], dict[str, str | None]] | None = None
"""Looks up QATLADDER_S3_CONNECTION: fields of `evidence.store.S3Access`. `qatladder.airflow` sets it: only Airflow knows its connections."""

alert_connections: Callable[[str], list[str]] | None = None
"""Looks up the apprise URLs of an Airflow connection; set by `qatladder.airflow`, too."""

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Settings:
    """The resolved settings; see the module's docstring."""

    home: Path
    zoo: Path
    fleet: Path
    store: str
    s3_endpoint: str | None
    s3_connection: str | None
    s3_encryption: str | None
    s3_kms_key: str | None
    carry_days: float
    vendor: bool
    vendor_python: Path
    alerts: tuple[str, ...]
    announcements: tuple[str, ...] = ()
    mlflow: str | None = None
    learn_nights: int = 14
    learn_minimum: int = 3

    @property
    def work(self) -> Path:
        """Scratch files of running rungs; safe to delete when nothing runs."""
        return self.home / "work"

    @property
    def alert_routing(self) -> Path:
        """Who is told, where and when; may be missing."""
        return self.zoo / "alerts.yaml"

    @property
    def acknowledged(self) -> Path:
        """Regressions somebody answers for, until a date; may be missing."""
        return self.zoo / "acknowledged.yaml"


def _number(name: str, default: float) -> float:
    text = os.environ.get(name) or str(default)
    try:
        return float(text)
    except ValueError:
        raise ConfigError("not a number", setting=name, expected=f"a number such as {default:g}", found=text) from None


def load_settings() -> Settings:
    """Read the settings from the environment."""
    get = os.environ.get
    home = Path(get("QATLADDER_HOME") or PROJECT / "var").expanduser().resolve()
    zoo = Path(get("QATLADDER_ZOO") or PROJECT / "include" / "zoo").expanduser().resolve()
    return Settings(
        home=home,
        zoo=zoo,
        fleet=Path(get("QATLADDER_FLEET") or zoo / "fleet.yaml").expanduser().resolve(),
        store=get("QATLADDER_STORE") or str(home / "evidence"),
        s3_endpoint=get("QATLADDER_S3_ENDPOINT") or None,
        s3_connection=get("QATLADDER_S3_CONNECTION") or None,
        s3_encryption=get("QATLADDER_S3_ENCRYPTION") or None,
        s3_kms_key=get("QATLADDER_S3_KMS_KEY") or None,
        carry_days=_number("QATLADDER_CARRY_DAYS", 30.0),
        vendor=get("QATLADDER_VENDOR", "1") != "0",
        vendor_python=Path(get("QATLADDER_VENDOR_PYTHON") or PROJECT / ".venv-vendor" / "bin" / "python").expanduser(),
        alerts=_several(get("QATLADDER_ALERTS")),
        announcements=()
        if get("QATLADDER_ANNOUNCEMENTS") == "off"
        else _several(get("QATLADDER_ANNOUNCEMENTS") or str(home / "announcements")),
        mlflow=get("QATLADDER_MLFLOW") or None,
        learn_nights=_count("QATLADDER_LEARN_NIGHTS", 14, 0),
        learn_minimum=_count("QATLADDER_LEARN_MINIMUM", 3, 1),
    )


def _several(text: str | None) -> tuple[str, ...]:
    return tuple(item.strip() for item in (text or "").split(",") if item.strip())


def _count(name: str, default: int, least: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise ConfigError("a setting is no such number", setting=name, found=text, expected=f"a whole number, at least {least}")
    return int(text)

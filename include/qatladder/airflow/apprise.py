"""Addresses of alerts from an Airflow connection of type `apprise`, as the Apprise provider's connections have them.

extra.config    {"path": "lark://..."} or a list of such; each path is one apprise URL
"""

from __future__ import annotations

import json

from qatladder.errors import ConfigError


def alert_connection(name: str) -> list[str]:
    """The apprise URLs of the connection of that name; secrets.

    Raises:
        ConfigError: Airflow has none, or it holds no URL.
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowException

    try:
        extra = BaseHook.get_connection(name).extra_dejson
    except AirflowException as error:
        raise ConfigError(
            "Airflow has no such connection for alerts",
            "add it under Admin, Connections: type Apprise, the URL in its configuration",
            found=f"airflow:{name}",
        ) from error
    try:
        config = extra.get("config", [])
        config = json.loads(config) if isinstance(config, str) else config
        paths = [str(item["path"]) for item in ([config] if isinstance(config, dict) else config) if item["path"]]
    except (ValueError, TypeError, KeyError):
        paths = []
    if not paths:
        raise ConfigError(
            "the connection for alerts holds no address",
            "correct it under Admin, Connections",
            found=f"airflow:{name}",
            expected='extra {"config": [{"path": "lark://...", "tag": ""}]}',
        )
    return paths

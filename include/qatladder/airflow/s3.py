"""Credentials of the object store from an Airflow connection (QATLADDER_S3_CONNECTION), as the Amazon provider's connections have them.

login, password                     access key, secret key
extra.endpoint_url, region_name     of an S3-compatible server
extra.aws_session_token             of temporary credentials
"""

from __future__ import annotations

from qatladder.errors import ConfigError


def s3_connection(name: str) -> dict[str, str | None]:
    """The connection of that name, as the fields of `qatladder.evidence.store.S3Access`.

    Raises:
        ConfigError: Airflow has none, or it holds no keys.
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowException

    try:
        found = BaseHook.get_connection(name)
    except AirflowException as error:
        raise ConfigError(
            "Airflow has no such connection for the object store",
            found=f"QATLADDER_S3_CONNECTION={name}",
            next_step="add it under Admin, Connections: login is the access key, password the secret key, endpoint_url in the extra",
        ) from error
    extra = found.extra_dejson
    if not (found.login and found.password):
        raise ConfigError(
            "the connection of the object store holds no keys",
            found=name,
            expected="login: access key, password: secret key",
            next_step="correct it under Admin, Connections; for keys from the environment or an instance role leave QATLADDER_S3_CONNECTION empty",
        )
    return {
        "endpoint": extra.get("endpoint_url"),
        "region": extra.get("region_name"),
        "key": found.login,
        "secret": found.password,
        "token": extra.get("aws_session_token"),
    }

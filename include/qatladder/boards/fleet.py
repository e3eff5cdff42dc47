"""Which boards are there, how are they reached, and which of them can run a march?

The fleet is one YAML file, `include/zoo/fleet.yaml` by default:

    boards:
      - name: bench-x5-1
        march: bayes-e
        dialect: x5
        host: 192.0.2.10
        user: root
        key_file: $QATLADDER_HOME/keys/bench
        known_hosts: $QATLADDER_HOME/keys/known_hosts
        tags: [lab]
    quarantine_after: 3
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from qatladder.errors import ConfigError
from qatladder.settings import load_settings
from qatladder.zoo.schema import March, Name, Strict

ABSOLUTE = re.compile(r"^/[\w./-]+$")
BoardPath = Annotated[str, Field(pattern=ABSOLUTE.pattern)]


def _expand(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    path = Path(value.replace("$QATLADDER_HOME", str(load_settings().home))).expanduser()
    if "$" in str(path):
        raise ValueError(f"only $QATLADDER_HOME is expanded, found {value!r}")
    if not path.is_absolute():
        raise ValueError(f"must be an absolute path or start with $QATLADDER_HOME, found {value!r}")
    return path


HomePath = Annotated[Path, BeforeValidator(_expand)]
"""An absolute path on this side; `$QATLADDER_HOME` at its start is the product's data folder."""


class Jump(Strict):
    """The host behind which a board is. Its host key is checked like a board's."""

    host: str = Field("", description="Empty when conn_id says it.")
    port: int = Field(22, ge=1, le=65535)
    user: str = Field("root", min_length=1)
    key_file: HomePath | None = Field(None, description="Private key; the only way to log in.")
    known_hosts: HomePath | None = Field(None, description="OpenSSH known_hosts file that holds the jump host's key.")
    conn_id: str | None = Field(None, description="Airflow connection that says all of this instead.")

    @model_validator(mode="after")
    def _consistent(self) -> Jump:
        if not self.conn_id and not (self.host and self.key_file and self.known_hosts):
            raise ValueError("a jump host needs host, key_file and known_hosts, or a conn_id that names an Airflow connection")
        return self


class BoardSpec(Strict):
    """One board of the fleet: a resource, not a connection. Secrets are in key files and Airflow's connections, never here."""

    name: Name
    march: March = Field(description="What its BPU executes; a model of another march is never sent to it.")
    dialect: Literal["x3", "j5", "x5", "j6", "s100"] = Field("x5", description="Flavour of hrt_model_exec; see qatladder.boards.dialects.")
    host: str = Field(min_length=1)
    port: int = Field(22, ge=0, le=65535, description="0 is for a virtual board only: the port its running server wrote down.")
    user: str = Field("root", min_length=1)
    key_file: HomePath | None = Field(None, description="Private key; the only way to log in.")
    known_hosts: HomePath | None = Field(None, description="OpenSSH known_hosts file that holds the board's host key.")
    conn_id: str | None = Field(
        None, description="Airflow connection that overrides host, port, user and key (resolved by the Airflow layer)."
    )
    workdir: BoardPath = Field("/userdata/qatladder", description="Folder on the board for the transfer cache and job folders.")
    cache_mb: float = Field(
        2048, ge=64, description="Quota of the transfer cache below workdir, 10**6 bytes; the least recently used go first."
    )
    tool: str = Field("hrt_model_exec", pattern=r"^[\w./-]+$", description="hrt_model_exec, or its absolute path on the board.")
    jump: Jump | None = Field(None, description="Host to go through.")
    cores: int = Field(1, ge=1, le=8, description="BPU cores of the chip.")
    slots: int = Field(1, ge=1, le=8, description="Ladders on it at once: slots of its Airflow pool. The BPU itself is always used by one.")
    power_cycle: tuple[str, ...] = Field(
        (), description="Command and arguments that switch the board's power off and on. Runs on this side, without a shell."
    )
    tags: tuple[str, ...] = ()
    virtual: bool = Field(False, description="Served by qatladder.boards.virtual over the vendor's simulator.")

    @model_validator(mode="after")
    def _consistent(self) -> BoardSpec:
        if self.virtual and not is_loopback(self.host):
            raise ValueError(f"host {self.host}: a virtual board is served on a loopback address only")
        if not self.port and not self.virtual:
            raise ValueError("port 0 is for a virtual board only")
        if not self.virtual and not self.conn_id and not (self.key_file and self.known_hosts):
            raise ValueError("key_file and known_hosts are required, unless conn_id names an Airflow connection")
        if self.virtual and self.jump:
            raise ValueError("a virtual board is on this machine: it has no jump host")
        return self

    @property
    def folder(self) -> Path:
        """Data folder of a virtual board: keys, known_hosts, pid and port of its server, its file tree."""
        return load_settings().home / "boards" / self.name

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) to connect to; a virtual board's running server says its port itself."""
        if self.virtual:
            try:
                return self.host, int((self.folder / "port").read_text())
            except (OSError, ValueError):
                return self.host, self.port
        return self.host, self.port

    @property
    def private_key(self) -> Path | None:
        return self.key_file or (self.folder / "client_key" if self.virtual else None)

    @property
    def host_keys(self) -> Path | None:
        return self.known_hosts or (self.folder / "known_hosts" if self.virtual else None)


class Fleet(Strict):
    """All boards, in the order of the file."""

    boards: tuple[BoardSpec, ...] = Field(min_length=1)
    quarantine_after: int = Field(
        3, ge=1, description="Infrastructure failures, less the ladders answered since, after which a board is out of service."
    )
    power_cycle_after: int | None = Field(
        None,
        ge=1,
        description="Failures in a row after which the health run power-cycles an unreachable board, once; empty: never by itself.",
    )
    golden: dict[March, HomePath] = Field(
        default_factory=dict, description="Folder of a golden model of one's own, by march; see qatladder.boards.golden."
    )

    @model_validator(mode="after")
    def _unique(self) -> Fleet:
        names = [board.name for board in self.boards]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"board names must be unique, found twice: {', '.join(twice)}")
        return self

    def board(self, name: str) -> BoardSpec:
        """The board of that name.

        Raises:
            ConfigError: no such board.
        """
        for board in self.boards:
            if board.name == name:
                return board
        raise ConfigError(
            f"the fleet has no board named {name!r}",
            found=", ".join(board.name for board in self.boards),
            next_step="fix the board's name in the target, or add the board to the fleet file",
        )

    def boards_for(self, march: str, names: Sequence[str] = ()) -> tuple[BoardSpec, ...]:
        """The boards that can run `march`: those in `names`, in that order, or every one when `names` is empty.

        Raises:
            ConfigError: a named board does not exist or has another march, or no board has it.
        """
        if not names:
            found = tuple(board for board in self.boards if board.march == march)
            if not found:
                marches = ", ".join(sorted({board.march for board in self.boards}))
                raise ConfigError(
                    "no board of the fleet has this march", expected=march, found=marches, next_step="add a board to the fleet file"
                )
            return found
        found = tuple(self.board(name) for name in names)
        for board in found:
            if board.march != march:
                raise ConfigError(
                    "the target names a board of another march",
                    board=board.name,
                    expected=march,
                    found=board.march,
                    next_step="fix `boards` or `march` of the target",
                )
        return found


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_fleet(path: Path | None = None) -> Fleet:
    """Read the fleet file (default: the one of the settings).

    Raises:
        ConfigError: missing file, no YAML, or a field that is wrong; names file and field.
    """
    path = path or load_settings().fleet
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError("the fleet file cannot be read", file=path, found=error.strerror, next_step="set QATLADDER_FLEET") from error
    except yaml.YAMLError as error:
        raise ConfigError("the fleet file is not YAML", file=path, found=" ".join(str(error).split())) from error
    try:
        return Fleet.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            "the fleet file is wrong",
            file=path,
            field=_field(first["loc"], data) or "(whole file)",
            found=first["msg"].removeprefix("Value error, "),
            next_step="fix the field; every field is documented in qatladder.boards.fleet.BoardSpec",
        ) from error


def _field(location: tuple[int | str, ...], data: Any) -> str:
    """`boards[bench-x5-1].port`: the board's name says more than its index."""
    text = ""
    for part in location:
        if isinstance(part, int):
            try:
                text += f"[{data['boards'][part]['name']}]"
            except (KeyError, TypeError, IndexError):
                text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text

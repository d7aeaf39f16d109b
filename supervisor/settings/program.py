"""The settings of the program, and where each comes from: a flag, the environment, a TOML file or its default.

Durations are in seconds (`_s`), sizes in bytes (`_bytes`). Secrets and kinds have no flag: every user of the machine
can read argv.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from supervisor.core import errors
from supervisor.core.defaults import DATA_DIR, PREFIX
from supervisor.settings import kinds as kinds_of_bots
from supervisor.settings import references
from supervisor.settings.kinds import COUNTER, Kind, KindName
from supervisor.settings.references import AbsolutePath, Found, Token
from supervisor.settings.webhooks import Webhook

_OF_CLIENTS = (f"{PREFIX}URL", f"{PREFIX}TOKEN")
"""Variables of the clients. They can be set in a shell that starts the supervisor."""

_SECRET = tuple(f"{PREFIX}{name}" for name in ("ADMIN_TOKEN", "READ_TOKEN", "TOKEN", "REDIS_URL"))
"""Variables that bots do not inherit."""


def _split(value: Any) -> Any:
    """Read text as a list with commas, the form of flags and of the environment. A flag may be repeated."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return value
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


class Flags(BaseModel):
    """The settings that may stand in argv. The environment has them as BOT_SUPERVISOR_<NAME>.

    A description is the help of its flag: a noun phrase, with the unit, and what holds where it is unset.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: AbsolutePath | None = Field(default=None, description="TOML file with these settings and more")
    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0: a free one")
    uds: AbsolutePath | None = Field(
        default=None, description="unix socket to listen on, instead of host and port; only its owner can open it"
    )
    data_dir: AbsolutePath = Field(
        default=DATA_DIR, validate_default=True, description="directory of ledger and logs; one supervisor each"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="log verbosity")
    log_limit_bytes: int = Field(default=10 * 2**20, ge=4096, description="maximum size of each bot's log")
    keep_runs_days: float | None = Field(
        default=None, gt=0, le=36_500, allow_inf_nan=False, description="days to keep ended runs; unset: for ever"
    )
    keep_runs: int | None = Field(default=None, ge=1, description="number of runs to keep of each bot; unset: all")
    grace_s: float = Field(
        default=10.0, ge=0, le=86_400, allow_inf_nan=False, description="seconds between SIGTERM and SIGKILL"
    )
    start_timeout_s: float = Field(
        default=30.0, gt=0, le=86_400, allow_inf_nan=False, description="seconds for a bot to become ready"
    )
    shutdown_s: float = Field(
        default=5.0, ge=0, le=5, allow_inf_nan=False, description="maximum grace when the supervisor itself is stopped"
    )
    starts_at_once: int | None = Field(
        default=None, ge=1, description="maximum number of bots that start at the same time; unset: no limit"
    )
    starts_per_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="maximum number of starts in a second; unset: no limit"
    )
    zygote_idle_s: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="seconds until the zygote of a kind without bots is retired; unset: never",
    )
    without_supervisor_s: float | None = Field(
        default=None,
        ge=1,
        le=30 * 86_400,
        allow_inf_nan=False,
        description="seconds until bots without a supervisor are stopped; unset: they keep running",
    )
    max_connections: int = Field(
        default=512, ge=4, le=100_000, description="maximum number of open connections, idle ones included"
    )
    max_streams: int = Field(
        default=100, ge=0, le=100_000, description="maximum number of open feeds of events and logs"
    )
    metrics_per_bot: bool = Field(default=True, description="the series of each bot in /metrics")
    allowed_hosts: Annotated[list[str], pydantic.BeforeValidator(_split)] = Field(
        default=[], description="further host names by which clients may call this server, with commas"
    )
    token_file: AbsolutePath | None = Field(
        default=None, description="file of mode 0600 with tokens, made by bot-supervisor token"
    )
    trusted_network: bool = Field(
        default=False, description="listen beyond loopback without a token, and trust everyone who can connect"
    )


class Settings(Flags):
    """All settings. Made by `read`."""

    admin_token: Token | None = None
    read_token: Token | None = None
    redis_url: Found | None = None
    redis_stream: str = Field(default="bot-supervisor:events", min_length=1, max_length=500)
    webhooks: tuple[Webhook, ...] = Field(default=(), max_length=20)
    recovered_after_s: float = Field(default=10.0, ge=0, le=86_400, allow_inf_nan=False)
    kinds: dict[KindName, Kind] = Field(default={}, validate_default=True)

    @pydantic.field_validator("redis_url")
    @classmethod
    def _of_redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("this is no URL that begins with redis://, rediss:// or unix://")
        return url

    @pydantic.field_validator("kinds", mode="before")
    @classmethod
    def _inherit(cls, kinds: Any, info: pydantic.ValidationInfo) -> Any:
        """Kinds take the general grace and start timeout unless they have their own; `counter` is always there."""
        if not isinstance(kinds, Mapping):
            return kinds
        general = {name: info.data[name] for name in ("grace_s", "start_timeout_s") if name in info.data}
        kinds = kinds_of_bots.over({"counter": COUNTER.model_dump(include={"target", "description"})}, kinds)
        return {name: {**general, **kind} if isinstance(kind, Mapping) else kind for name, kind in kinds.items()}

    @pydantic.model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.read_token is not None and self.admin_token is None:
            raise ValueError("there is a read token but no admin token: nobody could start or stop a bot")
        if self.admin_token is not None and self.admin_token == self.read_token:
            raise ValueError("the admin token and the read token must differ")
        is_private = self.uds is not None or is_loopback(self.host)
        if self.admin_token is None and not self.trusted_network and not is_private:
            raise ValueError(
                f"cannot listen on {self.host}, beyond loopback, without a token: make a file of tokens with"
                " bot-supervisor token, and name it with --token-file (or say --trusted-network, if all who can"
                " connect may start and stop bots)"
            )
        return self


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address. Any name except localhost counts as wide."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read(flags: Mapping[str, Any], before: Settings | None = None) -> Settings:
    """Return the settings of this program. The secrets leave the environment, which children inherit.

    Args:
        flags: the settings given in argv, by name.
        before: the settings in use, when file and entry points are read again; the tokens stay those.

    Raises:
        errors.SettingsRefused: one line that names the flag, variable or file and key, and what is wrong.
    """
    env = _environment()
    given = {**env, **flags}
    config = _path(given.get("config"))
    table = references.table(config) if config else {}
    for key in table:
        if key not in Settings.model_fields or key in ("config", "admin_token", "read_token"):
            raise errors.SettingsRefused(f"{config}: {key}: there is no such setting (tokens have a file of their own)")
    token_file = _path({**table, **given}.get("token_file"))
    tokens: dict[str, Any] = {}
    if before is not None:
        tokens = {"admin_token": before.admin_token, "read_token": before.read_token}
    elif token_file:
        tokens = references.tokens(token_file)
    values = {**table, **tokens, **given}
    values["kinds"] = kinds_of_bots.over(kinds_of_bots.installed(), values.get("kinds", {}))
    try:
        return Settings(**values)
    except pydantic.ValidationError as invalid:
        first = invalid.errors(include_input=False, include_url=False)[0]
    what = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    if not first["loc"]:
        raise errors.SettingsRefused(what)
    name, *inner = map(str, first["loc"])
    source = f"{config}: {name}"
    if name in flags:
        source = f"--{name.replace('_', '-')}"
    elif name in env:
        source = PREFIX + name.upper()
    elif name in tokens:
        source = str(token_file)
    raise errors.SettingsRefused(f"{'.'.join([source, *inner])}: {what}")


def _environment() -> dict[str, Any]:
    """Return the settings that the environment has, by name. An empty variable counts as unset."""
    # Webhooks are for the file alone: bots inherit the environment.
    known = Settings.model_fields.keys() - {"webhooks"}
    found: dict[str, Any] = {}
    for variable, value in os.environ.items():
        name = variable[len(PREFIX) :].lower()
        if not variable.upper().startswith(PREFIX) or variable.upper() in _OF_CLIENTS:
            continue
        if name not in known:
            raise errors.SettingsRefused(f"{variable}: there is no such setting")
        if value:
            found[name] = _kinds_of(variable, value) if name == "kinds" else value
    for variable in list(os.environ):
        if variable.upper() in _SECRET:
            del os.environ[variable]
    return found


def _kinds_of(variable: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.SettingsRefused(f"{variable}: is not JSON: {error}") from None


def _path(value: Any) -> Path | None:
    return references.absolute(Path(value)) if isinstance(value, str) and value else None

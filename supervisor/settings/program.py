"""What can be set, and where each value came from: flags, then the environment, then a TOML file, then defaults.

Durations are seconds (`_s`), sizes bytes (`_bytes`). Secrets and kinds have no flag: what stands in argv is shown to
every user of the machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import pydantic_settings
from pydantic import Field, SecretStr

from supervisor.core import errors
from supervisor.core.defaults import DATA_DIR, PREFIX
from supervisor.settings import kinds as kind_settings
from supervisor.settings import references
from supervisor.settings.kinds import Kind, KindName
from supervisor.settings.references import AbsolutePath, Found
from supervisor.settings.webhooks import Webhook

_OF_CLIENTS = (f"{PREFIX}URL", f"{PREFIX}TOKEN")
"""Where and as whom clients call. They can be set in a shell that the supervisor is started from."""

_SECRET = tuple(f"{PREFIX}{name}" for name in ("ADMIN_TOKEN", "READ_TOKEN", "TOKEN", "REDIS_URL"))
"""What bots do not inherit."""


def _split(value: Any) -> Any:
    """One string is a list with commas: so it is written in flags and in the environment."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class Flags(pydantic_settings.BaseSettings):
    """The settings that may stand in argv. Each can also come from the environment, as BOT_SUPERVISOR_<NAME>."""

    model_config = pydantic_settings.SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    config: AbsolutePath | None = Field(default=None, description="a TOML file: these settings, and more")
    host: str = Field(default="127.0.0.1", min_length=1, description="the address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="the port to listen on; 0: a free one")
    uds: AbsolutePath | None = Field(
        default=None, description="a unix socket to listen on, instead of host and port; only you can open it"
    )
    data_dir: AbsolutePath = Field(
        default=DATA_DIR, validate_default=True, description="where ledger and logs are kept; one supervisor each"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="how much the program says"
    )
    log_limit_bytes: int = Field(default=10 * 2**20, ge=4096, description="the most that is kept of a bot's output")
    keep_runs_days: float | None = Field(
        default=None, gt=0, le=36_500, allow_inf_nan=False, description="delete runs that ended so long ago"
    )
    keep_runs: int | None = Field(default=None, ge=1, description="the most runs that are kept of each bot")
    grace_s: float = Field(
        default=10.0, ge=0, le=86_400, allow_inf_nan=False, description="seconds between SIGTERM and SIGKILL"
    )
    start_timeout_s: float = Field(
        default=30.0, gt=0, le=86_400, allow_inf_nan=False, description="seconds a bot has to become ready"
    )
    shutdown_s: float = Field(
        default=5.0,
        ge=0,
        le=5,
        allow_inf_nan=False,
        description="the longest grace when the supervisor itself is stopped",
    )
    starts_at_once: int | None = Field(default=None, ge=1, description="the most bots that start at the same time")
    starts_per_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="the most starts in a second"
    )
    zygote_idle_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="retire the zygote of a kind without bots after so long"
    )
    without_supervisor_s: float | None = Field(
        default=None,
        ge=1,
        le=30 * 86_400,
        allow_inf_nan=False,
        description="end the bots when no supervisor has come for so long",
    )
    max_connections: int = Field(default=512, ge=4, le=100_000, description="open connections, idle ones included")
    max_streams: int = Field(default=100, ge=0, le=100_000, description="open feeds of events and logs")
    metrics_per_bot: bool = Field(default=True, description="whether /metrics has CPU and memory of each bot")
    allowed_hosts: Annotated[list[str], pydantic_settings.NoDecode, pydantic.BeforeValidator(_split)] = Field(
        default=[], description="further names by which clients may call this server, with commas"
    )
    token_file: AbsolutePath | None = Field(
        default=None, description="a file of mode 0600 with tokens, as bot-supervisor token makes it"
    )
    trusted_network: bool = Field(
        default=False, description="listen beyond loopback without a token: whoever can connect is trusted"
    )


class Settings(Flags):
    """All that can be set. Made by `read`."""

    admin_token: SecretStr | None = None
    read_token: SecretStr | None = None
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

    @pydantic.field_validator("admin_token", "read_token")
    @classmethod
    def _sendable(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not (token.get_secret_value().isascii() and token.get_secret_value().isprintable()):
            raise ValueError("a token is made of visible ASCII characters")
        if token is not None and (not token.get_secret_value() or " " in token.get_secret_value()):
            raise ValueError("a token is neither empty nor has it spaces")
        return token

    @pydantic.field_validator("kinds", mode="before")
    @classmethod
    def _inherit(cls, given: Any, info: pydantic.ValidationInfo) -> Any:
        """Kinds take the general grace and start timeout unless they have their own; `counter` is always there."""
        if not isinstance(given, Mapping):
            return given
        general = {name: info.data[name] for name in ("grace_s", "start_timeout_s") if name in info.data}
        all_ = kind_settings.over(
            {"counter": kind_settings.COUNTER.model_dump(include={"target", "description"})}, given
        )
        return {name: {**general, **kind} if isinstance(kind, Mapping) else kind for name, kind in all_.items()}

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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[pydantic_settings.BaseSettings],
        init_settings: pydantic_settings.PydanticBaseSettingsSource,
        env_settings: pydantic_settings.PydanticBaseSettingsSource,
        dotenv_settings: pydantic_settings.PydanticBaseSettingsSource,
        file_secret_settings: pydantic_settings.PydanticBaseSettingsSource,
    ) -> tuple[pydantic_settings.PydanticBaseSettingsSource, ...]:
        """None but what is passed in: `read` has put the sources in their order, and can name each."""
        return (init_settings,)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address. A name other than localhost counts as wide."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read(flags: Mapping[str, Any], before: Settings | None = None) -> Settings:
    """The settings of this program. The secrets are taken out of the environment, which children inherit.

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
    values["kinds"] = kind_settings.over(kind_settings.installed(), values.get("kinds", {}))
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
    # Webhooks are for the file alone: what stands in the environment, every bot inherits.
    there = Settings.model_fields.keys() - {"webhooks"}
    for name in os.environ:
        if name.upper() in _OF_CLIENTS or not name.upper().startswith(PREFIX):
            continue
        if name[len(PREFIX) :].lower() not in there:
            raise errors.SettingsRefused(f"{name}: there is no such setting")
    try:
        env = pydantic_settings.EnvSettingsSource(Settings)()
    except pydantic_settings.SettingsError as error:
        raise errors.SettingsRefused(f"{PREFIX}*: {error}: it must be JSON") from None
    for name in list(os.environ):
        if name.upper() in _SECRET:
            del os.environ[name]
    return env


def _path(value: Any) -> Path | None:
    return references.absolute(Path(value)) if isinstance(value, str) and value else None

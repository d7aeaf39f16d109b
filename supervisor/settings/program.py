"""What can be set, and where each value came from: flags, then the environment, then a TOML file, then defaults.

Durations are seconds (`_s`), sizes bytes (`_bytes`). Secrets and kinds have no flag: what stands in argv is shown to
every user of the machine.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import logging
import os
import stat
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pydantic
import pydantic_settings
from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, SecretStr, Strict

from supervisor.core import errors, model
from supervisor.core.terms import Terms
from supervisor.settings.webhooks import Found, Webhook

PREFIX = "BOT_SUPERVISOR_"

_OF_CLIENTS = (f"{PREFIX}URL", f"{PREFIX}TOKEN")
"""Where and as whom clients call. They can be set in a shell that the supervisor is started from."""

_SECRET = tuple(f"{PREFIX}{name}" for name in ("ADMIN_TOKEN", "READ_TOKEN", "TOKEN", "REDIS_URL"))
"""What bots do not inherit."""

ENTRY_POINTS = "bot_supervisor.kinds"
"""The group of entry points by which installed distributions bring kinds."""


log = logging.getLogger(__name__)

Seconds = Annotated[float, Strict(), Field(ge=0, le=86_400, allow_inf_nan=False)]
"""A duration as JSON and TOML have it: a number, never a string."""


class Restart(BaseModel):
    """When, how soon and how often a bot is started again by itself. What is left out keeps its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: model.Policy = model.Policy.ON_FAILURE
    delay_s: Seconds = Field(default=0.5, description="the wait before the first restart")
    factor: Annotated[float, Strict(), Field(ge=1, le=1000, allow_inf_nan=False)] = Field(
        default=2.0, description="by which each further wait grows"
    )
    max_delay_s: Seconds = Field(default=30.0, description="the longest wait")
    jitter: Annotated[float, Strict(), Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        default=0.1, description="the share by which a wait is varied at random"
    )
    max_restarts: Annotated[int, Strict(), Field(ge=0, le=1_000_000)] = Field(
        default=5, description="more than these within the window: failed"
    )
    within_s: Seconds = Field(default=60.0, description="the window")
    retry_after_s: Seconds | None = Field(default=None, description="how long after it failed a bot is tried again")

    def over(self, default: model.RestartPolicy) -> model.RestartPolicy:
        """The default, changed by what was given here."""
        return dataclasses.replace(default, **self.model_dump(exclude_unset=True))


Whole = Annotated[int, Strict()]
Bytes = Annotated[Whole, Field(ge=1, le=2**53)]


class Limits(BaseModel):
    """What a bot's process may use. What is left out keeps its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_bytes: Bytes | None = Field(default=None, description="memory of the bot with all that it starts")
    pids: Annotated[Whole, Field(ge=1, le=2**22)] | None = Field(default=None, description="processes and threads")
    cpu: Annotated[float, Strict(), Field(gt=0, le=4096, allow_inf_nan=False)] | None = Field(
        default=None, description="processors; 0.5 is half of one"
    )
    address_space_bytes: Bytes | None = Field(default=None, description="address space of each process")
    cpu_s: Annotated[Whole, Field(ge=1, le=2**31)] | None = Field(
        default=None, description="seconds of CPU time that each process may use"
    )
    open_files: Annotated[Whole, Field(ge=16, le=2**20)] | None = Field(
        default=None, description="open files of each process"
    )
    core: Annotated[bool, Strict()] = Field(default=False, description="whether a crash may leave a core file")
    nice: Annotated[Whole, Field(ge=-20, le=19)] | None = Field(default=None, description="19 is the most modest")
    cpu_affinity: tuple[Annotated[Whole, Field(ge=0, le=4095)], ...] | None = Field(
        default=None, min_length=1, description="the numbers of the processors that it may use"
    )
    oom_score_adj: Annotated[Whole, Field(ge=-1000, le=1000)] | None = Field(
        default=None, description="1000: the first to go when memory runs out"
    )

    def over(self, default: model.Limits) -> model.Limits:
        """The default, changed by what was given here."""
        return dataclasses.replace(default, **self.model_dump(exclude_unset=True))


class Schedule(BaseModel):
    """When a bot that runs and ends is started."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cron: str = Field(max_length=200, description="minute, hour, day of the month, month, day of the week")
    timezone: str = Field(default="UTC", max_length=100, description="an IANA name, such as Europe/Berlin")
    overlap: model.Overlap = Field(default=model.Overlap.SKIP, description="if the run before still goes on then")
    missed: model.Missed = Field(default=model.Missed.SKIP, description="if no supervisor ran then")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        """A string is a schedule with nothing but its times."""
        return {"cron": given} if isinstance(given, str) else given

    @pydantic.field_validator("cron")
    @classmethod
    def _valid(cls, cron: str) -> str:
        try:
            next(CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC)))
        except (CronSimError, StopIteration) as error:
            raise ValueError(f"this is no cron expression: {error or 'it has no time'}") from None
        return cron

    @pydantic.field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("there is no such time zone") from None
        return name

    @property
    def value(self) -> model.Schedule:
        return model.Schedule(**self.model_dump())


class Budget(BaseModel):
    """How often the bots that share a credential may be started."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str = Field(min_length=1, max_length=500)
    starts: Annotated[Whole, Field(ge=1, le=1_000_000)]
    per_s: Annotated[float, Strict(), Field(gt=0, le=366 * 86_400, allow_inf_nan=False)]

    @property
    def value(self) -> model.Budget:
        return model.Budget(**self.model_dump())


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


AbsolutePath = Annotated[Path, pydantic.AfterValidator(_absolute)]


class Kind(BaseModel):
    """A type of bot: the callable behind it, and what holds for its bots unless they say otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$", max_length=500)
    command: tuple[str, ...] | None = Field(default=None, min_length=1)
    params: Mapping[str, pydantic.JsonValue] = {}
    description: str = ""
    preload: tuple[str, ...] = ()
    path: tuple[AbsolutePath, ...] = ()
    env: Mapping[str, str] = {}
    cwd: AbsolutePath | None = None
    grace_s: Seconds = 10.0
    start_timeout_s: Seconds = 30.0
    restart: Restart = Restart()
    ready: Literal["start", "notify"] | Seconds = "start"
    heartbeat_s: Annotated[float, Strict(), Field(gt=0, le=86_400, allow_inf_nan=False)] | None = None
    limits: Limits = Limits()
    schedule: Schedule | None = None
    budget: Budget | None = None
    exclusive: str | None = Field(default=None, min_length=1, max_length=500)
    starts_at_once: Annotated[Whole, Field(ge=1)] | None = None
    starts_per_s: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] | None = None
    instances: Annotated[Whole, Field(ge=0, le=10_000)] = 0

    @pydantic.model_validator(mode="after")
    def _one_thing_to_run(self) -> Self:
        if (self.target is None) == (self.command is None):
            raise ValueError("a kind has either a target or a command")
        if self.params and self.command is None:
            raise ValueError("params are those of a command; a target has its own")
        return self

    # Each start of a bot asks for these.
    @functools.cached_property
    def restart_policy(self) -> model.RestartPolicy:
        """The policy of its bots, complete."""
        return self.restart.over(model.RestartPolicy())

    @functools.cached_property
    def default_limits(self) -> model.Limits:
        """The limits of its bots, complete."""
        return self.limits.over(model.Limits())

    @functools.cached_property
    def terms(self) -> Terms:
        """The terms of its bots, as far as they do not say otherwise."""
        return Terms(
            restart=self.restart_policy,
            grace_s=self.grace_s,
            limits=self.default_limits,
            schedule=self.schedule.value if self.schedule else None,
            start_timeout_s=self.start_timeout_s,
            ready=self.ready,
            heartbeat_s=self.heartbeat_s,
        )


GONE = Kind(target="no.longer:there", start_timeout_s=1.0)
"""Stands for a kind that the settings had once: its bots may still run."""

TERMS_OF_GONE = dataclasses.replace(GONE.terms, known=False)

COUNTER = Kind(target="botproc.counter:main", description="Prints a number, then one more each second.")

KindName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_KIND_NAME = pydantic.TypeAdapter(KindName)


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
        default=Path("data"), validate_default=True, description="where ledger and logs are kept; one supervisor each"
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
    def _inherit(cls, kinds: Any, info: pydantic.ValidationInfo) -> Any:
        """Kinds take the general grace and start timeout unless they have their own; `counter` is always there."""
        if not isinstance(kinds, Mapping):
            return kinds
        general = {name: info.data[name] for name in ("grace_s", "start_timeout_s") if name in info.data}
        kinds = _over({"counter": COUNTER.model_dump(include={"target", "description"})}, kinds)
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
    table = _table(config) if config else {}
    for key in table:
        if key not in Settings.model_fields or key in ("config", "admin_token", "read_token"):
            raise errors.SettingsRefused(f"{config}: {key}: there is no such setting (tokens have a file of their own)")
    token_file = _path({**table, **given}.get("token_file"))
    tokens: dict[str, Any] = {}
    if before is not None:
        tokens = {"admin_token": before.admin_token, "read_token": before.read_token}
    elif token_file:
        tokens = _tokens(token_file)
    values = {**table, **tokens, **given}
    values["kinds"] = _over(_installed(), values.get("kinds", {}))
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


def _over(brought: Mapping[str, Mapping[str, Any]], kinds: Any) -> Any:
    """The kinds of the settings over those that are there without any.

    One that says what to run is all that it says; another only changes settings of a kind that is there.
    """
    if not isinstance(kinds, Mapping):
        return kinds
    merged = dict(kinds)
    for name, kind in brought.items():
        own = kinds.get(name, {})
        if isinstance(own, Mapping) and not own.keys() & {"target", "command"}:
            merged[name] = {**kind, **own}
    return merged


def _installed() -> dict[str, dict[str, Any]]:
    """The kinds that installed distributions bring. What is wrong with one of them is told, and ends nothing."""
    # What was installed since the last look is not seen otherwise.
    importlib.invalidate_caches()
    kinds: dict[str, dict[str, Any]] = {}
    for distribution in importlib.metadata.distributions():
        try:
            entries = [entry for entry in distribution.entry_points if entry.group == ENTRY_POINTS]
        except (OSError, TypeError, ValueError) as error:
            log.warning("the entry points of a distribution cannot be read, and are left out: %s", error)
            continue
        for entry in entries:
            try:
                _KIND_NAME.validate_python(entry.name)
                Kind(target=entry.value)
            except pydantic.ValidationError as invalid:
                what = invalid.errors(include_input=False, include_url=False)[0]["msg"]
                log.warning("the entry point %r = %r brings no kind: %s", entry.name, entry.value, what)
                continue
            # The first on the path comes first, as it does for imports.
            first = kinds.setdefault(entry.name, {"target": entry.value})
            if first["target"] != entry.value:
                log.warning(
                    "the entry point %r = %r brings no kind: there is %r already",
                    entry.name, entry.value, first["target"],
                )  # fmt: skip
    return kinds


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
    return _absolute(Path(value)) if isinstance(value, str) and value else None


def _table(path: Path) -> dict[str, Any]:
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text)
    except OSError as error:
        raise errors.SettingsRefused(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        what = str(error).replace("at end of document", f"at its end, line {len(text.splitlines())}")
        raise errors.SettingsRefused(f"{path}: is not TOML: {what}") from None


def _tokens(path: Path) -> dict[str, str]:
    """The tokens of a file that nobody else can read."""
    table = _table(path)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise errors.SettingsRefused(f"{path}: others can read these tokens; mend it with: chmod 600 {path}")
    if not table or not table.keys() <= {"admin", "read"} or not all(isinstance(t, str) for t in table.values()):
        raise errors.SettingsRefused(f'{path}: must have the lines admin = "…" and, if wanted, read = "…", no others')
    return {f"{role}_token": token for role, token in table.items()}

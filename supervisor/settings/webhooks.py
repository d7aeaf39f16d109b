"""Webhooks as the settings have them: where notices go, which, and in what form."""

from __future__ import annotations

import base64
import binascii
import enum
from collections.abc import Mapping
from typing import Annotated, Self
from urllib.parse import urlsplit

import pydantic
from pydantic import BaseModel, ConfigDict, Field, SecretStr, Strict

from supervisor.settings.references import Found


class Topic(enum.StrEnum):
    """What a notice is about."""

    CRASHED = "crashed"
    FAILED = "failed"
    RECOVERED = "recovered"
    HEARTBEAT = "heartbeat"
    LOST = "lost"
    OOM = "oom"


class Format(enum.StrEnum):
    """Whose words the receiver understands."""

    JSON = "json"
    SLACK = "slack"
    DISCORD = "discord"
    TELEGRAM = "telegram"


_Seconds = Annotated[float, Strict(), Field(ge=0, le=86_400, allow_inf_nan=False)]


class Webhook(BaseModel):
    """A receiver of notices."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Found
    format: Format = Format.JSON
    on: frozenset[Topic] = Field(default=frozenset(Topic), min_length=1)
    secret: Found | None = None
    chat_id: Annotated[int, Strict()] | Annotated[str, Field(min_length=1, max_length=100)] | None = None
    kinds: frozenset[str] | None = Field(default=None, min_length=1)
    labels: Mapping[str, str] = {}
    group_s: _Seconds = 5.0
    again_s: _Seconds = 300.0

    @pydantic.field_validator("url")
    @classmethod
    def _reachable(cls, url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        try:
            parts = urlsplit(text)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("this is no URL that begins with http:// or https:// and has a host")
        return url

    @pydantic.field_validator("secret")
    @classmethod
    def _a_key(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and not _key(secret):
            raise ValueError("it is empty, or what follows whsec_ is not base64")
        return secret

    @pydantic.model_validator(mode="after")
    def _a_chat(self) -> Self:
        if (self.format is Format.TELEGRAM) != (self.chat_id is not None):
            raise ValueError("the format telegram, and no other, needs a chat_id")
        return self

    @property
    def host(self) -> str:
        """All that may be told of the URL."""
        return urlsplit(self.url.get_secret_value()).hostname or ""

    @property
    def key(self) -> bytes | None:
        """What notices are signed with."""
        return None if self.secret is None else _key(self.secret)


def _key(secret: SecretStr) -> bytes:
    """As Standard Webhooks has it: what follows `whsec_` is base64. Anything else stands for itself."""
    text = secret.get_secret_value()
    if not text.startswith("whsec_"):
        return text.encode()
    try:
        return base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        return b""

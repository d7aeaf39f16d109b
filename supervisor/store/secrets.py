"""Parameters that are secret: kept in files of their own, named in the ledger, shown to nobody.

What is stored is a reference, `secret:` with 32 hex digits, the name of a file in the data directory. The bot's process
alone reads it (`botproc.secrets`). References that a caller gives, `env:NAME` and `file:/path`, are stored as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from pathlib import Path

from botproc import wire
from supervisor.core import errors
from supervisor.core.model import Params

_UNSPEAKABLE = re.compile("[\ud800-\udfff]")
HIDDEN = "**********"


def shown(params: Params) -> Params:
    """The parameters as callers may see them."""
    for value in params.values():  # Not `any`: its generator costs the list of all bots a tenth of its time.
        if isinstance(value, str) and value.startswith("secret:"):
            return {name: HIDDEN if _key(value) else value for name, value in params.items()}
    return params


def _key(value: object) -> str | None:
    """The name of the file of a secret that is kept here."""
    reference = wire.REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return reference["key"] if reference else None


def files(remembered: Iterable[Params]) -> set[str]:
    """The names of the files that a data directory has for bots with these parameters."""
    return {"key", *(key for params in remembered for value in params.values() if (key := _key(value)))}


class Secrets:
    """The files of one data directory. The same secret has the same name, which says nothing of it to others: so what
    is exclusive, or has a budget, is so by secrets too."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError."""
        directory.mkdir(mode=0o700, exist_ok=True)
        self._directory = directory
        self._in_hand: Counter[str] = Counter()
        self._fresh: set[str] = set()
        self._sweeping = asyncio.Lock()
        key_file = directory / "key"
        if not key_file.exists():
            _write(key_file, secrets.token_bytes(32))
        self._name_key = key_file.read_bytes()

    @contextlib.contextmanager
    def kept(self, params: Params, names: Collection[str]) -> Iterator[Params]:
        """The parameters with a reference in the place of each secret, whose files stay at least until the end of the
        block: by then a bot has them, or nobody. Raises BadParams, Unavailable."""
        for name, value in params.items():
            if _key(value):
                raise _refused(name, "it names what the supervisor keeps; give the secret itself")
            if name in names and isinstance(value, str) and not value.isascii() and _UNSPEAKABLE.search(value):
                raise _refused(name, "it has characters that are no Unicode text")
        keys = {
            name: hmac.digest(self._name_key, value.encode(), hashlib.sha256).hex()[:32]
            for name, value in params.items()
            if name in names and isinstance(value, str) and not wire.REFERENCE.fullmatch(value)
        }
        self._in_hand.update(keys.values())
        self._fresh.update(keys.values())
        try:
            for name, key in keys.items():
                self._keep(key, params[name])
            yield {**params, **{name: f"secret:{key}" for name, key in keys.items()}}
        finally:
            self._in_hand.subtract(keys.values())

    def plain(self, params: Params, secret: Collection[str]) -> Params:
        """The parameters with the values that are kept here for those whose names are not among the secret ones.

        Raises Unavailable.
        """
        return {name: value if name in secret else self._value(name, value) for name, value in params.items()}

    def _value(self, name: str, value: object) -> object:
        key = _key(value)
        try:
            return value if key is None else (self._directory / key).read_bytes().decode()
        except OSError as error:
            raise errors.Unavailable(f"cannot read the parameter {name}: {error.strerror}") from None

    def digest(self, text: str) -> str:
        """A digest of what may have secrets in it. It says nothing of them to those who do not have our key."""
        return hmac.digest(self._name_key, b"digest\n" + text.encode(), hashlib.sha256).hex()

    def _keep(self, key: str, value: str) -> None:
        try:
            if not (self._directory / key).exists():
                _write(self._directory / key, value.encode())
        except OSError as error:
            raise errors.Unavailable(f"a secret cannot be stored now: {error.strerror}", retry_after_s=1) from None

    async def sweep(self, remembered: Callable[[], Awaitable[Iterable[Params]]]) -> None:
        """Deletes what no bot has any more. `remembered` reads the parameters of all bots; what is taken in hand
        meanwhile stays, since a bot that is made while they are read may not be among them."""
        async with self._sweeping:
            self._fresh = set(+self._in_hand)
            needed = files(await remembered()) | self._fresh
            for path in self._directory.iterdir():
                if path.name not in needed:
                    path.unlink()


def _refused(name: str, why: str) -> errors.BadParams:
    wrong = {"loc": ["body", "params", name], "msg": why, "type": "secret"}
    return errors.BadParams(f"{name}: {why}", errors=[wrong])


def has_secrets(params: Params) -> bool:
    """Whether a file of ours belongs to them."""
    return any(_key(value) for value in params.values())


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and for nobody else to read."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)
    draft.rename(path)

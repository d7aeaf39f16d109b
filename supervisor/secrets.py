"""Secret parameters: each value in a file of its own, and in its place a reference that only the bot's process follows.

What the ledger and the zygotes get to see is "secret:" with 32 hex digits, the name of the file. Callers may give
references too, `env:NAME` and `file:/absolute/path`: these say where a value is and not what it is, so they are stored
and shown as they are. `botproc.secrets` is the other side of this.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from supervisor import errors
from supervisor.model import Params

SHOWN = "**********"

_KEPT = re.compile(r"secret:([0-9a-f]{32})")
_ELSEWHERE = re.compile(r"env:[A-Za-z_]\w*|file:/.+", re.ASCII)


class Secrets:
    """The files of one directory, mode 0600 in 0700. The calls block, but not for longer than a small file's fsync."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)

    def keep(self, params: Params, secret: Collection[str]) -> Params:
        """The parameters as they may be stored: the values of those named in `secret` are in files from now on.

        Raises BadParams where a value refers to one of our files, since that could only be another bot's, and where a
        secret is no UTF-8. Raises Unavailable where a file cannot be written. Then nothing is kept.
        """
        literal: dict[str, bytes] = {}
        for name, value in params.items():
            if _key(value) is not None:
                raise _refused(name, "it refers to what the supervisor keeps; give the secret itself")
            if name in secret and isinstance(value, str) and not _ELSEWHERE.fullmatch(value):
                try:
                    literal[name] = value.encode()
                except UnicodeEncodeError:
                    raise _refused(name, "it has characters that are no Unicode text") from None
        if not literal:
            return params
        kept: dict[str, str] = {}
        try:
            for name, value in literal.items():
                key = os.urandom(16).hex()
                kept[name] = f"secret:{key}"
                self._write(key, value)
            self._sync()
        except OSError as error:
            self.forget(kept)
            raise errors.Unavailable(f"cannot keep the secret {name}: {error.strerror}") from None
        return {**params, **kept}

    def forget(self, params: Params) -> None:
        """Deletes what is kept for these parameters."""
        for key in _keys(params):
            (self._directory / key).unlink(missing_ok=True)

    def sweep(self, params_of_all: Iterable[Params]) -> None:
        """Deletes what no bot's parameters name: left by a supervisor that was killed between file and ledger."""
        named = {key for params in params_of_all for key in _keys(params)}
        for file in self._directory.iterdir():
            if file.name not in named:
                file.unlink()

    def _write(self, key: str, value: bytes) -> None:
        # Never through a link that somebody has put there, and never into a file that others have open.
        fd = os.open(self._directory / key, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(value)
            file.flush()
            os.fsync(fd)

    def _sync(self) -> None:
        """What the ledger will name is on disk with its name, whatever happens to the machine."""
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def shown(params: Params) -> Params:
    """The parameters as everybody may see them; the same object where nothing is to be hidden."""
    if next(_keys(params), None) is None:
        return params
    return {name: value if _key(value) is None else SHOWN for name, value in params.items()}


def _refused(name: str, message: str) -> errors.BadParams:
    problem = {"loc": ["body", "params", name], "msg": message, "type": "secret"}
    return errors.BadParams(f"{name}: {message}", errors=[problem])


def _keys(params: Params) -> Iterator[str]:
    for value in params.values():
        if (key := _key(value)) is not None:
            yield key


def _key(value: object) -> str | None:
    """The name of the file that a value refers to."""
    found = _KEPT.fullmatch(value) if isinstance(value, str) and value.startswith("secret:") else None
    return found[1] if found else None

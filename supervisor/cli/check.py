"""`bot-supervisor check`: looks at a data directory and says in a line each what is well and what is wrong.

It changes nothing. Wrong is what the next supervisor would refuse or could not put right by itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor import data_directory, logs
from supervisor.core import errors
from supervisor.core.model import Identity
from supervisor.engine import pidfd
from supervisor.engine.locks import Locks
from supervisor.store import inspection, secrets
from supervisor.store.inspection import Inspection


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line: of what, what there is to say, and whether something is to be done."""

    what: str
    told: str
    wrong: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {'wrong' if self.wrong else 'ok'}: {self.told}"


def check(data_dir: Path) -> int:
    """Print what is found; 0 when all is well, 1 when something is wrong."""
    found = list(_looked_at(data_dir))
    print(*found, sep="\n")
    return int(any(finding.wrong for finding in found))


def _looked_at(data_dir: Path) -> Iterator[Finding]:
    """All findings. What cannot be read ends them, and is one."""
    try:
        if not data_dir.is_dir():
            yield Finding(what="data", told=f"{data_dir} is no directory; name another by --data-dir", wrong=True)
            return
        pid = data_directory.holder(data_dir)
        told = "no supervisor works in it"
        if pid is not None:
            told = f"a supervisor (pid {pid}) works in it" if pid else "a supervisor works in it"
        yield Finding(what="data", told=f"{data_dir}; {told}")
        try:
            ledger = inspection.inspect(data_dir / "ledger.sqlite3")
        except errors.LedgerRefused as refused:
            yield Finding(what="ledger", told=refused.detail, wrong=True)
            return
        if ledger is None:
            yield Finding(what="ledger", told="there is none yet; the first start makes it")
            return
        yield from _of_ledger(ledger, data_dir)
        if pid is None:
            # A supervisor makes and deletes files while we would look.
            yield from _of_logs(ledger, data_dir)
            yield from _of_secrets(ledger, data_dir / "secrets")
            yield from _of_locks(ledger, data_dir)
            yield from _of_zygotes(data_dir / "run")
    except OSError as error:
        told = f"{error.filename or data_dir}: {error.strerror}; check as the user who runs the supervisor"
        yield Finding(what="data", told=told, wrong=True)


def _of_ledger(ledger: Inspection, data_dir: Path) -> Iterator[Finding]:
    size = _size(_those_in(data_dir, "ledger.sqlite3*"))
    pending = f", and the next start adds {', '.join(ledger.pending)}" if ledger.pending else ""
    told = f"{size}, whole; schema {ledger.schema}{pending}; its latest event is {ledger.latest_event}"
    yield Finding(what="ledger", told=told)
    states = [f"{number} {state}" for state, number in ledger.states.items()]
    yield Finding(what="bots", told=", ".join([*states, f"{len(ledger.forgotten)} forgotten"]))
    yield Finding(what="runs", told=f"{ledger.runs}, of which {len(ledger.open_runs)} open")


def _of_logs(ledger: Inspection, data_dir: Path) -> Iterator[Finding]:
    logs, kept = _those_in(data_dir / "logs", "*.log"), _those_in(data_dir / "bots", "*")
    left, strange = 0, []
    for path in (*logs, *kept):
        bot_id = int(path.stem) if path.stem.isascii() and path.stem.isdecimal() else None
        if bot_id in ledger.forgotten:
            left += 1
        elif bot_id not in ledger.remembered:
            strange.append(path)
    told = f"{len(logs)}, {_size(logs)}; data of {len(kept)} bots"
    yield Finding(what="logs", told=f"{told}; {left} of forgotten bots, which a supervisor deletes" if left else told)
    for path in strange:
        told = f"{path} is of no bot in this ledger; move it away, or bring back the ledger that it belongs to"
        yield Finding(what="logs", told=told, wrong=True)


def _of_secrets(ledger: Inspection, directory: Path) -> Iterator[Finding]:
    there = {path.name for path in _those_in(directory, "*")}
    named = secrets.files(ledger.with_secrets)
    yield Finding(
        what="secrets", told=_with_rest(len(named & there - {"key"}), len(there - named), "that no bot names")
    )
    for name in sorted(named - there - {"key"}):
        of = [params for params in ledger.with_secrets if name in secrets.files([params])]
        told = f"{directory / name} is missing, and {len(of)} bots name it; restore it, or make these bots anew"
        yield Finding(what="secrets", told=told, wrong=True)


def _of_locks(ledger: Inspection, data_dir: Path) -> Iterator[Finding]:
    locks = _those_in(data_dir / "run" / "locks", "*.lock")
    held = {path for path in locks if data_directory.is_locked(path)}
    runs = ledger.open_runs
    owned = {path for path in held if path.stem in map(str, runs)}
    told = f"{len(owned)} bots of {len(runs)} with an open run live" if runs else f"{len(locks)}, none held"
    if owned:
        told += "; the next supervisor takes them over"
    if copied := sum(_lives_elsewhere(bot_id, identity, data_dir) for bot_id, identity in runs.items()):
        told += (
            f"; {copied} live with another data directory, of which this is a copy: the next supervisor leaves them"
            " alone, and starts those that are to be up a second time"
        )
    yield Finding(what="locks", told=told)
    for path in sorted(held - owned):
        told = f'{path} is held, and its bot has no open run; see who does with "fuser -v {path}", and end that'
        yield Finding(what="locks", told=told, wrong=True)


def _lives_elsewhere(bot_id: int, identity: Identity | None, data_dir: Path) -> bool:
    """Whether the process of an open run lives, and is not a bot of this directory."""
    if identity is None or (fd := pidfd.open_process(identity)) is None:
        return False
    try:
        return pidfd.lives(fd) and not Locks(data_dir / "run" / "locks").is_of(
            identity.pid, bot_id, logs.log_path(data_dir / "logs", bot_id)
        )
    finally:
        os.close(fd)


def _of_zygotes(run_dir: Path) -> Iterator[Finding]:
    sockets = [path for path in _those_in(run_dir, "*.sock") if path.name != "notify.sock"]
    waiting = sum(map(_is_bound, sockets))
    yield Finding(what="zygotes", told=_with_rest(waiting, len(sockets) - waiting, "sockets without one"))


def _with_rest(number: int, rest: int, of_what: str) -> str:
    return f"{number}, and {rest} {of_what}, which the next start removes" if rest else str(number)


def _those_in(directory: Path, pattern: str) -> list[Path]:
    return sorted(directory.glob(pattern))


def _size(paths: Iterable[Path]) -> str:
    """What the files take of the disk: the logs have holes."""
    size = sum(path.stat().st_blocks * 512 for path in paths)
    return f"{size / 2**20:.1f} MiB"


def _is_bound(path: Path) -> bool:
    """Whether a process listens there. It does not hear of us: what we connect is a socket of another type."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as probe:
        try:
            # Through the descriptor, as a long path would not fit into a socket address.
            return probe.connect_ex(f"/proc/self/fd/{directory}/{path.name}") == errno.EPROTOTYPE
        finally:
            os.close(directory)

"""The seat of one kind: the zygote that makes its bots now, and those that made bots before.

A zygote takes the seat when it is made, found again, or imported anew. It leaves the seat when the kind has changed,
when it had no bot for a time, or when it dies. One that has bots stays until the last of them has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil

from botproc import wire
from supervisor import settings
from supervisor.background import Background
from supervisor.core import errors
from supervisor.engine.protocol import KindStatus
from supervisor.engine.zygote_client import Zygote

log = logging.getLogger(__name__)

_AGE_PER_MAKING = 10
"""A zygote that died is made again by itself once it is this many times as old as its making took: one that dies as
soon as it is warm must not keep a processor busy."""

Make = Callable[[str, settings.Kind, wire.Hello | None], Awaitable[Zygote]]
"""Makes a connected zygote of a kind. Raises SpawnFailed. The hello is that of one whose imports start threads: the new
one imports nothing, and each of its bots is a fresh interpreter."""


class Slot:
    """One kind, as long as it is in the settings or has a zygote."""

    def __init__(self, kind: str, make: Make, background: Background, idle_s: float | None, log_path: Path) -> None:
        """`idle_s`: how long a zygote without bots is kept, None: for ever; `log_path`: what its imports print."""
        self.kind = kind
        self._make_zygote = make
        self._background = background
        self._idle_s = idle_s
        self._log_path = log_path
        self._spec: settings.Kind | None = None
        self._current: Zygote | None = None
        self._retired: list[Zygote] = []
        self._making: asyncio.Task[Zygote | errors.SpawnFailed] | None = None
        self._known: wire.Hello | None = None
        """What was found in the kind when it was last imported; also while it has no zygote."""
        self._is_resting = False
        self._is_stale = False
        """The settings say something new, which has not been imported yet."""
        self._is_closing = False

    # ---- what is in it

    def __iter__(self) -> Iterator[Zygote]:
        """All its zygotes."""
        if self._current is not None:
            yield self._current
        yield from self._retired

    @property
    def is_needed(self) -> bool:
        return self._spec is not None or self._current is not None or bool(self._retired)

    @property
    def is_empty(self) -> bool:
        """Nothing makes bots of this kind now."""
        return self._current is None

    def status(self) -> KindStatus:
        """How warm the kind is; what its limits are worth is the engine's to say."""
        zygote, hello, rss = self._current, None, None
        reason = "no zygote yet"
        if self._is_resting:
            reason = f"retired: no bot for {self._idle_s:g} s; it returns on demand"
        if zygote is not None:
            hello, reason = _heard(zygote)
            try:
                rss = psutil.Process(zygote.pid).memory_info().rss
            except psutil.Error:
                zygote = None
        if hello is not None and (zygote is None or zygote.lost.is_set()):
            hello, reason = None, "its zygote has ended"
        known = hello or self._known
        return KindStatus(
            warm=hello is not None,
            reason=reason,
            description=known.description if known else "",
            params=known.params if known else None,
            schema=known.schema if known else None,
            start_method=known.start_method if known else "",
            limits_note="",
            pid=zygote.pid if zygote else None,
            import_s=hello.import_s if hello else None,
            rss_bytes=rss,
        )

    # ---- the settings

    def set_spec(self, spec: settings.Kind | None, *, is_same: bool) -> None:
        """From now on this is the kind, None: there is none. `is_same`: what was imported holds."""
        self._spec = spec
        if is_same:
            return
        self._known = None
        self._is_resting = False
        if self._making is not None:
            self._making.cancel()
        self._retire_current()
        self._is_stale = spec is not None

    def warm_up(self) -> None:
        """Make a zygote in the background. What goes wrong is logged, and told to whoever asks for the kind."""
        self._background.start(self._warm_up(0.0), name=f"warm up {self.kind}")

    async def _warm_up(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        try:
            await self.hello()
        except errors.SpawnFailed as error:
            log.warning("%s (see %s)", error.detail, self._log_path)

    # ---- the zygote that makes bots

    async def hello(self) -> wire.Hello:
        """Return what the kind's import has found, once a zygote is warm. Raises SpawnFailed, permanent or not."""
        while True:
            zygote = await self._zygote()
            hello = await asyncio.shield(zygote.hello)
            if hello.error:
                raise errors.SpawnFailed(_import_failed(self.kind, hello.error), permanent=True)
            if not _has_threads(hello):
                if self._known is not hello:
                    self._known = hello
                    self.rest_when_idle(zygote)
                self._is_stale = False
                return hello

    async def warm_zygote(self) -> Zygote:
        """The zygote that is to make a bot now. Raises SpawnFailed."""
        if self._is_stale or self._is_resting:
            # It was warm a moment ago; since then the settings were read again, or it had no bot for too long.
            await self.hello()
        if self._current is None:
            raise errors.SpawnFailed(f"the zygote of {self.kind} has ended")
        return self._current

    async def reload(self) -> None:
        """Import the kind again. Raises SpawnFailed; then the zygote that was there stays."""
        spec = self._spec
        zygote = await self._make(None)
        self._retired.append(zygote)
        try:
            hello = await asyncio.shield(zygote.hello)
            if hello.error:
                raise errors.SpawnFailed(_import_failed(self.kind, hello.error), permanent=True)
            if zygote.lost.is_set() or self._spec is not spec:
                raise errors.SpawnFailed(f"the zygote of {self.kind} has ended, or the kind has changed meanwhile")
        except (errors.SpawnFailed, asyncio.CancelledError):
            zygote.kill()
            raise
        self._retire_current()
        self._retired.remove(zygote)
        self._current = zygote
        # Of one whose imports start threads, what can make its bots.
        await self.hello()

    def take(self, zygote: Zygote, *, is_current: bool) -> None:
        """Take in a zygote of an earlier supervisor."""
        if is_current and self._current is None:
            self._current = zygote
        else:
            self._retired.append(zygote)
            zygote.quit()

    def drop(self, zygote: Zygote) -> None:
        """A zygote of an earlier supervisor is of no use after all."""
        if self._current is zygote:
            self._current = None

    def lost(self, zygote: Zygote) -> None:
        """A zygote has died. The one that makes bots gets a successor, unless it never was warm."""
        if zygote in self._retired:
            self._retired.remove(zygote)
        elif zygote is self._current and self._spec is not None and not self._is_closing:
            hello, _ = _heard(zygote)
            # Of one whose imports start threads, the successor is already being made.
            if hello is not None and not _has_threads(hello):
                after_s = _AGE_PER_MAKING * zygote.making_s - zygote.age_s
                self._background.start(self._warm_up(after_s), name=f"warm up {self.kind}")

    def rest_when_idle(self, zygote: Zygote) -> None:
        """Let a zygote leave that had no bot for a time. It returns on demand."""
        if self._idle_s is None or zygote.has_bots or self._is_closing:
            return

        def rest(forks: int) -> None:
            if zygote is self._current and zygote.forks == forks and not zygote.has_bots and not self._is_closing:
                self._is_resting = True
                self._retire_current()

        asyncio.get_running_loop().call_later(self._idle_s, rest, zygote.forks)

    def close(self) -> None:
        """Make no zygote any more. Those that are there are the engine's to dismiss."""
        self._is_closing = True
        if self._making is not None:
            self._making.cancel()

    async def _zygote(self) -> Zygote:
        """The one that has the seat, if it is alive and of use; else a new one."""
        zygote = self._current
        if zygote is not None and not zygote.lost.is_set():
            if not zygote.hello.done():
                if self._making is not None or self._spec is None or zygote.age_s < self._spec.start_timeout_s:
                    return zygote
                log.warning("the kind %s hangs in its import: SIGKILL for its zygote, pid %s", self.kind, zygote.pid)
                zygote.kill()
                zygote.lose()
            else:
                hello, _ = _heard(zygote)
                if hello is not None and not _has_threads(hello):
                    return zygote
        if self._making is None:
            self._making = self._background.start(self._replace(), name=f"make the zygote of {self.kind}")
        making = self._making
        try:
            made = await asyncio.shield(making)
        except asyncio.CancelledError:
            if not making.cancelled():
                raise
            raise errors.SpawnFailed(
                f"the zygote of {self.kind} is given up: the kind has changed, or the supervisor ends"
            ) from None
        if isinstance(made, errors.SpawnFailed):
            raise made
        return made

    async def _replace(self) -> Zygote | errors.SpawnFailed:
        """Put a new zygote in the seat. An error is for those who wait, not for the log of background tasks."""
        this = asyncio.current_task()
        try:
            described = None
            if self._current is not None:
                hello, _ = _heard(self._current)
                if hello is not None and _has_threads(hello):
                    described = hello
                    self._retire_current()
            self._current = await self._make(described)
            self._is_resting = False
            return self._current
        except errors.SpawnFailed as error:
            return error
        finally:
            if self._making is this:
                self._making = None

    async def _make(self, described: wire.Hello | None) -> Zygote:
        if self._spec is None:
            raise errors.SpawnFailed(f"there is no kind {self.kind!r} in the settings", permanent=True)
        if self._is_closing:
            # Nobody would end it.
            raise errors.SpawnFailed(f"there is no new zygote of {self.kind}: the supervisor ends")
        return await self._make_zygote(self.kind, self._spec, described)

    def _retire_current(self) -> None:
        """From now on it makes no bot; it leaves with the last that it has."""
        zygote, self._current = self._current, None
        if zygote is not None and not zygote.lost.is_set():
            self._retired.append(zygote)
            zygote.quit()


def _heard(zygote: Zygote) -> tuple[wire.Hello | None, str]:
    """What the zygote has imported, None if that failed or is not over; and how that stands, for people."""
    if not zygote.hello.done() or zygote.hello.cancelled():
        return None, "importing"
    if error := zygote.hello.exception():
        return None, str(error)
    hello = zygote.hello.result()
    if hello.error:
        return None, _import_failed(zygote.kind, hello.error)
    if hello.start_method == "spawn":
        return hello, "warm; its imports start threads, so each bot is a fresh interpreter"
    return hello, "warm"


def _has_threads(hello: wire.Hello) -> bool:
    """Its imports have started threads: a fork of it would have the locks of all, and one of them."""
    return hello.threads > 1 and hello.start_method == "fork"


def _import_failed(kind: str, error: str) -> str:
    """The last line of the traceback, which says what is wrong."""
    return f"cannot import the kind {kind}: {error.strip().splitlines()[-1]}"

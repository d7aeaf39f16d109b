"""The thread that puts on the console what the bots print, and keeps their logs bounded."""

from __future__ import annotations

import asyncio
import collections
import errno
import functools
import logging
import select
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.logs import bounded, inotify, text
from supervisor.logs.console import Console
from supervisor.logs.inbox import Inbox
from supervisor.logs.transcript import Transcript

logger = logging.getLogger(__name__)

_GATHER_S = 0.1
"""How long changes pile up before they are looked at: a hundred bots that print each second are ten passes."""
_GATHER_LEAST_S = 0.01
_BLIND_S = 1.0
"""How often all logs are looked at where the kernel cannot say which have changed."""
_READ_BYTES = 256 * 1024
"""How much of one log is printed within `_GATHER_S`."""
_FLOOD_BYTES = 64 * 1024
"""Who prints so much between two passes is not to pay for being announced."""
_SHARE = 0.05
"""The part of one core that printing may take, whatever the bots print."""
_BATCH_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Watcher:
    on_change: Callable[[], object]
    on_end: Callable[[int], object]


class Follower:
    """Follows the logs of all bots. Each line comes whole, in the order of its bot, with `bot-10 | ` before it.

    No bot waits for it, and it waits for no bot. Who prints more than the console takes, or more than a log may hold,
    has a part of that left out, and a line says how much. A log that cannot be read is reported once, and tried
    again when it changes.
    """

    def __init__(
        self,
        log_dir: Path,
        console: Console,
        *,
        limit_bytes: int = 10 * 1024 * 1024,
        printed: Mapping[int, int] | None = None,
    ) -> None:
        """Begins, in a thread. `limit_bytes`: what one log may take of the disk, more or less. `printed`: how far the
        logs are on the console already, as `close` of an earlier follower told it.

        Raises OSError when `log_dir` cannot be watched.
        """
        self._log_dir = log_dir
        self._console = console
        self._limit_bytes = limit_bytes
        self._printed = dict(printed or {})
        self._transcripts: dict[int, Transcript] = {}
        self._unread: collections.OrderedDict[int, Transcript] = collections.OrderedDict()
        self._left: set[int] = set()
        self._watchers: dict[int, list[_Watcher]] = {}
        self._failed: set[int] = set()
        self._unsent = bytearray()
        self._stalled = False
        self._gather_s = _GATHER_S
        self._passed_at = time.monotonic()
        self._rest_until = 0.0
        self._drained: threading.Event | None = None
        self._closing = False

        self._watch = _watch(log_dir)
        self._inbox = Inbox()
        self._poll = select.poll()
        self._poll.register(self._inbox.fd, select.POLLIN)
        if self._watch is not None:
            self._poll.register(self._watch.fd, select.POLLIN)
        console.on_room = self._on_room
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self._thread.start()

    def follow(self, bot_id: int, offset: int, label: str | None = None) -> None:
        """A run begins, and its output at `offset`; the file may come later. With a label: `bot-10 label | `.

        A bot that is followed already goes on where it is. Returns at once, as do `ended`, `leave` and `forget`.
        """
        self._inbox.post(functools.partial(self._follow, bot_id, offset, label))

    def ended(self, bot_id: int, offset: int) -> None:
        """The run ended, and its output at `offset`: a last line there is complete, newline or not."""
        self._inbox.post(functools.partial(self._ended, bot_id, offset))

    def leave(self, bot_id: int) -> None:
        """Nothing more will be printed until another run begins: what is left of it is, and then nothing is kept."""
        self._inbox.post(functools.partial(self._leave, bot_id))

    def forget(self, bot_id: int, *, delete: bool = False) -> None:
        """Follows a bot no longer. What is left of its output is printed as far as the console has room."""
        self._inbox.post(functools.partial(self._forget, bot_id, delete))

    def watch(self, bot_id: int, on_change: Callable[[], None], on_end: Callable[[int], None]) -> Callable[[], None]:
        """From now on, when the bot's log has changed or is gone, the one is called, and once at first; when a run
        ends, the other with the end of its output. Both in the event loop of the caller. Returns what ends that."""
        loop = asyncio.get_running_loop()
        watcher = _Watcher(
            on_change=lambda: loop.call_soon_threadsafe(on_change),
            on_end=lambda end: loop.call_soon_threadsafe(on_end, end),
        )
        self._inbox.post(functools.partial(self._add_watcher, bot_id, watcher))
        return lambda: self._inbox.post(functools.partial(self._unwatch, bot_id, watcher))

    def drain(self, timeout_s: float) -> bool:
        """Waits until the console has all that was printed. False: that took too long."""
        drained = threading.Event()
        self._inbox.post(functools.partial(self._drain, drained))
        if drained.wait(timeout_s):
            return True
        self._inbox.post(functools.partial(self._drain, None))
        return False

    def close(self) -> Mapping[int, int]:
        """Ends the thread. What the console has not got by now stays in the logs.

        Returns how far it has got, by bot, of those that are followed.
        """
        self._inbox.post(self._close)
        self._thread.join()
        return {bot_id: transcript.position for bot_id, transcript in self._transcripts.items()}

    def _on_room(self) -> None:
        self._stalled = False
        self._inbox.wake()

    def _run(self) -> None:
        while not self._closing:
            self._wait()
            for command in self._inbox.take():
                command()
            self._look_at_changed()
            self._print()
            if self._drained is not None and not self._unread and not self._unsent:
                self._drained.set()
                self._drained = None
        self._release()

    def _wait(self) -> None:
        """Until something happens, and then for more to happen. A command does not wait for that."""
        if (self._stalled or not self._unread) and not (self._watch is not None and self._watch.rests):
            self._poll.poll(None if self._watch is not None else _BLIND_S * 1000)
        self._inbox.wait(self._gather_s if self._drained is None else 0)

    def _add_watcher(self, bot_id: int, watcher: _Watcher) -> None:
        self._watchers.setdefault(bot_id, []).append(watcher)
        # What was seen between the call and now was told to nobody.
        watcher.on_change()

    def _unwatch(self, bot_id: int, watcher: _Watcher) -> None:
        self._watchers[bot_id].remove(watcher)
        if not self._watchers[bot_id]:
            del self._watchers[bot_id]

    def _tell(self, bot_id: int) -> None:
        for watcher in self._watchers.get(bot_id, ()):
            watcher.on_change()

    def _follow(self, bot_id: int, offset: int, label: str | None) -> None:
        if bot_id not in self._transcripts:
            path = bounded.log_path(self._log_dir, bot_id)
            self._transcripts[bot_id] = Transcript(path, self._printed.pop(bot_id, offset), self._limit_bytes)
        name = f"bot-{bot_id}" if label is None else f"bot-{bot_id} {label}"
        self._transcripts[bot_id].begin(text.prefix_of(name))
        self._left.discard(bot_id)
        self._look(bot_id)

    def _ended(self, bot_id: int, offset: int) -> None:
        if bot_id in self._transcripts:
            self._transcripts[bot_id].end(offset)
            self._look(bot_id)
        for watcher in self._watchers.get(bot_id, ()):
            watcher.on_end(offset)

    def _leave(self, bot_id: int) -> None:
        if bot_id in self._transcripts:
            self._look(bot_id)
            self._left.add(bot_id)
            self._drop_if_done(bot_id)

    def _drop_if_done(self, bot_id: int) -> None:
        if bot_id in self._left and bot_id not in self._unread:
            self._left.remove(bot_id)
            self._transcripts.pop(bot_id).close()

    def _forget(self, bot_id: int, delete: bool) -> None:
        if bot_id in self._transcripts:
            self._left.discard(bot_id)
            self._look(bot_id)
            while bot_id in self._unread and self._send():
                self._take(bot_id, _READ_BYTES)
            self._unread.pop(bot_id, None)
            self._failed.discard(bot_id)
            self._transcripts.pop(bot_id).close()
        if delete:
            try:
                bounded.log_path(self._log_dir, bot_id).unlink(missing_ok=True)
            except OSError as error:
                self._fail(bot_id, "delete", error)
        self._tell(bot_id)

    def _drain(self, drained: threading.Event | None) -> None:
        self._drained = drained
        for bot_id in self._transcripts:
            self._look(bot_id)

    def _close(self) -> None:
        self._closing = True

    def _release(self) -> None:
        for transcript in self._transcripts.values():
            transcript.close()
        if self._watch is not None:
            self._watch.close()
        self._inbox.close()

    def _look_at_changed(self) -> None:
        changed = self._watch.changed() if self._watch is not None else None
        bot_ids = self._transcripts.keys() if changed is None else changed & self._transcripts.keys()
        fastest_bytes = max(map(self._look, bot_ids), default=0)
        if self._watch is not None and fastest_bytes >= _FLOOD_BYTES:
            # There is something to see at each pass anyway.
            self._watch.rest()
        now = time.monotonic()
        elapsed_s = min(now - self._passed_at, _GATHER_S)
        self._passed_at = now
        # A log grows by a quarter of its limit at most before it is looked at again.
        gather_s = elapsed_s * self._limit_bytes / (4 * fastest_bytes) if fastest_bytes > 0 else _GATHER_S
        self._gather_s = min(max(gather_s, _GATHER_LEAST_S), _GATHER_S)

    def _look(self, bot_id: int) -> int:
        """Bounds a log and sees whether there is something to print. Returns by how many bytes it grew."""
        transcript = self._transcripts[bot_id]
        try:
            grown_bytes = transcript.look()
        except OSError as error:
            self._fail(bot_id, "follow", error)
            return 0
        if transcript.unread:
            self._unread[bot_id] = transcript
        if grown_bytes:
            self._tell(bot_id)
        return grown_bytes

    def _print(self) -> None:
        """Puts what is unread on the console, a part of each log in turn, and then rests for as long as it is due."""
        if not self._send() or (self._drained is None and time.monotonic() < self._rest_until):
            return
        length = int(_READ_BYTES * self._gather_s / _GATHER_S)
        began = time.thread_time()
        for bot_id in list(self._unread):
            self._unread.move_to_end(bot_id)
            self._take(bot_id, length)
            if not self._send(_BATCH_BYTES) or time.thread_time() - began > _SHARE * _GATHER_S:
                break
        self._send()
        self._rest_until = time.monotonic() + (time.thread_time() - began) / _SHARE

    def _take(self, bot_id: int, length: int) -> None:
        transcript = self._unread[bot_id]
        try:
            self._unsent += transcript.take(length)
        except OSError as error:
            transcript.close()
            self._fail(bot_id, "follow", error)
        if not transcript.unread:
            del self._unread[bot_id]
            self._drop_if_done(bot_id)

    def _send(self, at_least_bytes: int = 1) -> bool:
        """Hands over to the console what is ready, unless it is little. False: there is no room, and we are called."""
        if len(self._unsent) >= at_least_bytes and not self._stalled:
            self._stalled = True  # first, for `_on_room` may be called before `write` has returned
            if self._console.write(bytes(self._unsent)):
                self._stalled = False
                self._unsent.clear()
        return not self._stalled

    def _fail(self, bot_id: int, action: str, error: OSError) -> None:
        """Once for each bot."""
        if bot_id not in self._failed:
            self._failed.add(bot_id)
            extra = {"action": f"logs.{action}", "bot_id": bot_id}
            logger.warning("cannot %s the log of bot %d: %s", action, bot_id, error.strerror, extra=extra)


def _watch(log_dir: Path) -> inotify.Watch | None:
    """None where this user has used up the watches that the machine allows: then we look from time to time."""
    try:
        return inotify.Watch(log_dir)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENOSPC, errno.ENOSYS):
            raise
        logger.warning("cannot watch the logs: %s; looking at each of them every second", error.strerror)
        return None

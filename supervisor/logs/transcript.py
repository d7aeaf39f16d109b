"""One bot's log as lines for the console: how far it was printed, and what comes next."""

from __future__ import annotations

import collections
from pathlib import Path

from supervisor.logs import bounded, lines, text

_NEAR_BYTES = 256 * 1024
"""How near the end printing goes on after a skip."""


class Transcript:
    """Follows one log, across runs. The file is open while a run goes on or something of it is unprinted.

    Every method may raise OSError; the next look tries afresh.
    """

    def __init__(self, path: Path, position: int, limit_bytes: int) -> None:
        self.unread = False
        """`take` may have something to give."""
        self._path = path
        self.position = position
        """How far it was taken."""
        self._limit_bytes = limit_bytes
        self._log: bounded.LogFile | None = None
        self._prefix = b""
        self._running = False
        self._ends: collections.deque[int] = collections.deque()
        self._truncated = False

    def begin(self, prefix: bytes) -> None:
        """A run begins."""
        self._prefix = prefix
        self._running = True

    def end(self, offset: int) -> None:
        """The run ended: the line before `offset` is complete, newline or not."""
        self._ends.append(offset)
        self._running = False

    def look(self) -> int:
        """Sees what is new, and keeps the log bounded. Returns by how many bytes it grew."""
        if self._log is None:
            try:
                self._log = bounded.LogFile(self._path, self._limit_bytes)
            except FileNotFoundError:
                return 0
        before = max(self._log.size, self.position)
        self._log.look()
        if self._log.size < before:
            self._truncated = True
            self.position = 0
        self.unread = True
        return self._log.size - before

    def take(self, length: int) -> bytes:
        """The next lines, each with its prefix: about `length` bytes of them."""
        log = self._log
        if log is None:
            self.unread = False
            return b""
        printed = self._catch_up(log)
        while len(printed) < length:
            stop = self._stop(log.size)
            window = log.read(min(stop - self.position, lines.WINDOW_BYTES), self.position)
            final = bool(self._ends) and self.position + len(window) == stop
            taken = lines.cut(window, final=final)
            if not taken:
                self.unread = False
                if not self._running:
                    self.close()
                break
            line = window[:taken]
            torn = taken < len(window) and not line.endswith(b"\n")
            printed += text.prefixed(self._prefix, line + b" \\" if torn else line)
            self.position += taken
        return printed

    def close(self) -> None:
        self.unread = False
        if self._log is not None:
            self._log.close()
            self._log = None

    def _stop(self, size: int) -> int:
        """The end of the run that is being printed, as far as there is one."""
        while self._ends and min(self._ends[0], size) <= self.position:
            self._ends.popleft()
        return min(self._ends[0], size) if self._ends else size

    def _catch_up(self, log: bounded.LogFile) -> bytes:
        """Passes over what is gone, or too much to print. Gives the line that says so."""
        if self._truncated:
            self._truncated = False
            return text.prefixed(self._prefix, "… the log was truncated".encode())
        if self.position >= log.start and log.size - self.position <= self._limit_bytes:
            return b""
        near = max(log.start, log.size - _NEAR_BYTES)
        line_start = near + log.read(lines.LINE_BYTES, near).find(b"\n") + 1  # `near` itself when there is none
        skipped, self.position = line_start - self.position, line_start
        return text.prefixed(self._prefix, f"… {skipped / 1e6:.1f} MB skipped".encode())

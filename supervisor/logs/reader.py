"""Reads a log from an offset on, line by line, while it grows."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from supervisor.logs import bounded, lines

READ_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line without its newline, or a piece of one that is too long. The next one begins at `next_offset`."""

    next_offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """So many bytes are gone. The log goes on at `next_offset`."""

    next_offset: int
    size: int


class Reader:
    """Where one who follows a log has got to. Holds no descriptor."""

    def __init__(self, path: Path, offset: int, stop: int | None = None) -> None:
        """`stop`: nothing from there on is read."""
        self.offset = offset
        self.stop = stop
        self.path = path
        self._ends: set[int] = set()

    def ended(self, offsets: Iterable[int]) -> None:
        """Runs ended there: a line before it is complete, newline or not."""
        self._ends.update(offsets)

    @property
    def is_done(self) -> bool:
        return self.stop is not None and self.offset >= self.stop

    def read(self) -> list[Line | Skipped]:
        """What comes next: complete lines, about `READ_BYTES` of them; nothing if there is none.

        Raises OSError, and then is where it was.
        """
        try:
            fd = bounded.open_log(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return []
        before = self.offset, self._ends
        try:
            return self._read(fd)
        except OSError:
            self.offset, self._ends = before
            raise
        finally:
            os.close(fd)

    def _read(self, fd: int) -> list[Line | Skipped]:
        found: list[Line | Skipped] = []
        size = os.fstat(fd).st_size
        if size < self.offset:
            # The file system makes no holes: the whole log was emptied, and nobody knows how much of it was unread.
            found.append(Skipped(next_offset=0, size=0))
            self.offset = 0
        limit = min(size, self.offset + READ_BYTES)
        while self.offset < limit and not self.is_done:
            self._ends = {end for end in self._ends if end > self.offset}
            end = min((end for end in (*self._ends, self.stop) if end is not None), default=size + 1)
            window = os.pread(fd, min(end, size, self.offset + lines.WINDOW_BYTES) - self.offset, self.offset)
            # After it was read: what was given back meanwhile reads as zeros.
            if (gone := bounded.data_start(fd, self.offset) - self.offset) > 0:
                found.append(self._skip(fd, gone))
                continue
            taken = lines.cut(window, final=self.offset + len(window) == end)
            if not taken:
                break
            for line in io.BytesIO(window[:taken]):
                self.offset += len(line)
                found.append(Line(next_offset=self.offset, data=line.removesuffix(b"\n")))
        return found

    def _skip(self, fd: int, gone: int) -> Skipped:
        """To the first whole line behind a hole."""
        begin = self.offset + gone
        newline = os.pread(fd, lines.LINE_BYTES, begin).find(b"\n")
        skipped = Skipped(next_offset=begin + newline + 1, size=gone + newline + 1)
        self.offset = skipped.next_offset
        return skipped

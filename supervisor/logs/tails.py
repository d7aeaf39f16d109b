"""The last lines of a log, however long it is."""

from __future__ import annotations

import os
from pathlib import Path

from supervisor.logs import bounded

_BLOCK_BYTES = 64 * 1024


def tail(path: Path, lines: int, *, start: int = 0, end: int | None = None, max_bytes: int = 1024 * 1024) -> bytes:
    """The last `lines` lines between two offsets, as they are in the file; `end` None is the end of the file.

    They are at most `max_bytes`, and whole, unless the last one alone is longer. The file is read backwards and no
    further than need be; where it is a hole it is not read at all. Nothing when there is no such file; raises OSError
    when it cannot be read.
    """
    if lines < 1:
        return b""
    try:
        fd = bounded.open_log(path, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        size = os.fstat(fd).st_size
        end = size if end is None else min(end, size)
        first = max(start, end - max_bytes, bounded.data_start(fd, start))
        begin = _back(fd, lines, first, end)
        if begin == first > start:
            begin = _line_start(fd, first, end)
        data = os.pread(fd, max(0, end - begin), begin)
        given_away = bounded.data_start(fd, begin) - begin  # meanwhile, and perhaps before it was read
        return data[data.find(b"\n", given_away) + 1 :] if given_away > 0 else data
    finally:
        os.close(fd)


def lines_of(data: bytes) -> tuple[str, ...]:
    """The lines of a log for JSON: valid Unicode whatever was printed, bytes that are not UTF-8 as `\\xff`."""
    text = data.decode("utf-8", "backslashreplace").replace("\r\n", "\n").removesuffix("\n")
    return tuple(text.split("\n")) if data else ()


def _back(fd: int, lines: int, first: int, end: int) -> int:
    """Where the last `lines` lines before `end` begin, or `first` if that comes before."""
    stop = end - 1  # the newline there, if it is one, ends the last line
    while stop > first:
        block_start = max(first, stop - _BLOCK_BYTES)
        block = os.pread(fd, stop - block_start, block_start)
        newlines = block.count(b"\n")
        if newlines >= lines:
            at = len(block)
            for _ in range(lines):
                at = block.rfind(b"\n", 0, at)
            return block_start + at + 1
        lines -= newlines
        stop = block_start
    return first


def _line_start(fd: int, first: int, end: int) -> int:
    """The start of the first line from `first` on, which may be within one; `first` if there is none before `end`."""
    position = first - 1
    while position < end - 1:
        block = os.pread(fd, min(_BLOCK_BYTES, end - 1 - position), position)
        if not block:
            break
        newline = block.find(b"\n")
        if newline >= 0:
            return position + newline + 1
        position += len(block)
    return first

"""Where to cut a growing file, so that each line comes whole however it was written."""

from __future__ import annotations

LINE_BYTES = 64 * 1024
"""The longest line that is kept in one piece, without its newline."""

WINDOW_BYTES = LINE_BYTES + 1
"""How much of a file must be seen to know where to cut."""


def cut(window: bytes, *, final: bool) -> int:
    """How much of `window` to take: whole lines, or one piece of a line that is too long for one; 0: wait for more.

    `window` begins where the last cut was and holds at most `WINDOW_BYTES`. `final`: nothing comes after it, so an
    unfinished line is taken as it is. Where the cuts fall depends on the bytes alone, never on when they were seen.
    """
    if whole := window.rfind(b"\n") + 1:
        return whole
    if len(window) > LINE_BYTES:
        return _piece(window)
    return len(window) if final else 0


def _piece(window: bytes) -> int:
    """The longest piece that does not end within a character."""
    for length in range(LINE_BYTES, LINE_BYTES - 4, -1):
        if window[length] & 0xC0 != 0x80:
            return length
    return LINE_BYTES  # not UTF-8

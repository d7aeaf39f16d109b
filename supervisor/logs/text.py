"""What bots print, made fit for a console that they share."""

from __future__ import annotations

import re

_UNSAFE = (
    (0x00, 0x08),  # the C0 controls but for tab and newline, ESC among them
    (0x0B, 0x1F),
    (0x7F, 0x9F),  # DEL, and the C1 controls: NEL breaks lines, CSI and OSC begin terminal sequences
    (0x061C, 0x061C),  # all that turns the direction of writing: what is read is not what is written
    (0x200E, 0x200F),
    (0x202A, 0x202E),
    (0x2066, 0x2069),
    (0x2028, 0x2029),  # more line breaks
    (0xFEFF, 0xFEFF),  # the byte order mark
    (0xDC80, 0xDCFF),  # a byte that is not UTF-8, as `surrogateescape` decodes it
)


def _shown(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


_SHOWN = {chr(code): _shown(code) for first, last in _UNSAFE for code in range(first, last + 1)}
_PATTERN = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _UNSAFE) + "]")
_PLAIN = bytes([0x09, 0x0A, *range(0x20, 0x7F)])


def safe(data: bytes) -> bytes:
    r"""The same text with nothing in it that could act on a terminal or forge a line.

    Control characters become visible (`\x1b`, `\u202e`), and so do bytes that are not UTF-8 (`\xff`). The only line
    break that is left is the newline; `\r\n` counts as one. `data` should not begin or end within a character.
    """
    if not data.translate(None, _PLAIN):  # almost all output, at memory speed
        return data
    text = data.replace(b"\r\n", b"\n").decode("utf-8", "surrogateescape")
    return _PATTERN.sub(lambda match: _SHOWN[match[0]], text).encode()


def prefixed(prefix: bytes, data: bytes) -> bytes:
    """`data` made safe, `prefix` before each of its lines, a newline after the last."""
    lines = safe(data).removesuffix(b"\n")
    return prefix + lines.replace(b"\n", b"\n" + prefix) + b"\n"


def prefix_of(name: str) -> bytes:
    """What stands before each line of `name`: one line itself, whatever the name is."""
    return safe(name.encode("utf-8", "backslashreplace")).replace(b"\n", b"\\n") + b" | "

"""What bots print cannot act on a terminal, and cannot pass for a line of somebody else."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.logs import text

FORBIDDEN = {
    *map(chr, [*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)]),
    *"\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\u061c\ufeff",
}


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (b"plain text\twith a tab\n", b"plain text\twith a tab\n"),
        ("Grüße, 世界 🚀\n".encode(), "Grüße, 世界 🚀\n".encode()),
        (b"\x1b[31mred\x1b[0m", rb"\x1b[31mred\x1b[0m"),
        (b"\x1b]0;title\x07", rb"\x1b]0;title\x07"),
        (b"a\0b\x7f", rb"a\x00b\x7f"),
        (b"windows\r\n", b"windows\n"),
        (b"10%\r20%\r\r\n", b"10%\\x0d20%\\x0d\n"),
        (b"\xff\xc3(\xe2\x82", rb"\xff\xc3(\xe2\x82"),
        (b"\xed\xa0\x80", rb"\xed\xa0\x80"),
        ("\x85\x9b31m".encode(), rb"\u0085\u009b31m"),
        ("abc\u202egnp.exe".encode(), rb"abc\u202egnp.exe"),
        ("one\u2028two\ufeff".encode(), rb"one\u2028two\ufeff"),
        (rb"a \x1b that was printed as such", rb"a \x1b that was printed as such"),
    ],
)
def test_what_could_act_is_made_visible(printed: bytes, shown: bytes) -> None:
    assert text.safe(printed) == shown


@pytest.mark.parametrize("character", sorted(FORBIDDEN))
def test_not_one_of_them_is_left(character: str) -> None:
    shown = text.safe(f"a{character}b".encode()).decode()
    code = ord(character)
    assert shown == (f"a\\x{code:02x}b" if code < 0x80 else f"a\\u{code:04x}b")


@given(st.binary())
@example("\u202e".encode())
@example(b"\r\n\r\r\n")
def test_any_bytes_become_harmless_text_of_as_many_lines(data: bytes) -> None:
    shown = text.safe(data)
    assert not FORBIDDEN.intersection(shown.decode())
    assert shown.count(b"\n") == data.count(b"\n")
    assert text.safe(shown) == shown


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=sorted(FORBIDDEN))))
def test_harmless_text_is_left_alone(harmless: str) -> None:
    assert text.safe(harmless.encode()) == harmless.encode()


@given(st.text(st.characters(exclude_characters=sorted(FORBIDDEN), categories=["L", "Cc", "Zl"])), st.binary())
def test_nothing_but_prefixed_lines(name: str, data: bytes) -> None:
    prefix = text.prefix_of(f"bot-10 {name}")
    lines = text.prefixed(prefix, data).decode()
    assert lines.endswith("\n")
    assert all(line.startswith(prefix.decode()) for line in lines[:-1].split("\n"))


@pytest.mark.parametrize("forged", [b"supervisor | all is well", b"bot-11 | mine"])
@pytest.mark.parametrize(
    "how", [b"%s", b"x\n%s", b"x\r%s", b"x\x1b[1G%s", b"x\x0b%s", b"x\xc2\x85%s", b"x\xe2\x80\xa8%s"]
)
def test_no_line_can_be_forged(how: bytes, forged: bytes) -> None:
    lines = text.prefixed(b"bot-10 | ", how % forged).decode().splitlines()
    assert all(line.startswith("bot-10 | ") for line in lines)


def test_a_name_is_one_line_and_valid_text_whatever_it_is() -> None:
    assert text.prefix_of("bot-1 a\nsupervisor") == rb"bot-1 a\nsupervisor | "
    assert text.prefix_of("bot-1 \ud800\x1b") == rb"bot-1 \ud800\x1b | "

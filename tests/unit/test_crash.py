"""What is read of the record that a bot left of its exception: all that it may be, and no error ever."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from supervisor.core.model import Raised
from supervisor.engine import crash_report

LOCK = b"7 4242 99\n"
RECORD = {"type": "ValueError", "message": "no such town", "fingerprint": "0b1d"}


def line(**fields: Any) -> bytes:
    return json.dumps(RECORD | fields).encode() + b"\n"


def read(tmp_path: Path, content: bytes) -> Raised | None:
    path = tmp_path / "1.lock"
    path.write_bytes(content)
    return crash_report.read(path, 7)


def test_a_record(tmp_path: Path) -> None:
    expected = Raised(type="ValueError", message="no such town", fingerprint="0b1d")
    assert read(tmp_path, LOCK + line()) == expected
    assert read(tmp_path, LOCK + line(more=1) + line(type="OSError")) == expected


def test_a_record_of_another_run(tmp_path: Path) -> None:
    for lock in (b"6 4242 99\n", b"77 4242 99\n", b"07 4242 99\n", b"\n", b"x\n"):
        assert read(tmp_path, lock + line()) is None


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\n",
        line()[:-1],
        line()[:-2] + b"\n",
        b"\xff\xfe\n",
        b"\x00" * 20000,
        b"[" * 10000 + b"\n",
        b"9" * 10000 + b"\n",
        b'"text"\n',
        b"[1]\n",
        b"null\n",
        b"{}\n",
        line(type=None),
        line(type=""),
        line(type=["ValueError"]),
        line(type="\x1b[2J"),
        line(type="\ud800"),
        line(message=5),
        line(fingerprint="../../x"),
        line(fingerprint="0b1d\n"),
        line(fingerprint=""),
        line(fingerprint=11),
        line(fingerprint="0" * 65),
        line(message="x" * 20000),
    ],
    ids=lambda record: repr(record[:60]),
)
def test_what_is_no_record(tmp_path: Path, record: bytes) -> None:
    assert read(tmp_path, LOCK + record) is None


def test_what_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "1.lock"
    assert crash_report.read(path, 7) is None
    path.mkdir()
    assert crash_report.read(path, 7) is None
    path.rmdir()
    os.mkfifo(path)
    assert crash_report.read(path, 7) is None
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(LOCK + line())
    path.symlink_to(tmp_path / "elsewhere")
    assert crash_report.read(path, 7) is None


def test_texts_are_cut_and_harmless(tmp_path: Path) -> None:
    long = read(tmp_path, LOCK + line(type="T" * 1000, message="\U0001f916" * 1000))
    assert long == Raised(type="T" * 200, message="\U0001f916" * 500, fingerprint="0b1d")
    odd = read(tmp_path, LOCK + line(message="one\ntwo \x1b[2J \ud800 \u202e \x00"))
    assert odd is not None
    assert odd.message == "one\ntwo \\x1b[2J \\ud800 \\u202e \\x00"
    escapes = read(tmp_path, LOCK + line(message="\ud800" * 500))
    assert escapes is not None
    assert len(escapes.message) == 500

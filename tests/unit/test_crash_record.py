"""What is kept of an exception, however odd it is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from botproc import crash


def caught(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


def recorded(path: Path, error: Exception, first: str) -> list[str]:
    path.write_text(first)
    fd = os.open(path, os.O_RDWR)
    try:
        crash.record(error, fd)
    finally:
        os.close(fd)
    return path.read_text().splitlines()[1:]


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_any_exception_can_be_recorded(tmp_path: Path) -> None:
    own = f"1 {os.getpid()} 2\n"
    for error, message in [
        (Mute(), "<its text cannot be made: RuntimeError>"),
        (ValueError("\udc80\n"), "\\udc80\n"),
        (ValueError("x" * 600), "x" * 500),
    ]:
        [line] = recorded(tmp_path / "lock", error, own)
        assert json.loads(line)["message"] == message
    assert json.loads(recorded(tmp_path / "lock", Mute(), own)[0])["type"] == f"{__name__}.Mute"


def test_no_other_file_is_written_to(tmp_path: Path) -> None:
    assert recorded(tmp_path / "a", ValueError(), "1 1 1\n") == []
    assert recorded(tmp_path / "b", ValueError(), "") == []
    crash.record(ValueError(), 1_000_000)


def test_the_depth_of_a_recursion_makes_no_difference() -> None:
    def deeper(n: int) -> None:
        if n == 0:
            raise ValueError
        deeper(n - 1)

    one, other = (crash.fingerprint(caught(lambda n=n: deeper(n))) for n in (1, 50))  # type: ignore[misc]
    assert one == other


def test_chains_and_groups_count_and_may_be_circular() -> None:
    plain, with_cause, group = ValueError(), ValueError(), ExceptionGroup("", [ValueError()])
    with_cause.__cause__ = KeyError()
    prints = {crash.fingerprint(error) for error in (plain, with_cause, group, ExceptionGroup("", [KeyError()]))}
    assert len(prints) == 4
    with_cause.__cause__.__cause__ = with_cause
    assert crash.fingerprint(with_cause) in prints

from __future__ import annotations

import fcntl
import time
from pathlib import Path

import pytest

from botproc import kernel


def test_who_only_looks_at_a_lock_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    with path.open("wb") as ours, path.open("rb") as looking, path.open("rb") as another:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda _: looking.close())
        kernel.lock(ours.fileno())
        with pytest.raises(BlockingIOError):
            fcntl.flock(another, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_a_lock_that_another_holds(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("wb") as ours, path.open("rb") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_SH)
        with pytest.raises(BlockingIOError):
            kernel.lock(ours.fileno())

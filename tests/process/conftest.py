"""What the tests with real processes share: nothing may be left behind."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from botproc import kernel, reaper
from tests import belongings
from tests.process.clients import ZygoteClient
from tests.waiting import wait_for


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Children (zombies included), threads and descriptors are looked at before and after."""
    before = everything()
    yield
    # An engine makes its process a subreaper. Other tests' orphans are not to come here, where nobody reaps them.
    kernel._libc.prctl(kernel._PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    gc.collect()
    left: set[str] = set()

    def nothing() -> bool:
        left.clear()
        left.update(everything() - before)
        return not left

    try:
        wait_for(nothing)
    except AssertionError:
        raise AssertionError(f"left behind: {sorted(left)}") from None


def everything() -> set[str]:
    found = {f"thread {thread.name}" for thread in threading.enumerate()}
    for pid in reaper.children_by_parent():
        with contextlib.suppress(psutil.NoSuchProcess):
            found.add(f"child {pid} {psutil.Process(pid).name()}")
    return found | {f"descriptor {descriptor}" for descriptor in belongings.descriptors()}


@pytest.fixture
def make_zygote(tmp_path: Path) -> Iterator[Callable[..., ZygoteClient]]:
    """Makes zygotes, and ends them with all that they made."""
    made: list[ZygoteClient] = []

    def make(target: str, **kwargs: Any) -> ZygoteClient:
        made.append(ZygoteClient(tmp_path, target, **kwargs))
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.close()

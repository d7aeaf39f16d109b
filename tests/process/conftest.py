"""What the tests with real processes share: nothing may be left behind."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from botproc import reaper
from tests.process.clients import ZygoteClient
from tests.waiting import wait_for


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Children (zombies included), threads and descriptors are counted before and after."""
    before = reaper.children_by_parent(), threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()

    def left() -> tuple[set[int], int, int]:
        return reaper.children_by_parent(), threading.active_count(), len(os.listdir("/proc/self/fd"))

    def nothing_more() -> bool:
        children, threads, descriptors = left()
        return children <= before[0] and threads <= before[1] and descriptors <= before[2]

    try:
        wait_for(nothing_more, 3)
    except AssertionError:
        raise AssertionError(f"left behind: {left()} after {before}") from None


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

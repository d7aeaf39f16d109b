"""What the tests of faults share."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator

import pytest


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    """For calls that cannot be answered yet."""
    with concurrent.futures.ThreadPoolExecutor() as executor:
        yield executor

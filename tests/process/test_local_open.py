"""An engine that cannot begin: it says why, and leaves nothing open."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.core import errors
from tests.process.benches import LocalBench

pytestmark = pytest.mark.anyio


async def test_what_stands_in_its_way_is_named(tmp_path: Path) -> None:
    bench = LocalBench(tmp_path)
    (tmp_path / "run" / "notify.sock").mkdir()
    with pytest.raises(errors.SettingsRefused, match=r"cannot use .*/run/notify\.sock: Is a directory; "):
        await bench.open()
    await bench.close()

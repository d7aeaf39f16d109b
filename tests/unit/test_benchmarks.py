"""The benchmarks run, and say what they found. What they find is no test: machines differ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report


def test_a_measure_ends_in_a_table_and_in_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "burst", "--results", str(tmp_path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=50).stdout
    [path] = tmp_path.iterdir()
    kept = json.loads(path.read_text())
    assert kept["machine"]["cores"] > 0
    [row] = kept["rows"]
    # No way of starting 100 bots is faster than not supervising them, and none is so slow.
    assert 0 < row["floor"] < row["ours"] < 60_000
    assert len(row["ratios"]) == 2
    assert row["what"] in printed


@pytest.mark.parametrize(
    ("ours", "floor", "ratios", "within"),
    [
        (2.0, None, (), True),
        (4.0, None, (), False),
        # With a floor, the ratios count and not the value; of these the one in the middle.
        (9.0, 3.0, (2.9, 2.8, 50.0), True),
        (1.0, 0.1, (10.0,), False),
    ],
)
def test_a_limit_is_one_of_the_ratio_where_there_is_a_floor(
    ours: float, floor: float | None, ratios: tuple[float, ...], within: bool
) -> None:
    row = report.Row(measure="m", what="w", unit="ms", ours=ours, floor=floor, ratios=ratios, at_most=3)
    assert row.within is within
    assert ("ok" if within else "OVER") in report.table([row])

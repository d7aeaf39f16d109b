"""The benchmarks run, and say what they found. What they find is no test: machines differ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import comparison, page, report
from benchmarks.peers import environment, known, ours, peer


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


@pytest.mark.parametrize(
    "one",
    [ours.Ours(), *(known.PEERS[name] for name in ("homemade", "fork", "posix_spawn", "s6", "supervisord"))],
    ids=lambda one: one.name,
)
def test_a_peer_starts_lists_and_stops_bots(one: peer.Peer) -> None:
    try:
        one.version()
    except environment.Unavailable as why:
        pytest.skip(str(why))
    with one.running("light", 2) as session:
        begin, numbers, seen = comparison.start(session, 2)
        assert begin < seen
        bots = comparison.checked(session, numbers)
        assert comparison.stop(session, numbers[:1]) > 0
        assert comparison.checked(session, numbers[1:]) == [bot for bot in bots if bot.number == numbers[1]]
        # A bot that comes after another has a first line too, though it may have its log.
        _, [number], _ = comparison.start(session, 1)
        left = {bot.pid for bot in comparison.checked(session, [number, numbers[1]])}
    assert not any(map(psutil.pid_exists, left))


def test_a_comparison_ends_in_tables_a_page_and_a_picture(tmp_path: Path) -> None:
    what = comparison.What(measure="fleet", bots=3, name="listing, p50", unit="ms")
    found: list[comparison.Compared | comparison.Failed] = [
        comparison.Compared(what=what, peer="s6", ours=2.0, theirs=6.0, ratios=(3.5, 3.0, 1.0)),
        comparison.Failed(measure="fleet", bots=3, peer="pm2", why="it has not answered"),
    ]
    written = page.write_docs(tmp_path, found, {"cores": 2}, {"s6": "2.11"})
    text = written.read_text()
    assert "| listing, p50 | 2 ms | 6 ms (3 x) |" in text
    assert "* pm2: it has not answered" in text
    [drawn] = tmp_path.glob("*.svg")
    assert drawn.name in text
    assert 'width="420.0"' in drawn.read_text()

"""The benchmarks run, and say what they found. What they find is no test: machines differ."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import comparison, page, program, report, targets
from benchmarks.comparison import Compared, Failed, Found, LeftOut, Result, Step, What
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


def row(
    name: str,
    *,
    measure: str = "fleet",
    bots: int,
    peer: str = "s6",
    ours: float,
    theirs: float | None = None,
    ratios: tuple[float, ...] = (2.0,),
    more_is_better: bool = False,
) -> Compared:
    what = What(measure=measure, bots=bots, name=name, unit="ms", more_is_better=more_is_better)
    return Compared(what=what, peer=peer, ours=ours, theirs=2 * ours if theirs is None else theirs, ratios=ratios)


def test_a_comparison_ends_in_tables_a_page_and_a_picture(tmp_path: Path) -> None:
    found: list[Result] = [
        row("listing, p50", bots=3, peer="s6", ours=2.0, theirs=6.0, ratios=(3.5, 3.0, 1.0)),
        Failed(measure="fleet", bots=3, peer="pm2", why="it has not answered"),
    ]
    written = page.write_docs(tmp_path, found, {"cores": 2}, {"s6": "2.11"})
    text = written.read_text()
    assert "| listing, p50 | 2 ms | 6 ms (3 x) |" in text
    assert "* pm2: it has not answered" in text
    [drawn] = tmp_path.glob("*.svg")
    assert drawn.name in text
    assert 'width="420.0"' in drawn.read_text()


def test_of_the_targets_those_that_were_measured_are_shown_met_or_not() -> None:
    found = [
        # Beside the floor ours takes 1.6 times as long: the median of the rounds, not 3 of 1.
        row("start of one to its first line", bots=0, peer="fork", ours=3.0, theirs=1.0, ratios=(0.5, 0.625, 0.9)),
        row("start of one to its first line", bots=1000, ours=4.0),
        row("listing, p50", bots=1000, ours=25.0),
        row("lines lost", measure="flood", bots=1, ours=3.0),
        row("lines in a second", measure="flood", bots=1, peer="fork", ours=9.0, theirs=10.0, ratios=(10 / 9,)),
        row("listing, p50", bots=300, ours=99.0),
    ]
    reached = {str(one.target): (one.value, one.met) for one in targets.reached(found)}
    assert reached == {
        "start of one to its first line, beside fork": (1.6, True),
        "start of one to its first line, with 1,000 running beside none": (pytest.approx(4 / 3), False),
        "lines in a second, beside fork": (pytest.approx(0.9), False),
        "lines lost": (3.0, False),
        "listing, p50, 1,000 bots": (25.0, True),
    }
    text = page.summary(found)
    assert "| start of one to its first line, beside fork | ≤ 2 x | 1.6 x | yes |" in text
    assert "| lines in a second, beside fork | ≥ 1 x | 0.9 x | **no** |" in text
    assert not targets.reached([])


def test_each_row_in_which_a_peer_is_better_is_named() -> None:
    better = [
        row("listing, p50", bots=3, peer="s6", ours=2.0, theirs=1.0, ratios=(0.5,)),
        row("listing, p50", bots=3, peer="pm2", ours=2.0, theirs=1.5, ratios=(0.75,)),
        row("lines in a second", measure="flood", bots=1, ours=5.0, theirs=9.0, ratios=(1.8,), more_is_better=True),
    ]
    others = [
        row("listing, p50", bots=3, peer="circus", ours=2.0, theirs=2.0, ratios=(1.0,)),
        row("lines in a second", measure="flood", bots=1, peer="pm2", ours=5.0, theirs=4.0, more_is_better=True),
        # No peer: it manages nothing.
        row("start of one to its first line", bots=3, peer="fork", ours=2.0, theirs=1.0, ratios=(0.5,)),
    ]
    assert page.behind([*better, *others]).splitlines() == [
        "* Light bots, 3 of them: listing, p50: ours 2 ms, s6 1 ms (0.5 x), pm2 1.5 ms (0.75 x)",
        "* A bot that prints as fast as it can for five seconds: lines in a second: ours 5 ms, s6 9 ms (1.8 x)",
    ]
    assert page.behind(others) == ""


STEPS = [Step("fleet", bots, peer) for bots in (0, 100, 300, 1000) for peer in ("s6", "pm2")]


def test_what_takes_too_long_is_left_out_with_more_bots_too() -> None:
    step = Step("fleet", 300, "pm2")
    assert not comparison.too_much(step, STEPS, {}, 60.0, limit_s=60, memory_mb=1)
    out = comparison.too_much(step, STEPS, {}, 60.1, limit_s=60, memory_mb=1)
    assert out == {
        Step("fleet", bots, "pm2"): LeftOut("fleet", bots, "pm2", "more than 60 s for 300") for bots in (300, 1000)
    }


def test_bots_without_room_in_the_memory_are_left_out() -> None:
    found: Found = {What(measure="fleet", bots=100, name=comparison.ALL_IN, unit="MB"): 30.0}
    out = comparison.too_much(Step("fleet", 100, "s6"), STEPS, found, 1.0, limit_s=60, memory_mb=20_000)
    assert out == {
        Step("fleet", 1000, "s6"): LeftOut("fleet", 1000, "s6", "more than the memory there is: 30 GB"),
    }


def test_who_was_left_out_has_no_empty_cell() -> None:
    text = page.tables(
        [
            row("listing, p50", bots=300, peer="pm2", ours=1.0),
            row("listing, p50", bots=1000, peer="s6", ours=2.0),
            LeftOut("fleet", 300, "pm2", "more than 60 s for 300"),
            LeftOut("fleet", 1000, "pm2", "more than 60 s for 300"),
        ]
    )
    assert "| listing, p50 | 1 ms | 2 ms (2 x) |\n\n* pm2: more than 60 s for 300, left out of later rounds" in text
    assert "| | ours | pm2 | s6 |" in text
    assert "| listing, p50 | 2 ms | more than 60 s for 300 | 4 ms (2 x) |" in text


def test_a_round_is_all_measures_and_who_fails_or_is_slow_does_not_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, int]] = []

    def fleet(manager: peer.Peer, effort: comparison.Effort, bots: int) -> Found:
        done.append((manager.name, bots))
        if (manager.name, bots) == ("s6", 2):
            raise ValueError("it had enough")
        return {What(measure="fleet", bots=bots, name="n", unit="s"): float(len(done))}

    monkeypatch.setitem(comparison.MEASURES, "fleet", fleet)
    some = [known.PEERS["fork"], known.PEERS["s6"]]
    effort = dataclasses.replace(comparison.QUICK, rounds=2, fleets=(1, 2, 3))
    said: list[str] = []
    found = comparison.compare(some, effort, ["fleet"], said.append)
    first = ["fork 1", "s6 1", "fork 2", "s6 2", "fork 3"]
    assert [f"{name} {bots}" for name, bots in done if name != "ours"] == [*first, "fork 1", "s6 1", "fork 2", "fork 3"]
    assert [bots for name, bots in done if name == "ours"] == [1, 2, 3, 1, 2, 3]
    assert [result for result in found if not isinstance(result, Compared)] == [
        Failed("fleet", 2, "s6", "it had enough"),
        LeftOut("fleet", 3, "s6", "failed with 2"),
    ]
    assert [len(result.ratios) for result in found if isinstance(result, Compared)] == [2, 2, 2, 2]
    assert "0 more" in said[-1]

    done.clear()
    comparison.compare(some, dataclasses.replace(effort, limit_s=-1), ["fleet"], said.append)
    assert [f"{name} {bots}" for name, bots in done if name != "ours"] == ["fork 1", "s6 1"]


def test_what_was_measured_when_it_was_interrupted_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def flood(manager: peer.Peer, effort: comparison.Effort, bots: int) -> Found:
        done.append(manager.name)
        if len(done) == 4:
            raise KeyboardInterrupt
        return {What(measure="flood", bots=bots, name="n", unit="s"): float(len(done))}

    monkeypatch.setitem(comparison.MEASURES, "flood", flood)
    effort = dataclasses.replace(comparison.QUICK, rounds=9)
    said: list[str] = []
    [result] = comparison.compare([known.PEERS["fork"]], effort, ["flood"], said.append)
    assert isinstance(result, Compared)
    assert (result.ours, result.theirs, result.ratios) == (2.0, 2.0, (2.0,))
    assert "interrupted" in said[-1]


def test_what_is_left_takes_what_it_took_and_what_is_new_what_the_longest_took() -> None:
    assert comparison.left_s(STEPS[:3], {STEPS[0]: 2.0, STEPS[3]: 5.0}) == 2 + 5 + 5
    assert comparison.left_s(STEPS, {}) == 0


def test_a_file_system_has_the_name_that_it_was_mounted_by() -> None:
    assert report.file_system(Path("/proc")) == "proc"
    assert report.file_system(Path("/proc/self/fd")) == "proc"
    assert report.file_system(Path.cwd()) != "unknown"


def test_calls_go_on_connections_that_are_free_and_answers_come_in_their_order() -> None:
    with program.running() as ours_:
        before = ours_.transactions()
        bot_ids = ours_.ask_many(2 * program.PARALLEL + 1)
        assert len(set(bot_ids)) == 2 * program.PARALLEL + 1
        assert ours_.transactions() > before
        answers = ours_.calls([("GET", f"/bots/{bot_id}", None) for bot_id in bot_ids])
        assert [answer["bot_id"] for answer in answers] == bot_ids


def test_a_list_is_read_to_its_last_page() -> None:
    with program.running() as ours_:
        bot_ids = ours_.ask_many(3)
        assert [bot["bot_id"] for bot in ours_.connection.call("GET", "/bots?limit=2")] == sorted(bot_ids)[:2]
        following = ours_.connection.next_page
        assert following is not None
        assert [bot["bot_id"] for bot in ours_.connection.call("GET", following)] == sorted(bot_ids)[2:]
        assert ours_.connection.next_page is None

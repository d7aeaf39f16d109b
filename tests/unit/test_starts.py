"""Who may start, and who waits: by a clock set by hand."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from supervisor.fleet.starts import Rate, Starts, Turn
from tests.unit.test_actor import ManualClockLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": ManualClockLoop}


def shaped(all_: Rate | None = None, **kinds: Rate) -> Starts:
    """Starts with these limits for all together and for some kinds."""
    return Starts(lambda kind: (all_ or Rate()) if kind is None else kinds.get(kind, Rate()))


async def advance(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ManualClockLoop)
    loop.advance(seconds)
    await loop.rest()


def granted(turns: list[Turn]) -> list[bool]:
    return [turn.granted for turn in turns]


async def test_without_a_limit_everybody_starts_at_once_and_nothing_is_scheduled() -> None:
    starts = shaped()
    turns = [starts.ask("any") for _ in range(1000)]
    assert all(granted(turns))
    assert [turn.place for turn in turns] == [0] * 1000
    await turns[0]
    loop: Any = asyncio.get_running_loop()
    assert not loop._scheduled


async def test_first_come_first_served() -> None:
    starts = shaped(Rate(at_once=2))
    turns = [starts.ask("any") for _ in range(5)]
    assert granted(turns) == [True, True, False, False, False]
    assert [turn.place for turn in turns] == [0, 0, 0, 1, 2]
    turns[1].release()
    assert granted(turns) == [True, True, True, False, False]
    assert [turn.place for turn in turns] == [0, 0, 0, 0, 1]
    turns[1].release()
    assert granted(turns) == [True, True, True, False, False], "a release counts once"
    turns[0].release()
    turns[2].release()
    assert all(granted(turns))


async def test_the_place_is_that_of_now() -> None:
    starts = shaped(Rate(at_once=1))
    first, *turns = (starts.ask("any") for _ in range(6))
    assert [turn.place for turn in turns] == [0, 1, 2, 3, 4]
    turns[2].release()
    assert [turn.place for turn in (turns[0], turns[1], turns[3], turns[4])] == [0, 1, 2, 3]
    first.release()
    assert [turn.place for turn in (turns[1], turns[3], turns[4])] == [0, 1, 2]
    assert starts.ask("any").place == 3


async def test_the_place_counts_those_that_are_let_past() -> None:
    starts = shaped(Rate(at_once=3), slow=Rate(at_once=1))
    slow = [starts.ask("slow") for _ in range(3)]
    quick = [starts.ask("quick") for _ in range(3)]
    assert [slow[2].place, quick[2].place] == [1, 2]
    quick[0].release()
    assert granted(quick) == [True, True, True]
    assert [slow[1].place, slow[2].place, quick[2].place] == [0, 1, 0]


async def test_a_kind_at_its_limit_holds_up_no_other() -> None:
    starts = shaped(Rate(at_once=3), slow=Rate(at_once=1))
    slow = [starts.ask("slow") for _ in range(3)]
    quick = [starts.ask("quick") for _ in range(3)]
    assert granted(slow) == [True, False, False]
    assert granted(quick) == [True, True, False]
    slow[0].release()
    # Of those that may, the one that came first.
    assert granted(slow) == [True, True, False]
    assert granted(quick) == [True, True, False]


async def test_who_waits_is_woken_and_who_gives_up_is_passed_over() -> None:
    starts = shaped(Rate(at_once=1))
    first, impatient, last = (starts.ask("any") for _ in range(3))
    waiting = asyncio.ensure_future(_wait(impatient))
    woken = asyncio.ensure_future(_wait(last))
    await advance(0)
    waiting.cancel()
    await advance(0)
    impatient.release()
    first.release()
    await woken
    assert last.granted
    assert not impatient.granted


async def _wait(turn: Turn) -> None:
    await turn


async def test_starts_are_spaced_evenly() -> None:
    starts = shaped(Rate(per_s=4))
    turns = [starts.ask("any") for _ in range(4)]
    assert granted(turns) == [True, False, False, False]
    for turn in turns:
        turn.release()
    turns = [starts.ask("any") for _ in range(3)]
    seen = []
    for _ in range(4):
        seen.append(sum(granted(turns)))
        await advance(0.25)
    assert seen == [0, 1, 2, 3]


async def test_time_that_nobody_used_is_no_credit() -> None:
    starts = shaped(Rate(per_s=4))
    starts.ask("any").release()
    await advance(3600)
    assert granted([starts.ask("any") for _ in range(3)]) == [True, False, False]


async def test_a_rate_of_a_kind_holds_up_no_other() -> None:
    starts = shaped(slow=Rate(per_s=1))
    slow = [starts.ask("slow") for _ in range(2)]
    assert starts.ask("quick").granted
    await advance(0.5)
    assert granted(slow) == [True, False]
    await advance(0.5)
    assert granted(slow) == [True, True]


async def test_limits_that_change_hold_from_the_next_start_on() -> None:
    rate = Rate(at_once=1)
    starts = Starts(lambda kind: rate if kind is None else Rate())
    first, *others = (starts.ask("any") for _ in range(4))
    rate = Rate()
    first.release()
    assert all(granted(others))


async def test_no_timer_is_left_when_nobody_waits() -> None:
    starts = shaped(Rate(per_s=0.001))
    starts.ask("any").release()
    waits = starts.ask("any")
    waits.release()
    loop: Any = asyncio.get_running_loop()
    assert not [timer for timer in loop._scheduled if not timer.cancelled()]

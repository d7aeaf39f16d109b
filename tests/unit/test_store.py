"""The ledger through its interface: bots, runs, events and their listings, in real files."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from supervisor.core import errors, model
from supervisor.core.model import Cause, Goal, State
from supervisor.store import Ledger
from tests.ledgers import EACH_LEDGER, create_bot, create_bot_and_run, create_bots

pytestmark = pytest.mark.anyio

KEY = model.Idempotency(key="k")
NEW = model.NewBot(kind="counter", params={"start_number": 12})
ANY_STATE = frozenset(State)


async def the_bot(ledger: Ledger, bot_id: int) -> model.Bot:
    bot = await ledger.bot(bot_id)
    assert bot is not None
    return bot


async def the_run(ledger: Ledger, run_id: int) -> model.Run:
    run = await ledger.run(run_id)
    assert run is not None
    return run


async def bot_and_run(ledger: Ledger, new: model.NewBot = NEW, started_at: int = 1) -> tuple[model.Bot, int]:
    bot, run_id, created = await create_bot_and_run(ledger, new, started_at=started_at)
    assert created
    assert run_id is not None
    return bot, run_id


def bot_like(**fields: object) -> model.NewBot:
    return model.NewBot(**{"kind": "counter", "params": {}, **fields})  # type: ignore[arg-type]


async def open_run(ledger: Ledger, bot: model.Bot, started_at: int = 1) -> int:
    return await ledger.open_run(bot.bot_id, kind=bot.kind, params=bot.params, started_at=started_at, restarts=0)


def end(ledger: Ledger, run_id: int, cause: Cause = Cause.EXITED, **fields: object) -> asyncio.Future[None]:
    how = {"exit_code": 0, "signal": None, "ended_at": 99, "cpu_seconds": 0.5, "max_rss_bytes": 4096, **fields}
    how |= {"log_end": 7, "last_lines": ("one", "two")}
    return ledger.close_run(
        run_id,
        exit=model.Exit(**how),  # type: ignore[arg-type]
        cause=cause,
        detail="so it went",
    )


@EACH_LEDGER
async def test_a_bot_comes_back_as_it_was_made(ledger: Ledger) -> None:
    policy = model.RestartPolicy(policy=model.Policy.ALWAYS, delay_s=0.25, retry_after_s=60.0)
    new = model.NewBot(
        kind="trader", params={"a": [1, None, 2.5]}, name="web", labels={"team": "a"}, restart=policy, grace_s=3
    )
    before = model.now_us()
    bot, created = await create_bot(ledger, new)
    assert created
    assert (bot.kind, bot.params, bot.name, bot.labels) == ("trader", {"a": [1, None, 2.5]}, "web", {"team": "a"})
    assert (bot.restart, bot.grace_s) == (policy, 3)
    assert (bot.goal, bot.state, bot.reason) == (Goal.UP, State.STARTING, "asked to start")
    assert before <= bot.created_at <= model.now_us()
    assert await ledger.bot(bot.bot_id) == bot
    assert await ledger.bot(bot.bot_id + 1) is None


async def test_any_text_survives(ledger: Ledger) -> None:
    odd = "\ud800 \x00 ü \U0001f916"
    bot, run_id = await bot_and_run(ledger, bot_like(params={odd: odd}, labels={odd: odd}))
    await ledger.record(bot.bot_id, run_id, State.FAILED, Goal.UP, odd, 1)
    await ledger.close_run(
        run_id,
        exit=model.Exit(exit_code=1, signal=None, ended_at=1, cpu_seconds=None, max_rss_bytes=None, last_lines=(odd,)),
        cause=Cause.CRASHED,
        detail=odd,
    )
    read = await the_bot(ledger, bot.bot_id)
    run = await the_run(ledger, run_id)
    assert read.params == read.labels == {odd: odd}
    assert run.params == {odd: odd}
    assert run.last_lines == (odd,)
    assert read.reason == run.detail == odd.replace("\ud800", "\\ud800")
    assert await ledger.bots(model.BotQuery(kind=odd, name=odd, labels={odd: odd})) == []


async def test_the_parameters_with_secrets(ledger: Ledger) -> None:
    """Those that are not found lose their secrets at the next start."""
    secret = {"pairs": ["BTC"], "token": f"secret:{'0' * 32}"}
    for params in (secret, {"token": "env:TOKEN"}, {}):
        await create_bot(ledger, bot_like(params=params))
    forgotten, _ = await create_bot(ledger, bot_like(params={"token": f"secret:{'1' * 32}"}))
    await ledger.forget_bot(forgotten.bot_id)
    assert await ledger.params_with_secrets() == [secret]


@EACH_LEDGER
async def test_a_bot_and_its_first_run_are_one_write(ledger: Ledger) -> None:
    bot, run_id = await bot_and_run(ledger, started_at=123)
    run = await the_run(ledger, run_id)
    assert (run.bot_id, run.kind, run.params, run.started_at) == (bot.bot_id, "counter", {"start_number": 12}, 123)
    assert (run.identity, run.cause, run.log_start, run.last_lines) == (None, None, 0, ())


@EACH_LEDGER
async def test_the_same_idempotency_key_makes_one_bot(ledger: Ledger) -> None:
    answers = await asyncio.gather(
        *(create_bot_and_run(ledger, bot_like(name="x"), started_at=1, idempotency=KEY) for _ in range(20))
    )
    [(first, run_id, _)] = [answer for answer in answers if answer[2]]
    assert run_id is not None
    assert {(bot.bot_id, run_id) for bot, run_id, created in answers if not created} == {(first.bot_id, None)}
    # Another ask with the key, and one after the bot was forgotten, get the same bot still.
    assert await create_bot(ledger, bot_like(kind="other"), idempotency=KEY) == (first, False)
    await ledger.forget_bot(first.bot_id)
    bot, created = await create_bot(ledger, NEW, idempotency=KEY)
    assert (bot.bot_id, created) == (first.bot_id, False)
    assert len((await ledger.runs(model.RunQuery())).items) == 1


@EACH_LEDGER
async def test_a_name_is_taken_until_its_bot_is_forgotten(ledger: Ledger) -> None:
    first, _ = await create_bot(ledger, bot_like(name="web"))
    run_id = await open_run(ledger, first)
    for attempt in (
        create_bot(ledger, bot_like(name="web")),
        create_bot_and_run(ledger, bot_like(name="web"), started_at=1),
        create_bots(ledger, [bot_like(name="web")]),
    ):
        with pytest.raises(errors.NameTaken, match="'web'"):
            await attempt
    await ledger.forget_bot(first.bot_id)
    await ledger.forget_bot(first.bot_id)
    second, _ = await create_bot(ledger, bot_like(name="web"))
    assert second.bot_id > first.bot_id
    assert await ledger.bot(first.bot_id) is None
    assert [bot.bot_id for bot in await ledger.bots(model.BotQuery(states=ANY_STATE))] == [second.bot_id]
    assert [bot.bot_id for bot in await ledger.bots_to_settle()] == [second.bot_id]
    assert (await the_run(ledger, run_id)).bot_id == first.bot_id


@EACH_LEDGER
async def test_a_batch_is_made_whole_or_not_at_all(ledger: Ledger) -> None:
    made, created = await ledger.create_bots(NEW, 3, started_at=1, idempotency=KEY)
    assert created
    assert [await ledger.bot(bot.bot_id) for bot, _ in made] == [bot for bot, _ in made]
    assert [(await the_run(ledger, run_id or 0)).bot_id for _, run_id in made] == [bot.bot_id for bot, _ in made]
    with pytest.raises(errors.NameTaken):
        await ledger.create_bots(bot_like(name="b"), 2, started_at=1)
    assert len(await ledger.bots(model.BotQuery())) == 3


@EACH_LEDGER
async def test_a_key_is_that_of_a_whole_batch(ledger: Ledger) -> None:
    made, _ = await ledger.create_bots(NEW, 12, started_at=1, idempotency=KEY)
    for key in ("k1", "k:", "j"):
        await create_bot(ledger, NEW, idempotency=model.Idempotency(key=key))
    again, created = await ledger.create_bots(NEW, 2, started_at=1, idempotency=KEY)
    assert not created
    assert [bot for bot, _ in again] == [bot for bot, _ in made] == await ledger.bots_of_key(KEY)
    assert (await create_bot(ledger, NEW, idempotency=model.Idempotency(key="other")))[1]


async def test_a_key_is_that_of_one_request(ledger: Ledger) -> None:
    keys = {digest: model.Idempotency(key="k", digest=digest) for digest in ("one", "another", None)}
    made, _ = await ledger.create_bots(NEW, 2, started_at=1, idempotency=keys["one"])
    with pytest.raises(errors.KeyReused, match="made 2 bots"):
        await ledger.bots_of_key(keys["another"])
    with pytest.raises(errors.KeyReused, match="made 2 bots"):
        await ledger.create_bots(NEW, 2, started_at=1, idempotency=keys["another"])
    for same in (keys["one"], keys[None]):
        assert await ledger.bots_of_key(same) == [bot for bot, _ in made]
    await ledger.undo_bots([bot.bot_id for bot, _ in made])
    assert (await ledger.create_bots(NEW, 1, started_at=1, idempotency=keys["another"]))[1]
    # A key of a version that kept no digest is that of any request.
    bot, _ = await create_bot(ledger, NEW, idempotency=model.Idempotency(key="old"))
    assert await create_bot(ledger, NEW, idempotency=model.Idempotency(key="old", digest="one")) == (bot, False)
    assert len(await ledger.bots(model.BotQuery())) == 2


async def test_ids_are_never_used_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = await Ledger.open(path)
    bot, run_id = await bot_and_run(ledger)
    await ledger.record(bot.bot_id, run_id, State.RUNNING, Goal.UP, "ready", 1)
    latest = await ledger.latest_event()
    await ledger.close()
    with sqlite3.connect(path) as db:
        # As somebody who tidies up by hand might.
        db.executescript("DELETE FROM event WHERE event_id < 1; DELETE FROM run; DELETE FROM bot;")
    db.close()
    ledger = await Ledger.open(path)
    again, run_again = await bot_and_run(ledger)
    assert (again.bot_id, run_again) == (bot.bot_id + 1, run_id + 1)
    await ledger.record(again.bot_id, run_again, State.RUNNING, Goal.UP, "ready", 1)
    # Between the two is the event that came with the second bot.
    assert await ledger.latest_event() == latest + 2
    await ledger.close()


@EACH_LEDGER
async def test_events_have_no_gaps_in_their_numbers(ledger: Ledger) -> None:
    """Not by commands that failed, or made nothing."""
    told: list[int] = []
    ledger.watch(lambda event, _: told.append(event.event_id))
    bot, run_id, _ = await create_bot_and_run(
        ledger, bot_like(name="web"), started_at=1, idempotency=model.Idempotency(key="k")
    )
    with pytest.raises(errors.NameTaken):
        await create_bot_and_run(ledger, bot_like(name="web"), started_at=1)
    await create_bot_and_run(ledger, NEW, started_at=1, idempotency=model.Idempotency(key="k"))
    budget = model.Budget(key="b", starts=1, per_s=60)
    await ledger.create_bots(NEW, 3, started_at=1, budget=budget)
    await ledger.undo_bots([99])
    await ledger.record(bot.bot_id, run_id, State.RUNNING, Goal.UP, "ready", 1)
    assert told == [1, 2, 3]
    assert await ledger.latest_event() == 3


@EACH_LEDGER
async def test_a_run_from_fork_to_reaping(ledger: Ledger) -> None:
    bot, _ = await create_bot(ledger, NEW)
    run_id = await ledger.open_run(bot.bot_id, kind="counter", params={"n": 1}, started_at=50, restarts=3)
    assert (await the_bot(ledger, bot.bot_id)).restarts == 3
    identity = model.Identity(pid=42, start_ticks=2**40, inode=2**50, boot_id="0b1d")
    ledger.identify_run(run_id, identity, 1000)
    await ledger.set_ready(run_id, 60)
    [run] = await ledger.open_runs()
    assert (run.identity, run.started_at, run.ready_at, run.log_start) == (identity, 50, 60, 1000)

    await end(ledger, run_id, Cause.KILLED, exit_code=None, signal=9, descendants_killed=2)
    run = await the_run(ledger, run_id)
    assert (run.exit_code, run.signal, run.cause, run.detail) == (None, "SIGKILL", Cause.KILLED, "so it went")
    assert (run.ended_at, run.cpu_seconds, run.max_rss_bytes, run.descendants_killed) == (99, 0.5, 4096, 2)
    assert (run.log_end, run.last_lines) == (7, ("one", "two"))
    assert await ledger.open_runs() == []


@EACH_LEDGER
async def test_a_closed_run_stays_as_it_is_but_for_a_higher_sweep(ledger: Ledger) -> None:
    _, run_id = await bot_and_run(ledger)
    await end(ledger, run_id, Cause.STOPPED, descendants_killed=1)
    closed = await ledger.run(run_id)
    await end(ledger, run_id, Cause.LOST, ended_at=100, descendants_killed=5)
    assert await ledger.run(run_id) == closed
    for killed, known in ((4, 4), (2, 4), (6, 6)):
        await ledger.sweep_run(run_id, killed)
        assert (await the_run(ledger, run_id)).descendants_killed == known


@EACH_LEDGER
async def test_an_event_moves_the_bot(ledger: Ledger) -> None:
    bot, run_id = await bot_and_run(ledger)
    last_exit = model.LastExit(exit_code=None, signal="SIGSEGV", cause=Cause.KILLED, at=5)
    told: list[model.Event] = []
    ledger.watch(lambda event, _: told.append(event))
    ledger.record(bot.bot_id, run_id, State.BACKOFF, Goal.UP, "was killed", 7, last_exit)
    await ledger.record(bot.bot_id, None, State.STOPPED, Goal.DOWN, "asked to stop", 8)
    event, later = told
    assert event == model.Event(
        event_id=2, at=7, bot_id=bot.bot_id, run_id=run_id, state=State.BACKOFF, goal=Goal.UP, reason="was killed"
    )
    assert later.event_id == 3
    read = await the_bot(ledger, bot.bot_id)
    assert (read.state, read.goal, read.reason, read.last_exit) == (
        State.STOPPED,
        Goal.DOWN,
        "asked to stop",
        last_exit,
    )


@EACH_LEDGER
async def test_what_is_left_to_settle(ledger: Ledger) -> None:
    bots = await create_bots(ledger, [NEW] * (2 * len(State)))
    expected = []
    for bot, (state, goal) in zip(bots, ((s, g) for s in State for g in Goal), strict=True):
        ledger.record(bot.bot_id, None, state, goal, "", 1)
        if goal is Goal.UP or state in model.ACTIVE:
            expected.append(bot.bot_id)
    await ledger.record(bots[0].bot_id, None, State.STARTING, Goal.UP, "", 1)
    assert [bot.bot_id for bot in await ledger.bots_to_settle()] == expected


@EACH_LEDGER
async def test_bots_are_filtered_and_paged(ledger: Ledger) -> None:
    labels = [{"team": "a"}, {"team": "a", 'we"ird.$[0]': "x'y"}, {"team": "b"}]
    bots = await create_bots(ledger, [bot_like(labels=labels[n % 3], name=f"n{n}") for n in range(9)])
    ids = [bot.bot_id for bot in bots]
    await create_bot(ledger, bot_like(kind="trader"))
    await ledger.record(ids[4], None, State.FAILED, Goal.UP, "", 1)

    async def found(exclude: list[int] | None = None, **query: object) -> list[int]:
        page = await ledger.bots(model.BotQuery(**query), exclude=exclude or [])  # type: ignore[arg-type]
        return [bot.bot_id for bot in page]

    assert await found(kind="counter") == [n for n in ids if n != ids[4]]
    assert await found(kind="counter", states=ANY_STATE) == ids
    assert await found(states=frozenset({State.FAILED, State.EXITED})) == [ids[4]]
    assert await found(states=frozenset()) == []
    assert await found(name="n3") == [ids[3]]
    assert await found(name="n4") == []
    assert await found(labels={"team": "b"}) == [ids[2], ids[5], ids[8]]
    assert await found(labels={"team": "a", 'we"ird.$[0]': "x'y"}) == [ids[1], ids[7]]
    assert await found(labels={"team": "A"}) == []
    assert await found(kind="counter", limit=3) == ids[:4]
    assert await found(kind="counter", limit=3, after=ids[5]) == ids[6:]
    assert await found(kind="counter", bot_ids=frozenset({*ids[3:6], 10_000})) == [ids[3], ids[5]]
    assert await found(bot_ids=frozenset()) == []
    assert await found(kind="counter", exclude=ids[:7]) == ids[7:]
    assert await found(kind="counter", exclude=list(range(100_000))) == []


@EACH_LEDGER
async def test_runs_are_paged_by_every_filter(ledger: Ledger) -> None:
    """Against the same filters in Python; the clock is set back twice on the way."""
    causes = list(Cause)
    bots = await create_bots(ledger, [bot_like(kind="ab"[n % 2]) for n in range(5)])
    ids = []
    for n in range(2500):
        started_at = n if n < 1000 else n - 700 if n < 2000 else n - 1500
        ids.append(asyncio.ensure_future(open_run(ledger, bots[n % 7 % 5], started_at)))
    run_ids = await asyncio.gather(*ids)
    await asyncio.gather(*(end(ledger, run_id, causes[n % 13 % 11]) for n, run_id in enumerate(run_ids) if n % 17))
    every = (await ledger.runs(model.RunQuery(limit=2500))).items
    assert [run.run_id for run in every] == sorted(run_ids)

    for bot_id in (None, bots[1].bot_id, 99):
        for kind in (None, "a", "b", "c"):
            for wanted in (frozenset(), frozenset({Cause.OOM}), frozenset({Cause.LOST, Cause.EXITED})):
                for since, until in (
                    (None, None),
                    (650, None),
                    (None, 310),
                    (990, 1010),
                    (999, None),
                    (None, 301),
                    (5000, None),
                    (None, 0),
                ):
                    expected = [
                        run.run_id
                        for run in every
                        if bot_id in (None, run.bot_id)
                        and kind in (None, run.kind)
                        and (not wanted or run.cause in wanted)
                        and (since is None or run.started_at >= since)
                        and (until is None or run.started_at < until)
                    ]
                    found: list[int] = []
                    after: int | None = 0
                    while after is not None:
                        query = model.RunQuery(
                            bot_id=bot_id, kind=kind, causes=wanted, since=since, until=until, after=after, limit=700
                        )
                        page = await ledger.runs(query)
                        found += (run.run_id for run in page.items)
                        after = page.next_after
                    assert found == expected, query


@EACH_LEDGER
async def test_a_full_last_page_is_the_last(ledger: Ledger) -> None:
    bot, _ = await create_bot(ledger, NEW)
    for _ in range(4):
        await open_run(ledger, bot)
    first = await ledger.runs(model.RunQuery(limit=2))
    last = first.items[-1].run_id
    assert first.next_after == last
    assert (await ledger.runs(model.RunQuery(limit=2, after=last))).next_after is None


@EACH_LEDGER
async def test_the_latest_run_of_a_bot(ledger: Ledger) -> None:
    bot, _ = await create_bot(ledger, NEW)
    assert await ledger.latest_run(bot.bot_id) is None
    runs = [await open_run(ledger, bot) for _ in range(3)]
    await create_bot_and_run(ledger, NEW, started_at=1)
    assert await ledger.latest_run(bot.bot_id) == await the_run(ledger, runs[-1])
    await end(ledger, runs[-1])
    assert await ledger.latest_run(bot.bot_id) == await the_run(ledger, runs[-1])


async def test_after_close_nothing_is_left_and_nothing_is_taken(tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    ledger = await Ledger.open(tmp_path / "ledger.db")
    bot, _ = await create_bot(ledger, NEW)
    unawaited = [ledger.record(bot.bot_id, None, State.RUNNING, Goal.UP, str(n), 1) for n in range(1000)]
    await ledger.close()
    assert set(threading.enumerate()) == threads
    assert all(written.done() for written in unawaited)
    assert ledger.queued == 0
    assert os.listdir(tmp_path) == ["ledger.db"]
    with pytest.raises(errors.LedgerUnavailable, match="closed"):
        await create_bot(ledger, NEW)
    with pytest.raises(errors.LedgerUnavailable, match="closed"):
        await ledger.bot(bot.bot_id)
    await asyncio.wait_for(ledger.set_ready(1, 1), 1)

    ledger = await Ledger.open(tmp_path / "ledger.db")
    assert (await the_bot(ledger, bot.bot_id)).reason == "999"
    await ledger.close()


async def test_a_ledger_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    ledger = await Ledger.open(tmp_path / "ledger.db")
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute("DROP TABLE event")
        db.execute("DROP TABLE run")
    db.close()
    with pytest.raises(errors.LedgerUnavailable, match="no such table: run"):
        await ledger.run(1)
    await ledger.close()


async def test_a_watcher_is_told_of_each_event_once_it_is_durable(ledger: Ledger, tmp_path: Path) -> None:
    told: list[tuple[int, State, bool]] = []

    def watcher(event: model.Event, last_exit: model.LastExit | None) -> None:
        with sqlite3.connect(tmp_path / "ledger.db") as db:
            [(there,)] = db.execute("SELECT count(*) FROM event WHERE event_id = ?", (event.event_id,))
        db.close()
        told.append((event.event_id, event.state, bool(there)))

    leave = ledger.watch(watcher)
    bot, run_id = await bot_and_run(ledger)
    ledger.record(bot.bot_id, run_id, State.RUNNING, Goal.UP, "ready", 2)
    # Who is cancelled has written all the same.
    second = asyncio.create_task(bot_and_run(ledger))
    await asyncio.sleep(0)
    second.cancel()
    await ledger.record(bot.bot_id, run_id, State.STOPPING, Goal.DOWN, "asked to stop", 3)
    states = [State.STARTING, State.RUNNING, State.STARTING, State.STOPPING]
    assert told == [(number, state, True) for number, state in enumerate(states, start=1)]
    leave()
    await ledger.record(bot.bot_id, run_id, State.STOPPED, Goal.DOWN, "stopped", 4)
    assert len(told) == 4


async def test_the_latest_end_of_a_cause(ledger: Ledger) -> None:
    bot, first = await bot_and_run(ledger, bot_like(name="btc", labels={"team": "a"}))
    await end(ledger, first, Cause.CRASHED, exit_code=1, signal=None)
    second = await open_run(ledger, bot)
    await end(ledger, second, Cause.CRASHED, exit_code=3, signal=None)
    await open_run(ledger, bot)
    await ledger.forget_bot(bot.bot_id)
    crashed, lost = await ledger.latest_endings([(bot.bot_id, Cause.CRASHED), (bot.bot_id, Cause.LOST)])
    assert (crashed.run_id, crashed.fingerprint, crashed.detail) == (second, "crashed:3", "so it went")
    assert lost == model.Ending(kind="counter", name="btc", labels={"team": "a"})


async def test_events_with_larger_numbers(ledger: Ledger) -> None:
    bot, run_id = await bot_and_run(ledger, bot_like(name="btc"))
    for state in (State.RUNNING, State.STOPPING, State.STOPPED):
        await ledger.record(bot.bot_id, run_id, state, Goal.DOWN, "so it goes", 1)
    latest = await ledger.latest_event()
    found = await ledger.events_after(latest - 3, limit=2)
    assert [(entry.event.event_id, entry.event.state) for entry in found] == [
        (latest - 2, State.RUNNING),
        (latest - 1, State.STOPPING),
    ]
    event = model.Event(
        event_id=latest,
        at=1,
        bot_id=bot.bot_id,
        run_id=run_id,
        state=State.STOPPED,
        goal=Goal.DOWN,
        reason="so it goes",
    )
    assert await ledger.events_after(latest - 1, limit=2) == [
        model.Entry(event=event, kind="counter", name="btc", deleted=False)
    ]


@EACH_LEDGER
async def test_runs_that_need_not_be_kept(ledger: Ledger) -> None:
    bot, _ = await create_bot(ledger, NEW)
    other, _ = await bot_and_run(ledger)
    run_ids = [await open_run(ledger, bot, started_at=n) for n in range(4)]
    for n, run_id in enumerate(run_ids[:3]):
        await end(ledger, run_id, ended_at=10 * n)
    assert await ledger.crowded_bots(3) == [bot.bot_id]
    assert await ledger.surplus_runs(bot.bot_id, 2, limit=10) == run_ids[:2]
    assert await ledger.surplus_runs(bot.bot_id, 2, limit=1) == run_ids[:1]
    assert (await ledger.old_runs(20, after=0, limit=10))[0] == run_ids[:2]
    assert await ledger.delete_runs(run_ids) == 3
    assert [run.run_id for run in await ledger.open_runs()] == [1, run_ids[3]]
    await end(ledger, run_ids[3])
    # The last run of a bot that goes on stays; once that is forgotten it may go.
    assert await ledger.delete_runs(run_ids) == 0
    await ledger.forget_bot(bot.bot_id)
    assert await ledger.delete_runs(run_ids) == 1
    assert await ledger.forgotten_bots([bot.bot_id, other.bot_id, 99]) == [bot.bot_id]

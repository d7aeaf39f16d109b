"""Start budgets in the ledger: what is counted, what is refused, and until when."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from supervisor.core import errors, model
from supervisor.store import Ledger, budgets
from tests.ledgers import EACH_LEDGER, create_bot, create_bot_and_run

pytestmark = pytest.mark.anyio

NEW = model.NewBot(kind="trader", params={})
ALICE = model.Budget(key="discord:alice", starts=2, per_s=86_400)
DAY = 86_400_000_000


class Clock:
    """The wall clock, which anybody may set."""

    now = 1_000 * DAY

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(model, "now_us", clock)
    return clock


async def start(ledger: Ledger, budget: model.Budget | None = ALICE) -> int:
    """A run of the first bot, which is made if there is none."""
    if await ledger.bot(1) is None:
        await create_bot(ledger, NEW)
    return await ledger.open_run(1, kind="trader", params={}, started_at=1, restarts=7, budget=budget)


def rows(tmp_path: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        return db.execute("SELECT key, at FROM start ORDER BY start_id").fetchall()


@EACH_LEDGER
async def test_a_budget_is_used_up(ledger: Ledger, clock: Clock) -> None:
    first = clock.now
    assert await start(ledger) == 1
    clock.now += 10
    assert await start(ledger) == 2
    with pytest.raises(errors.BudgetSpent) as spent:
        await start(ledger)
    assert spent.value.detail == "the start budget of discord:alice is used up: 2 starts in 86400 s"
    assert spent.value.until == first + DAY
    assert len((await ledger.runs(model.RunQuery())).items) == 2
    # Starts without a budget, and those with another key, go on.
    await start(ledger, None)
    await start(ledger, model.Budget(key="discord:bob", starts=1, per_s=1))


@EACH_LEDGER
async def test_a_start_counts_until_its_window_is_over(ledger: Ledger, clock: Clock) -> None:
    for _ in range(2):
        await start(ledger)
        clock.now += 10
    with pytest.raises(errors.BudgetSpent) as spent:
        await start(ledger)
    clock.now = spent.value.until - 1
    with pytest.raises(errors.BudgetSpent):
        await start(ledger)
    clock.now += 1
    await start(ledger)
    with pytest.raises(errors.BudgetSpent) as spent:
        await start(ledger)
    assert spent.value.until == clock.now + 10


async def test_a_budget_outlives_the_supervisor(tmp_path: Path) -> None:
    for _ in range(2):
        ledger = await Ledger.open(tmp_path / "ledger.db")
        await start(ledger)
        await ledger.close()
    ledger = await Ledger.open(tmp_path / "ledger.db")
    with pytest.raises(errors.BudgetSpent):
        await start(ledger)
    await ledger.close()


@EACH_LEDGER
async def test_a_budget_that_was_made_smaller(ledger: Ledger, clock: Clock) -> None:
    began = clock.now
    for second in range(5):
        clock.now = began + second
        await start(ledger, model.Budget(key=ALICE.key, starts=5, per_s=86_400))
    with pytest.raises(errors.BudgetSpent) as spent:
        await start(ledger)
    # Four of the five must fall out, so that one of two is left.
    assert spent.value.until == began + 3 + DAY


@EACH_LEDGER
async def test_the_clock_is_set_back(ledger: Ledger, clock: Clock) -> None:
    await start(ledger)
    await start(ledger)
    later = clock.now
    clock.now -= 3 * DAY
    with pytest.raises(errors.BudgetSpent) as spent:
        await start(ledger)
    assert spent.value.until == later + DAY


async def test_nothing_is_written_of_a_start_that_is_refused(ledger: Ledger, clock: Clock, tmp_path: Path) -> None:
    none = model.Budget(key="k", starts=1, per_s=1)
    await start(ledger, none)
    before = rows(tmp_path)
    with pytest.raises(errors.BudgetSpent):
        await ledger.open_run(1, kind="trader", params={}, started_at=1, restarts=8, budget=none)
    assert rows(tmp_path) == before
    bot = await ledger.bot(1)
    assert bot is not None
    assert bot.restarts == 7


async def test_a_start_that_fails_does_not_count(ledger: Ledger, tmp_path: Path) -> None:
    await create_bot_and_run(ledger, model.NewBot(kind="trader", params={}, name="a"), started_at=1, budget=ALICE)
    with pytest.raises(errors.NameTaken):
        await create_bot_and_run(ledger, model.NewBot(kind="trader", params={}, name="a"), started_at=1, budget=ALICE)
    assert len(rows(tmp_path)) == 1


async def test_a_new_bot_without_a_start_left_is_made_without_a_run(ledger: Ledger, tmp_path: Path) -> None:
    for _ in range(2):
        _, run_id, _ = await create_bot_and_run(ledger, NEW, started_at=1, budget=ALICE)
        assert run_id is not None
    bot, run_id, created = await create_bot_and_run(ledger, NEW, started_at=1, idempotency_key="k", budget=ALICE)
    assert (run_id, created) == (None, True)
    assert await ledger.bot(bot.bot_id) == bot
    assert await ledger.latest_run(bot.bot_id) is None
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        assert db.execute("SELECT bot_id FROM event").fetchall() == [(1,), (2,)]
    # Whoever asks again with its key finds it, and no start is counted.
    assert await create_bot_and_run(ledger, NEW, started_at=1, idempotency_key="k") == (bot, None, False)


async def test_old_starts_are_tidied_away_a_few_at_a_time(ledger: Ledger, clock: Clock, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as db:
        old = [("discord:alice", clock.now - DAY)] * (budgets._TIDIED + 5)
        db.executemany("INSERT INTO start (key, at) VALUES (?, ?)", [*old, ("discord:bob", 1)])
    await start(ledger)
    assert len(rows(tmp_path)) == 5 + 2
    await start(ledger)
    assert rows(tmp_path) == [("discord:bob", 1), *[("discord:alice", clock.now)] * 2]

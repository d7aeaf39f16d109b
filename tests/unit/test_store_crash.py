"""Kill -9 of the process that writes the ledger: nothing that it had been told is written may be missing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

from supervisor.core import model
from supervisor.store import Ledger
from tests.ledgers import create_bot

WRITER = textwrap.dedent(
    """
    import asyncio, os, pathlib, sys
    from supervisor.core import model
    from supervisor.store import Ledger

    async def write(ledger):
        new = model.NewBot(kind="counter", params={})
        while True:
            [(bot, run_id)], _ = await ledger.create_bots(new, started_at=1)
            os.write(1, f"run {run_id}\\n".encode())
            ledger.record(bot.bot_id, run_id, model.State.EXITED, model.Goal.UP, "done", 1)
            exit_ = model.Exit(exit_code=0, signal=None, ended_at=1, cpu_seconds=None, max_rss_bytes=None)
            await ledger.close_run(run_id, exit=exit_, cause=model.Cause.EXITED, detail="")

    def tell(event, _):
        os.write(1, f"event {event.event_id} {event.bot_id} {event.state}\\n".encode())

    async def main():
        ledger = await Ledger.open(pathlib.Path(sys.argv[1]))
        ledger.watch(tell)
        await asyncio.gather(*(write(ledger) for _ in range(20)))

    asyncio.run(main())
    """
)


def _written_before_death(path: Path, after_lines: int) -> list[list[str]]:
    """The lines of a process that is killed when it has written that many."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(20, process.kill)
    watchdog.start()
    lines = []
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            lines.append(line)
            if len(lines) == after_lines:
                process.kill()
    watchdog.cancel()
    assert process.returncode == -signal.SIGKILL
    assert len(lines) >= after_lines
    if not lines[-1].endswith("\n"):
        lines.pop()
    return [line.split() for line in lines]


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    runs: set[int] = set()
    told: list[tuple[int, int, str]] = []
    for _ in range(10):
        for what, number, *event in _written_before_death(path, after_lines=random.randint(1, 400)):
            if what == "run":
                assert int(number) not in runs, "a number was given twice"
                runs.add(int(number))
            else:
                told.append((int(number), int(event[0]), event[1]))
        assert told == sorted(told), "what a follower was told comes again, or late"

        async def check() -> None:
            ledger = await Ledger.open(path)
            await create_bot(ledger, model.NewBot(kind="counter", params={}))
            await ledger.close()

        asyncio.run(check())
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert runs <= {run_id for (run_id,) in db.execute("SELECT run_id FROM run")}
            written = db.execute("SELECT event_id, bot_id, state FROM event ORDER BY event_id").fetchall()
            assert set(told) <= set(written)
            assert [event_id for event_id, *_ in written] == list(range(1, len(written) + 1)), "there are gaps"
            # A bot was never written without its first run, nor an event without its bot's state.
            first_runs = "SELECT count(*) FROM run JOIN bot USING (bot_id) WHERE bot.state = 'exited'"
            ends = "SELECT count(*) FROM event WHERE state = 'exited'"
            assert db.execute(first_runs).fetchone() == db.execute(ends).fetchone()
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []

"""Supervisor, zygotes and bots are killed at random while bots are started, stopped and restarted.

Each run draws a seed and prints it. RANDOM_DEATH_SEED takes one back: the same victims, and the same commands, though
not at the same moments.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import psutil
import pytest

from tests.faults.observe import ends_well, one_process_each
from tests.program import Program
from tests.waiting import wait_for

SEED = int(os.environ.get("RANDOM_DEATH_SEED") or random.randrange(1 << 32))
KINDS = {"deaf": 'target = "misbehaving:deaf"\ngrace_s = 0.2'}
CALLERS = 3
BOTS_EACH = 4


@dataclass(slots=True, kw_only=True)
class Asked:
    """What was asked of a bot, as far as it was answered. `up` is None while nobody can know."""

    bot_id: int
    up: bool | None = True
    starts: int = 1
    stops: int = 0


class Caller:
    """Asks for one thing after the other, each of a bot of its own, and keeps book of what was answered."""

    def __init__(self, program: Program, alive: threading.Event, seed: int) -> None:
        self.bots: list[Asked] = []
        self.answers = 0
        self._program = program
        self._alive = alive
        self._chance = random.Random(seed)

    def call(self, over: threading.Event) -> None:
        """Until it is over; a supervisor that was killed is waited for."""
        with httpx.Client(timeout=30) as client:
            while not over.is_set():
                self._alive.wait()
                client.base_url = self._program.client.base_url
                try:
                    self._ask(client)
                except httpx.TransportError:
                    continue
                self.answers += 1

    def _ask(self, client: httpx.Client) -> None:
        if len(self.bots) < BOTS_EACH:
            kind = self._chance.choice(["counter", "counter", "deaf"])
            restart = {"policy": "always", "delay_s": 0.02, "factor": 1, "max_restarts": 10_000}
            answer = client.post("/start", json={"kind": kind, "restart": restart})
            if self._is_done(answer):
                self.bots.append(Asked(bot_id=answer.json()["bot_id"]))
            return
        bot = self._chance.choice(self.bots)
        verb = "start" if bot.up is False else self._chance.choice(["stop", "restart"])
        was, bot.up = bot.up, None
        answer = client.post(f"/bots/{bot.bot_id}/{verb}")
        if not self._is_done(answer):
            assert verb != "stop", "a stop is never refused"
            return
        bot.up = verb != "stop"
        bot.starts += bot.up
        # One that was down already, by a stop that was not answered, is not stopped once more.
        bot.stops += not bot.up and was is True

    def _is_done(self, answer: httpx.Response) -> bool:
        assert answer.status_code in (200, 503), answer.text
        if answer.status_code == 503:
            # Its zygote was killed; a moment later there is another.
            assert int(answer.headers["Retry-After"]) > 0
        return answer.status_code == 200


def bots(program: Program) -> list[psutil.Process]:
    return program.processes()


def zygotes(program: Program) -> list[psutil.Process]:
    found = []
    for process in program.processes(every=True):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{process.pid}/fd/1").startswith(str(program.data_dir / "kinds")):
                found.append(process)
    return found


def kill_one(chance: random.Random, among: Callable[[Program], list[psutil.Process]], program: Program) -> None:
    found = sorted(among(program), key=lambda process: process.pid)
    if found:
        with contextlib.suppress(psutil.NoSuchProcess):
            chance.choice(found).kill()


@pytest.mark.parametrize(
    "deaths",
    [
        # A machine that is busy with other tests takes ten seconds for each, most of them for the next start.
        pytest.param(12, marks=pytest.mark.timeout(400, func_only=True)),
        pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1200, func_only=True)]),
    ],
)
def test_random_death(make_program: Callable[..., Program], deaths: int) -> None:
    """No duplicate, no orphan, no run without an end, and nothing that was answered is lost."""
    print(f"RANDOM_DEATH_SEED={SEED}")
    chance = random.Random(SEED)
    program = make_program(kinds=KINDS, flags=["--shutdown-s", "0.5"]).start()
    alive, over = threading.Event(), threading.Event()
    alive.set()
    callers = [Caller(program, alive, chance.randrange(1 << 32)) for _ in range(CALLERS)]
    with concurrent.futures.ThreadPoolExecutor(CALLERS) as threads:
        calling = [threads.submit(caller.call, over) for caller in callers]
        try:
            for death in range(deaths):
                # Of two, the second dies before there is another supervisor.
                victims = chance.choice(["supervisor", "zygote", "bot", "supervisor zygote", "supervisor bot"]).split()
                answers = sum(caller.answers for caller in callers) + chance.randrange(1, 12)
                wait_for(
                    lambda least=answers: (  # type: ignore[misc]
                        sum(caller.answers for caller in callers) >= least or any(one.done() for one in calling)
                    ),
                    20,
                    f"the answers before death {death}",
                )
                # At any moment of the next call.
                time.sleep(chance.random() / 50)
                if "supervisor" in victims:
                    alive.clear()
                    program.kill()
                if "zygote" in victims:
                    kill_one(chance, zygotes, program)
                if "bot" in victims:
                    kill_one(chance, bots, program)
                if "supervisor" in victims:
                    program.start()
                    alive.set()
        finally:
            over.set()
            alive.set()
        for one in calling:
            one.result()

    for asked in itertools.chain.from_iterable(caller.bots for caller in callers):
        states = {True: ("running",), False: ("stopped",), None: ("running", "stopped")}[asked.up]
        program.wait_state(asked.bot_id, *states)
        [(runs,)] = program.ledger("SELECT count(*) FROM run WHERE bot_id = ?", asked.bot_id)
        assert runs >= asked.starts, asked
        stopped = "SELECT count(*) FROM event WHERE bot_id = ? AND state = 'stopped'"
        [(stops,)] = program.ledger(stopped, asked.bot_id)
        assert stops >= asked.stops, asked
    # What was made and not answered runs as well, and has a bot; what was refused does not run.
    for bot in program.get("/bots", params={"state": "all", "limit": 1000}).json():
        program.wait_state(bot["bot_id"], "running", "stopped")
    wait_for(lambda: one_process_each(program), 5, "one process for each bot that is up, and no other")
    program.check_invariants()
    ends_well(program, signal.SIGTERM)

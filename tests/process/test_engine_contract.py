"""What every engine does, whatever it is made of."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervisor.core import errors
from tests.process.benches import Bench, FakeBench, LocalBench, run_of, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["local", "fake"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    made = await LocalBench(tmp_path).open() if request.param == "local" else FakeBench()
    try:
        yield made
    finally:
        await made.close()


# ---- warm


async def test_a_kind_is_cold_until_it_is_warmed(bench: Bench) -> None:
    before = bench.engine.kind_status("counter")
    assert (before.warm, before.pid, before.description) == (False, None, "")
    assert before.reason
    await bench.engine.warm("counter")
    after = bench.engine.kind_status("counter")
    assert after.warm
    assert after.pid is not None
    assert after.import_s is not None
    assert 0 <= after.import_s < 10
    assert after.rss_bytes is not None
    assert after.rss_bytes > 1 << 20
    assert after.description == "Prints a number each second, counting up from `start_number`."
    assert list(after.params or ()) == [{"name": "start_number", "type": "int", "required": False, "default": 0}]


async def test_to_warm_again_changes_nothing(bench: Bench) -> None:
    await asyncio.gather(*(bench.engine.warm("sleeps") for _ in range(3)))
    pid = bench.engine.kind_status("sleeps").pid
    await bench.engine.warm("sleeps")
    assert bench.engine.kind_status("sleeps").pid == pid


async def test_a_kind_that_cannot_be_imported_fails_for_good(bench: Bench) -> None:
    for _ in range(2):
        with pytest.raises(errors.SpawnFailed, match="RuntimeError: no configuration") as failed:
            await bench.engine.warm("broken")
        assert failed.value.permanent
    status = bench.engine.kind_status("broken")
    assert not status.warm
    assert "RuntimeError: no configuration" in status.reason


async def test_an_unknown_kind_fails_for_good(bench: Bench) -> None:
    """A bot may be of a kind that the settings had once."""
    with pytest.raises(errors.SpawnFailed) as failed:
        await bench.engine.warm("unheard-of")
    assert failed.value.permanent
    assert not bench.engine.kind_status("unheard-of").warm


async def test_warming_may_be_cancelled_and_asked_for_again(bench: Bench) -> None:
    warming = asyncio.create_task(bench.engine.warm("sleeps"))
    await asyncio.sleep(0)
    warming.cancel()
    await asyncio.gather(warming, return_exceptions=True)
    await bench.engine.warm("sleeps")
    assert bench.engine.kind_status("sleeps").warm


# ---- spawn


async def test_nothing_is_spawned_of_a_cold_kind(bench: Bench) -> None:
    with pytest.raises(errors.SpawnFailed) as failed:
        await bench.engine.spawn(bench.order("sleeps"))
    assert not failed.value.permanent


async def test_a_process_runs_and_is_ready(bench: Bench) -> None:
    process = await bench.start("sleeps", bot_id=7)
    assert process.identity.pid > 0
    await until(lambda: bench.notes)
    assert bench.notes == [(7, 1, {"READY": "1"})]
    waiting = asyncio.create_task(process.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_processes_are_different_ones(bench: Bench) -> None:
    await bench.engine.warm("sleeps")
    processes = await asyncio.gather(*(bench.spawn(bench.order("sleeps", n)) for n in range(1, 6)))
    assert len({p.identity.pid for p in processes}) == 5
    await until(lambda: len(bench.notes) == 5)
    assert {(bot_id, run_id) for bot_id, run_id, _ in bench.notes} == {(n, n) for n in range(1, 6)}


# ---- wait and sweep


@pytest.mark.parametrize("code", [0, 1, 44, 255])
async def test_an_exit_code(bench: Bench, code: int) -> None:
    process = await bench.start("exits", code=code)
    exit_ = await process.wait()
    assert (exit_.exit_code, exit_.signal) == (code, None)
    assert exit_.cpu_seconds is not None
    assert exit_.max_rss_bytes is not None
    assert exit_.max_rss_bytes > 1 << 20


@pytest.mark.parametrize("signum", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGTERM])
async def test_a_signal(bench: Bench, signum: signal.Signals) -> None:
    process = await bench.start("dies", signum=int(signum))
    exit_ = await process.wait()
    assert (exit_.exit_code, exit_.signal) == (None, signum)


async def test_several_may_wait_and_once_more_afterwards(bench: Bench) -> None:
    process = await bench.start("sleeps")
    given_up, *waiting = [asyncio.create_task(process.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    given_up.cancel()
    process.kill()
    exits = [await one for one in waiting]
    exits.append(await process.wait())
    assert len(set(exits)) == 1
    assert (await process.sweep()).swept


async def test_what_it_started_is_swept(bench: Bench) -> None:
    process = await bench.start("family")
    await bench.says(1, "family")
    usage = process.usage()
    assert usage is not None
    assert usage.descendants == 4
    process.kill()
    assert (await process.wait()).signal == signal.SIGKILL
    swept = await process.sweep()
    assert (swept.signal, swept.swept, swept.descendants_killed) == (signal.SIGKILL, True, 4)


async def test_it_may_be_acknowledged_before_it_is_swept(bench: Bench) -> None:
    process = await bench.start("family")
    await bench.says(1, "family")
    process.kill()
    await process.wait()
    process.acknowledge()
    assert (await process.sweep()).descendants_killed == 4


# ---- terminate, kill, signal


async def test_terminate_asks(bench: Bench) -> None:
    process = await bench.start("sleeps")
    process.terminate()
    assert (await process.wait()).exit_code == 0


async def test_terminate_wakes_one_that_is_stopped(bench: Bench) -> None:
    process = await bench.start("sleeps")
    await until(lambda: bench.notes)
    process.signal(signal.SIGSTOP)
    process.terminate()
    assert (await process.wait()).exit_code == 0


async def test_kill_ends_what_does_not_listen(bench: Bench) -> None:
    process = await bench.start("deaf")
    await bench.says(1, "deaf")
    process.terminate()
    waiting = asyncio.create_task(process.wait())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await asyncio.shield(waiting)
    process.kill()
    assert (await waiting).signal == signal.SIGKILL


async def test_another_signal(bench: Bench) -> None:
    process = await bench.start("sleeps")
    process.signal(signal.SIGUSR1)
    assert (await process.wait()).signal == signal.SIGUSR1


async def test_to_end_one_that_has_ended_does_nothing(bench: Bench) -> None:
    process = await bench.start("exits")
    await process.wait()
    process.terminate()
    process.kill()
    with pytest.raises(ProcessLookupError):
        process.signal(signal.SIGUSR1)
    process.acknowledge()
    process.acknowledge()
    assert (await process.wait()).exit_code == 0


# ---- usage


async def test_usage_of_the_living(bench: Bench) -> None:
    process, ended = await bench.start("sleeps"), await bench.start("exits", 2)
    await ended.sweep()
    assert ended.usage() is None
    used = process.usage()
    assert used is not None
    assert used.rss_bytes > 1 << 20
    assert used.threads == 1
    assert used.descendants == 0
    assert 0 <= used.cpu_seconds < 10


# ---- adopt


async def test_adopt_finds_a_process_that_lives(bench: Bench) -> None:
    await bench.engine.warm("sleeps")
    order = bench.order("sleeps")
    process = await bench.spawn(order)
    for identity in (process.identity, None):
        adopted = bench.engine.adopt(run_of(order, identity))
        assert adopted is not None
        assert adopted.identity == process.identity
        adopted.kill()
    assert (await process.wait()).signal == signal.SIGKILL


async def test_adopt_tells_of_an_end_until_it_is_acknowledged(bench: Bench) -> None:
    await bench.engine.warm("exits")
    order = bench.order("exits", code=9)
    process = await bench.spawn(order)
    await process.sweep()
    adopted = bench.engine.adopt(run_of(order, process.identity))
    assert adopted is not None
    assert (await adopted.wait()).exit_code == 9
    adopted.acknowledge()
    await until(lambda: bench.engine.adopt(run_of(order, process.identity)) is None)


async def test_what_nobody_claims_is_ended_and_forgotten(bench: Bench) -> None:
    await bench.engine.warm("sleeps")
    orders = [bench.order("sleeps", bot_id) for bot_id in (1, 2, 3)]
    first, second, third = [await bench.spawn(order) for order in orders]
    third.kill()
    await third.sweep()
    bench.engine.disown({orders[0].run_id})
    assert (await second.sweep()).signal == signal.SIGKILL
    for order, process in zip(orders[1:], (second, third), strict=True):
        await until(lambda o=order, p=process: bench.engine.adopt(run_of(o, p.identity)) is None)  # type: ignore[misc]
    assert bench.engine.adopt(run_of(orders[0], first.identity)) is not None
    assert first.usage() is not None


async def test_adopt_of_a_run_that_never_had_a_process(bench: Bench) -> None:
    assert bench.engine.adopt(run_of(bench.order("sleeps"), None)) is None


async def test_forget_of_a_bot_without_a_process(bench: Bench) -> None:
    bench.engine.forget(1)
    process = await bench.start("exits")
    await process.sweep()
    bench.engine.forget(1)
    bench.engine.forget(1)
    again = await bench.start("exits", code=5)
    assert (await again.wait()).exit_code == 5

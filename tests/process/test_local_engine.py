"""What only the engine of this machine has: zygotes that die, supervisors that die, pids that go to others."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from botproc import kernel, wire
from supervisor import settings
from supervisor.core import errors
from supervisor.core.model import Identity
from supervisor.engine import pidfd
from supervisor.engine.protocol import Order
from tests.faults.observe import is_alive
from tests.process.benches import LocalBench, kinds, run_of, until
from tests.process.clients import KINDS, ROOT
from tests.waiting import wait_for

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[LocalBench]:
    made = await LocalBench(tmp_path).open()
    try:
        yield made
    finally:
        await made.close()


def zygote_pid(bench: LocalBench, kind: str) -> int:
    pid = bench.engine.kind_status(kind).pid
    assert pid is not None
    return pid


async def is_replaced(bench: LocalBench, kind: str, before: int) -> None:
    """Waits until another zygote is warm, for which nobody has asked. It is made when the one before is ten times as
    old as its making took: on a busy machine after ten seconds."""
    await until(lambda: bench.engine.kind_status(kind).warm and zygote_pid(bench, kind) != before, limit_s=60)


# ---- a zygote dies


async def test_bots_outlive_their_zygote_and_their_ends_are_known(bench: LocalBench) -> None:
    processes = [await bench.start("sleeps", bot_id) for bot_id in (1, 2, 3)]
    before = zygote_pid(bench, "sleeps")
    os.kill(before, signal.SIGKILL)
    await is_replaced(bench, "sleeps", before)
    assert all(p.usage() is not None for p in processes)
    assert {psutil.Process(p.identity.pid).ppid() for p in processes} == {os.getpid()}

    os.kill(processes[0].identity.pid, signal.SIGABRT)
    exit_ = await processes[0].wait()
    assert (exit_.signal, exit_.exit_code) == (signal.SIGABRT, None)
    assert exit_.cpu_seconds is not None
    processes[1].terminate()
    assert (await processes[1].sweep()).exit_code == 0
    fourth = await bench.start("sleeps", 4)
    assert psutil.Process(fourth.identity.pid).ppid() == zygote_pid(bench, "sleeps")


async def test_what_an_orphaned_bot_started_is_swept_by_the_supervisor(bench: LocalBench) -> None:
    process = await bench.start("family")
    await bench.says(1, "family")
    descendants = [psutil.Process(int(pid)) for pid in bench.log(1).split()[1:]]
    os.kill(zygote_pid(bench, "family"), signal.SIGKILL)
    await until(lambda: psutil.Process(process.identity.pid).ppid() == os.getpid())
    process.kill()
    swept = await process.sweep()
    assert (swept.signal, swept.descendants_killed) == (signal.SIGKILL, 4)
    assert not any(one.is_running() for one in descendants)


async def test_daemons_of_bots_that_live_outlive_the_zygote(bench: LocalBench) -> None:
    bench.add({"gives-up": "gives_up_its_orphans:main"}, path=(KINDS,))
    bots = [await bench.start("gives-up", bot_id) for bot_id in (1, 2)]
    daemons = {}
    for bot_id in (1, 2):
        await bench.says(bot_id, "\n")
        daemons[bot_id] = [psutil.Process(int(pid)) for pid in bench.log(bot_id).split()[1:]]
    before = zygote_pid(bench, "gives-up")
    os.kill(before, signal.SIGKILL)
    await is_replaced(bench, "gives-up", before)
    assert all(one.is_running() for one in (*daemons[1], *daemons[2]))
    bots[0].kill()
    assert (await bots[0].sweep()).descendants_killed == 3
    assert not any(one.is_running() for one in daemons[1])
    assert all(one.is_running() for one in daemons[2])


async def test_a_bot_and_its_zygote_die_together(bench: LocalBench) -> None:
    process = await bench.start("family")
    await bench.says(1, "family")
    descendants = [psutil.Process(int(pid)) for pid in bench.log(1).split()[1:]]
    pid = zygote_pid(bench, "family")
    os.kill(pid, signal.SIGSTOP)
    os.kill(process.identity.pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    assert (await process.wait()).signal == signal.SIGKILL
    await process.sweep()
    await until(lambda: not any(one.is_running() for one in descendants))


async def test_a_zygote_that_dies_before_it_answers_has_made_nothing(bench: LocalBench) -> None:
    await bench.engine.warm("sleeps")
    pid = zygote_pid(bench, "sleeps")
    os.kill(pid, signal.SIGSTOP)
    spawning = asyncio.create_task(bench.spawn(bench.order("sleeps")))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(errors.SpawnFailed, match="ended") as failed:
        await spawning
    assert not failed.value.permanent
    process = await bench.start("sleeps")
    assert process.identity.pid


async def test_a_bot_whose_zygote_died_before_it_told_of_it_does_not_run_on(bench: LocalBench) -> None:
    """The zygote is held between fork and answer by a pipe that is full."""
    await bench.engine.warm("sleeps")
    pid = zygote_pid(bench, "sleeps")
    order = bench.order("sleeps")
    spawning = asyncio.create_task(bench.spawn(order))
    await asyncio.sleep(0)
    # No turn for the loop until the zygote has forked: what it answers is not read.
    wait_for(lambda: psutil.Process(pid).children())
    (bot,) = psutil.Process(pid).children()
    try:
        os.kill(pid, signal.SIGKILL)
        process = await spawning
    except errors.SpawnFailed:
        await until(lambda: not bot.is_running())
    else:
        assert process.identity.pid == bot.pid
        process.kill()
        assert (await process.wait()).signal == signal.SIGKILL


async def test_a_bot_can_take_its_zygote_with_it(tmp_path: Path) -> None:
    bench = await LocalBench(tmp_path, kinds({"murderer": "dies_when_told:main"})).open()
    try:
        await bench.engine.warm("murderer")
        before = zygote_pid(bench, "murderer")
        process = await bench.spawn(bench.order("murderer"))
        # Not by itself: it could be quicker than the answer of its zygote, which then has made nothing.
        await bench.says(1, "waits")
        process.signal(signal.SIGUSR1)
        await until(lambda: not psutil.pid_exists(before))
        await bench.engine.warm("murderer")
        process.kill()
        assert (await process.sweep()).signal == signal.SIGKILL
    finally:
        await bench.close()


async def test_an_end_is_acknowledged_though_its_zygote_is_gone(bench: LocalBench) -> None:
    process = await bench.start("exits", code=4)
    await process.sweep()
    before = zygote_pid(bench, "exits")
    os.kill(before, signal.SIGKILL)
    await until(lambda: not psutil.pid_exists(before))
    process.acknowledge()
    assert (await process.wait()).exit_code == 4


async def test_a_zygote_that_does_not_answer_is_replaced(bench: LocalBench) -> None:
    process = await bench.start("sleeps")
    before = zygote_pid(bench, "sleeps")
    os.kill(before, signal.SIGSTOP)
    process.kill()
    assert (await process.wait()).signal == signal.SIGKILL
    await is_replaced(bench, "sleeps", before)


async def test_the_helper_of_multiprocessing_is_not_swept(bench: LocalBench) -> None:
    from multiprocessing import resource_tracker

    await bench.engine.warm("sleeps")
    tracker = psutil.Process(resource_tracker._resource_tracker._pid)  # type: ignore[attr-defined]
    before = zygote_pid(bench, "sleeps")
    os.kill(before, signal.SIGKILL)
    await is_replaced(bench, "sleeps", before)
    assert tracker.is_running()


# ---- a supervisor dies


class Earlier:
    """An earlier supervisor, under a process that stands in for init."""

    def __init__(self, data_dir: Path, kind: str, bots: int) -> None:
        command = [sys.executable, "-m", "tests.process.init", str(data_dir), kind, str(bots)]
        self.init = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.init.stdout is not None
        self.bots = [Identity(**json.loads(self.init.stdout.readline())) for _ in range(bots)]
        self.zygote = psutil.Process(json.loads(self.init.stdout.readline()))
        self.orders = [
            Order(run_id=n, bot_id=n, kind=kind, name=None, labels={}, params={}) for n in range(1, bots + 1)
        ]
        (supervisor,) = [p for p in psutil.Process(self.init.pid).children() if "supervisor" not in p.name()][:1]
        self.supervisor = supervisor

    def kill(self) -> None:
        """kill -9 of the supervisor alone."""
        self.supervisor.kill()
        wait_for(lambda: self.zygote.ppid() == self.init.pid)

    def close(self) -> None:
        def alone() -> bool:
            if self.init.poll() is not None:
                return True
            for process in psutil.Process(self.init.pid).children(recursive=True):
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            return False

        wait_for(alone)
        assert self.init.stdout is not None
        self.init.stdout.close()


@pytest.fixture
def make_earlier(tmp_path: Path) -> Iterator[Callable[..., Earlier]]:
    made: list[Earlier] = []

    def make(kind: str = "sleeps", bots: int = 3) -> Earlier:
        made.append(Earlier(tmp_path, kind, bots))
        return made[-1]

    yield make
    for one in made:
        one.close()


async def reopened(tmp_path: Path, **values: object) -> LocalBench:
    bench = LocalBench(tmp_path, kinds({"sleeps": "misbehaving:sleeps"}, **values))
    # Never those of the earlier one: a ledger gives no number twice.
    bench.run_ids = itertools.count(1001)
    return await bench.open()


async def test_the_next_supervisor_has_all_bots(make_earlier: Callable[..., Earlier], tmp_path: Path) -> None:
    earlier = make_earlier()
    earlier.kill()
    os.kill(earlier.bots[1].pid, signal.SIGABRT)
    wait_for(lambda: not psutil.pid_exists(earlier.bots[1].pid))

    bench = await reopened(tmp_path)
    try:
        assert zygote_pid(bench, "sleeps") == earlier.zygote.pid
        adopted = [bench.engine.adopt(run_of(o, i)) for o, i in zip(earlier.orders, earlier.bots, strict=True)]
        first, second, third = adopted
        assert first is not None
        assert second is not None
        assert third is not None
        assert [first.identity, third.identity] == [earlier.bots[0], earlier.bots[2]]
        assert (await second.sweep()).signal == signal.SIGABRT
        first.terminate()
        assert (await first.sweep()).exit_code == 0
        another = await bench.start("sleeps", 9)
        assert psutil.Process(another.identity.pid).ppid() == earlier.zygote.pid
        third.kill()
        for process in (first, second, third):
            await process.sweep()
            process.acknowledge()
    finally:
        await bench.close()
    await until(lambda: not earlier.zygote.is_running())


async def test_a_zygote_of_other_settings_is_retired(make_earlier: Callable[..., Earlier], tmp_path: Path) -> None:
    earlier = make_earlier(bots=1)
    earlier.kill()
    bench = await reopened(tmp_path, env={"OTHER": "settings"})
    try:
        adopted = bench.engine.adopt(run_of(earlier.orders[0], earlier.bots[0]))
        assert adopted is not None
        await bench.engine.warm("sleeps")
        assert zygote_pid(bench, "sleeps") != earlier.zygote.pid
        assert earlier.zygote.is_running()
        adopted.terminate()
        assert (await adopted.sweep()).exit_code == 0
        adopted.acknowledge()
        await until(lambda: not earlier.zygote.is_running())
    finally:
        await bench.close()


async def test_the_end_of_a_bot_is_known_though_neither_parent_is_ours(
    make_earlier: Callable[..., Earlier], tmp_path: Path
) -> None:
    """Adopted, then its zygote is killed: init reaps it, and the kernel tells us."""
    earlier = make_earlier(bots=3)
    earlier.kill()
    bench = await reopened(tmp_path)
    try:
        processes = [bench.engine.adopt(run_of(o, i)) for o, i in zip(earlier.orders, earlier.bots, strict=True)]
        earlier.zygote.kill()
        await until(lambda: {psutil.Process(i.pid).ppid() for i in earlier.bots} == {earlier.init.pid})
        assert any(p.usage() for p in processes if p)
        os.kill(earlier.bots[0].pid, signal.SIGABRT)
        assert processes[1] is not None
        processes[1].terminate()
        ends = []
        for process in processes[:2]:
            assert process is not None
            ends.append(await process.wait())
            process.acknowledge()
        if kernel_tells():
            assert [(e.exit_code, e.signal) for e in ends] == [(None, signal.SIGABRT), (0, None)]
        else:
            assert [(e.exit_code, e.signal) for e in ends] == [(None, None)] * 2
        await bench.engine.warm("sleeps")
        assert zygote_pid(bench, "sleeps") != earlier.zygote.pid
        assert processes[2] is not None
        processes[2].kill()
        await processes[2].wait()
    finally:
        await bench.close()


def kernel_tells() -> bool:
    """Whether this kernel keeps the exit status of a process for those who have its pidfd (Linux 6.15)."""
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    fd = os.pidfd_open(process.pid)
    process.wait()
    try:
        status = pidfd.exit_status(fd)
        assert status in (None, 3 << 8)
        return status is not None
    finally:
        os.close(fd)


@pytest.mark.parametrize("known", [True, False])
async def test_bots_are_found_though_supervisor_and_zygote_died(
    make_earlier: Callable[..., Earlier], tmp_path: Path, known: bool
) -> None:
    """By the identity in the ledger; without one, by the bot's lock."""
    earlier = make_earlier(bots=2)
    earlier.kill()
    earlier.zygote.kill()
    os.kill(earlier.bots[1].pid, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(earlier.bots[1].pid))
    bench = await reopened(tmp_path)
    try:
        first = bench.engine.adopt(run_of(earlier.orders[0], earlier.bots[0] if known else None))
        assert first is not None
        assert first.identity == earlier.bots[0]
        assert bench.engine.adopt(run_of(earlier.orders[1], earlier.bots[1] if known else None)) is None
        first.kill()
        exit_ = await first.sweep()
        assert exit_.signal == (signal.SIGKILL if kernel_tells() else None)
    finally:
        await bench.close()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("options", ["-a", "-al"])
async def test_a_copy_of_a_data_directory_leaves_the_bots_of_the_original_alone(
    tmp_path: Path, known: bool, options: str
) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    earlier = Earlier(original, "sleeps", 3)
    try:
        subprocess.run(["cp", options, original, copy], check=True)
        if options == "-al":
            # A file that is written is one of the copy's own, as with a file system that copies on write.
            for lock in (copy / "run" / "locks").iterdir():
                text = lock.read_text()
                lock.unlink()
                lock.write_text(text)
            shutil.rmtree(copy / "logs")
        bench = await reopened(copy)
        try:
            for order, identity in zip(earlier.orders, earlier.bots, strict=True):
                assert bench.engine.adopt(run_of(order, identity if known else None)) is None
            bench.engine.disown(())
            process = await bench.start("sleeps", 1)
            assert psutil.Process(process.identity.pid).ppid() != earlier.zygote.pid
        finally:
            await bench.close()
        assert all(psutil.Process(bot.pid).ppid() == earlier.zygote.pid for bot in earlier.bots)
        assert earlier.supervisor.is_running()
    finally:
        earlier.close()


async def test_an_engine_that_is_only_let_go_of_leaves_its_zygotes_their_sockets(tmp_path: Path) -> None:
    """As when an exception ends the supervisor: all tasks are cancelled, nothing is closed."""
    script = """
import asyncio, sys
from pathlib import Path
from tests.process.benches import LocalBench

async def main():
    bench = await LocalBench(Path(sys.argv[1])).open()
    await bench.start("sleeps")
    print(bench.engine.kind_status("sleeps").pid, flush=True)

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    )
    zygote = psutil.Process(int(done.stdout))
    left = [*zygote.children(), zygote]
    bench = await reopened(tmp_path)
    try:
        assert zygote_pid(bench, "sleeps") == zygote.pid
        order = Order(run_id=1, bot_id=1, kind="sleeps", name=None, labels={}, params={})
        process = bench.engine.adopt(run_of(order, None))
        assert process is not None
        process.kill()
        assert (await process.sweep()).signal == signal.SIGKILL
        process.acknowledge()
        await bench.close()
        # It leaves, as it was asked to. The tests' process is a subreaper, so that it may have come to us.
        await until(lambda: not is_alive(zygote))
    finally:
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(zygote.pid, 0)


# ---- identity


@pytest.fixture
def innocent() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def identity_of(pid: int) -> Identity:
    return Identity(
        pid=pid, start_ticks=kernel.start_ticks(pid), inode=kernel.pidfd_inode(pid), boot_id=pidfd.boot_id()
    )


STRANGERS = [
    {"start_ticks": 1},
    {"inode": 1},
    {"boot_id": "00000000-0000-0000-0000-000000000000"},
    {"boot_id": ""},
    {"pid": 2**22 + 1},
]


@pytest.mark.parametrize("change", STRANGERS, ids=lambda change: next(iter(change)))
async def test_a_stranger_is_refused_and_lives(
    innocent: subprocess.Popen[bytes], tmp_path: Path, change: dict[str, object]
) -> None:
    true = identity_of(innocent.pid)
    fd = pidfd.open_process(true)
    assert fd is not None
    os.close(fd)
    false = dataclasses.replace(true, **change)  # type: ignore[arg-type]
    assert pidfd.open_process(false) is None

    bench = await LocalBench(tmp_path).open()
    try:
        order = bench.order("sleeps")
        assert bench.engine.adopt(run_of(order, false)) is None
        bench.engine.disown(())
    finally:
        await bench.close()
    assert innocent.poll() is None


async def test_a_lock_file_that_names_an_innocent_process_makes_it_nothing_of_ours(
    innocent: subprocess.Popen[bytes], bench: LocalBench
) -> None:
    order = bench.order("sleeps")
    lock = bench.data_dir / "run" / "locks" / f"{order.bot_id}.lock"
    lock.write_text(f"{order.run_id} {innocent.pid}\n")
    assert bench.engine.adopt(run_of(order, None)) is None
    assert innocent.poll() is None


@pytest.mark.parametrize("text", [b"", b"\n", b"a b c\n", b"1 2\n", b"9" * 200, b"\xff\x00 1 1\n"])
async def test_a_held_lock_file_with_anything_in_it_names_nobody(bench: LocalBench, text: bytes) -> None:
    order = bench.order("sleeps")
    path = bench.data_dir / "run" / "locks" / f"{order.bot_id}.lock"
    with path.open("wb") as lock:
        lock.write(text)
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert bench.engine.adopt(run_of(order, None)) is None
        bench.engine.forget(order.bot_id)
        assert path.exists()
    bench.engine.forget(order.bot_id)
    assert not path.exists()


# ---- one copy


async def test_a_lock_that_is_held_is_not_forgotten(bench: LocalBench) -> None:
    first = await bench.start("sleeps", 1)
    lock = bench.data_dir / "run" / "locks" / "1.lock"
    await until(lambda: lock.exists() and lock.read_text())
    bench.engine.forget(1)
    second = await bench.start("sleeps", 1)
    assert (await second.wait()).exit_code == wire.EXIT_LOCKED
    first.kill()
    await first.sweep()
    bench.engine.forget(1)
    assert not lock.exists()


@pytest.mark.parametrize("what", ["logs/1.log", "run/locks/1.lock"])
async def test_a_bot_that_cannot_be_set_up_says_why_and_starts_once_that_is_mended(
    bench: LocalBench, what: str
) -> None:
    path = bench.data_dir / what
    path.mkdir(parents=True)
    process = await bench.start("sleeps", 1)
    exit_ = await process.sweep()
    assert exit_.exit_code == wire.EXIT_UNUSABLE
    assert exit_.detail == f"cannot open {path}: not a regular file"
    process.acknowledge()
    bench.engine.forget(1)
    path.rmdir()
    process = await bench.start("sleeps", 1)
    process.terminate()
    assert (await process.sweep()).exit_code == 0


# ---- imports


async def test_zygotes_are_made_though_the_working_directory_was_deleted(bench: LocalBench, tmp_path: Path) -> None:
    before, deleted = Path.cwd(), tmp_path / "deleted"
    deleted.mkdir()
    os.chdir(deleted)
    try:
        deleted.rmdir()
        process = await bench.start("exits", code=2)
        assert (await process.wait()).exit_code == 2
    finally:
        os.chdir(before)


async def test_close_ends_a_zygote_that_imports(tmp_path: Path) -> None:
    bench = await LocalBench(tmp_path, kinds({"slow": "slow_import:main"})).open()
    warming = asyncio.create_task(bench.engine.warm("slow"))
    await until(lambda: bench.engine.kind_status("slow").reason == "importing")
    assert not bench.engine.kind_status("slow").warm
    async with asyncio.timeout(3):
        await bench.close()
    assert isinstance((await asyncio.gather(warming, return_exceptions=True))[0], errors.SpawnFailed)
    assert list((tmp_path / "run").glob("slow*.sock")) == []


async def test_no_zygote_is_made_while_the_engine_closes(tmp_path: Path) -> None:
    early, late = kinds({"early": "misbehaving:sleeps"}), kinds({"late": "misbehaving:sleeps"})
    bench = await LocalBench(tmp_path, early).open()
    await bench.engine.warm("early")
    children = set(psutil.Process().children())
    bench.engine.set_kinds(early | late)
    # Its zygote would be made by a task that has not run yet.
    await bench.close()
    assert set(psutil.Process().children()) <= children


async def test_a_kind_that_was_mended_is_imported_again(tmp_path: Path) -> None:
    module = tmp_path / "mended.py"
    module.write_text("import no_such_module")
    bench = await LocalBench(tmp_path / "data", {}).open()
    bench.add({"mended": "mended:main"}, path=(tmp_path,))
    try:
        with pytest.raises(errors.SpawnFailed, match="no_such_module"):
            await bench.engine.warm("mended")
        module.write_text("def main(): raise SystemExit(6)")
        process = await bench.start("mended")
        assert (await process.wait()).exit_code == 6
    finally:
        await bench.close()


async def test_an_import_that_kills_the_zygote_fails_for_now(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text("import os\nos.abort()")
    bench = await LocalBench(tmp_path / "data", {}).open()
    bench.add({"deadly": "deadly:main"}, path=(tmp_path,))
    try:
        with pytest.raises(errors.SpawnFailed, match="ended") as failed:
            await bench.engine.warm("deadly")
        assert not failed.value.permanent
        pid = bench.engine.kind_status("deadly").pid
        await until(lambda: pid is None or not psutil.pid_exists(pid))
    finally:
        await bench.close()


async def test_a_zygote_that_dies_when_it_is_warm_keeps_no_processor_busy(tmp_path: Path) -> None:
    (tmp_path / "mayfly.py").write_text("import time\nprint(time.monotonic(), flush=True)\ndef main(): pass")
    bench = LocalBench(tmp_path / "data", {"mayfly": settings.Kind(target="mayfly:main", path=(tmp_path,))})
    await bench.open()
    try:
        # Killed by us: a timer of its own may be over before it is warm.
        await until(lambda: bench.engine.kind_status("mayfly").warm)
        before = zygote_pid(bench, "mayfly")
        os.kill(before, signal.SIGKILL)
        await is_replaced(bench, "mayfly", before)
        first, second = map(float, (bench.data_dir / "kinds" / "mayfly.log").read_text().split())
        assert second - first > 0.6
        os.kill(zygote_pid(bench, "mayfly"), signal.SIGKILL)
        await until(lambda: not bench.engine.kind_status("mayfly").warm)
        # Whoever asks for it does not wait for that.
        await bench.engine.warm("mayfly")
    finally:
        await bench.close()


# ---- a want of descriptors


async def test_without_descriptors_nothing_is_made_by_half(bench: LocalBench) -> None:
    alive = await bench.start("sleeps", 1)
    before = zygote_pid(bench, "sleeps")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = set(map(int, os.listdir("/proc/self/fd")))
    # A plain process of ours would take the last descriptor for a moment.
    children = psutil.Process(before).children()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(set(range(soft)) - used), hard))
    try:
        with pytest.raises(errors.SpawnFailed, match="Too many open files") as failed:
            await bench.engine.spawn(bench.order("sleeps", 2))
        assert not failed.value.permanent
        with pytest.raises(errors.SpawnFailed, match="Too many open files"):
            await bench.engine.warm("exits")
        assert alive.usage() is None
        alive.kill()
        assert (await alive.sweep()).signal == signal.SIGKILL
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(children) == 1
    assert psutil.Process(before).children() == []
    await bench.start("sleeps", 2)
    await bench.start("exits", 3)
    assert zygote_pid(bench, "sleeps") == before


async def test_spawns_at_once_do_not_take_each_others_last_descriptor(bench: LocalBench) -> None:
    await bench.engine.warm("sleeps")
    before = zygote_pid(bench, "sleeps")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = sorted(set(range(soft)) - set(map(int, os.listdir("/proc/self/fd"))))
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[3], hard))
    try:
        made = await asyncio.gather(
            *(bench.spawn(bench.order("sleeps", n)) for n in range(1, 11)), return_exceptions=True
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    processes = [one for one in made if not isinstance(one, BaseException)]
    assert 1 <= len(processes) <= 3
    assert all(isinstance(one, errors.SpawnFailed) for one in made if isinstance(one, BaseException))
    assert {c.pid for c in psutil.Process(before).children()} == {p.identity.pid for p in processes}
    assert zygote_pid(bench, "sleeps") == before


# ---- usage


async def test_a_process_that_was_stopped_from_outside_is_frozen_until_it_goes_on(bench: LocalBench) -> None:
    process = await bench.start("sleeps")

    def is_frozen() -> bool:
        usage = process.usage()
        assert usage is not None
        return usage.frozen

    assert not is_frozen()
    process.signal(signal.SIGSTOP)
    await until(is_frozen)
    process.signal(signal.SIGCONT)
    await until(lambda: not is_frozen())


# ---- notifications


async def test_only_a_bots_own_process_speaks_for_it(bench: LocalBench) -> None:
    await bench.start("sleeps")
    await until(lambda: bench.notes)
    address = str(bench.data_dir / "run" / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"READY=1\nSTATUS=stolen", address)
        stranger.sendto(b"\xff\xfe=\0=\n=\nno equals sign", address)
        stranger.sendto(b"", address)
        stranger.connect(address)
        with open("/dev/null") as null:
            socket.send_fds(stranger, [b"STATUS=with a descriptor"], [null.fileno()])
    await bench.start("sleeps", 2)
    await until(lambda: len(bench.notes) == 2)
    assert [values for _, _, values in bench.notes] == [{"READY": "1"}] * 2
    assert (bench.data_dir / "run" / "notify.sock").stat().st_mode & 0o777 == 0o600


async def test_a_data_directory_with_a_long_name(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    for _ in range(2):
        bench = await LocalBench(deep).open()
        try:
            await bench.start("exits", code=2)
            await until(lambda: bench.notes)  # noqa: B023
        finally:
            await bench.close()


async def test_a_copy_of_a_data_directory_with_a_long_name_has_an_address_of_its_own(tmp_path: Path) -> None:
    original, copy = (tmp_path / name / ("d" * 100) / ("e" * 100) for name in ("original", "copy"))
    await (await LocalBench(original).open()).close()
    shutil.copytree(original, copy)
    bench = await LocalBench(copy).open()
    try:
        await bench.start("exits", code=2)
        await until(lambda: bench.notes)
    finally:
        await bench.close()
    names = [(directory / "run" / "notify.name").read_text() for directory in (original, copy)]
    assert names[0] != names[1]


async def test_all_that_the_engine_makes_is_for_its_owner_alone(bench: LocalBench) -> None:
    await bench.start("sleeps")
    await until(lambda: bench.notes)
    for path in bench.data_dir.rglob("*"):
        mode = path.stat().st_mode & 0o777
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path} {mode:o}"

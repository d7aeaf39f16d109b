"""Bots with descendants that are hard to be rid of."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Literal


def family_again() -> None:
    """Tells what is alive of the family of its earlier run, and has another."""
    log = Path(os.readlink("/proc/self/fd/1"))
    families = [line.split()[1:] for line in log.read_text().splitlines() if line.startswith("family")]
    if families:
        print("left over:", [pid for pid in families[-1] if Path(f"/proc/{pid}").exists()], flush=True)
    importlib.import_module("misbehaving").has_a_family()


def daemonizes() -> None:
    """Goes into the background, as a daemon does that knows of no supervisor."""
    _daemon()
    time.sleep(600)


def ends_before_its_children(*, code: int = 0) -> None:
    """Ends by itself and leaves a child and a daemon."""
    if os.fork() == 0:
        time.sleep(600)
    if os.fork() == 0:
        _daemon()
        time.sleep(600)
    sys.exit(code)


def hops() -> None:
    """Has a descendant that never stays: it forks and ends, again and again."""
    if os.fork() == 0:
        while True:
            if os.fork():
                os._exit(0)
            time.sleep(0.001)
    _rest()


def has_many(*, width: int = 5, depth: int = 2) -> None:
    """Has a tree of descendants that ignore SIGTERM, each in a session of its own."""
    generation = 0
    while generation < depth and any(os.fork() == 0 for _ in range(width)):
        generation += 1
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _rest()


def has_a_stopped_child() -> None:
    """Has a child that has stopped itself, in a session of its own."""
    if os.fork() == 0:
        os.setsid()
        os.kill(os.getpid(), signal.SIGSTOP)
    _rest()


def has_a_subreaper() -> None:
    """Has a child that is a child subreaper itself and has a daemon."""
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
        if os.fork() == 0:
            _daemon()
    _rest()


def is_no_subreaper() -> None:
    """Gives up being a child subreaper, so that its daemon goes to the zygote while it lives."""
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)
    if os.fork() == 0:
        _daemon()
    _rest()


def has_a_child() -> None:
    """Has one child in its own group, and tells its pid."""
    if (child := os.fork()) != 0:
        print("child", child, flush=True)
    _rest()


def kills_its_group() -> None:
    """Kills its own process group, as some clean-up code does."""
    os.fork()
    os.killpg(0, signal.SIGKILL)


def blocks_all_signals() -> None:
    """Has all signals blocked, as a careless thread library does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    _rest()


def closes_everything() -> None:
    """Closes all descriptors, its output included."""
    os.closerange(0, 1024)
    while True:
        time.sleep(60)


def ends_but_for_a_thread() -> None:
    """Its target returns, and a thread that is no daemon goes on."""
    import threading

    threading.Thread(target=time.sleep, args=(600,)).start()
    print("returned", flush=True)


def multiprocesses(*, method: Literal["fork", "spawn", "forkserver"]) -> None:
    """Uses multiprocessing: a pool, a queue, a lock and shared memory; and stays, with the pool open."""
    context: Any = multiprocessing.get_context(method)
    lock, queue, value = context.Lock(), context.Queue(), context.Value("i", 0)
    child = context.Process(target=_adds, args=(lock, queue, value))
    child.start()
    assert queue.get(timeout=20) == "added"
    child.join()
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        print(method, child.exitcode, value.value, sum(pool.map(abs, range(-10, 0))), flush=True)
        time.sleep(600)


def _adds(lock: Any, queue: Any, value: Any) -> None:
    with lock:
        value.value += 1
    queue.put("added")


async def has_subprocesses() -> None:
    """Runs programs by asyncio: one that ends, one that stays."""
    ended = await asyncio.create_subprocess_exec("sh", "-c", "exit 3")
    await asyncio.create_subprocess_exec("sleep", "600")
    print("ended with", await ended.wait(), flush=True)
    await asyncio.sleep(600)


def _daemon() -> None:
    """What runs on is a daemon: forked twice, in a session of its own."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)


def _rest() -> None:
    print(f"{os.getpid()} rests", flush=True)
    while True:
        time.sleep(60)

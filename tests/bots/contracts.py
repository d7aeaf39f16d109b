"""Bots that use their context."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import time
from multiprocessing.connection import Connection

from botproc.contract import Context, SyncContext


async def loops(ctx: Context) -> None:
    print("begun")
    while await ctx.sleep(3600):
        pass
    print("told to stop", bool(ctx.stopping))


def loops_sync(ctx: SyncContext) -> None:
    print("begun")
    while ctx.sleep(3600):
        pass
    print("told to stop", bool(ctx.stopping))


async def awaits(ctx: Context) -> None:
    """One waits in the loop, another in a thread."""
    thread = asyncio.create_task(asyncio.to_thread(ctx.stopping.wait))
    print("begun")
    await ctx.stopping
    print("told to stop", await thread)


async def stubborn(ctx: Context) -> None:
    """Has used `ctx.stopping`, and does not return."""
    if not ctx.stopping:
        print("begun")
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError as error:
        print("cancelled", *error.args)
        raise


async def unaware(ctx: Context) -> None:
    try:
        print("begun", ctx.bot_id)
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0)
        print("finally")


def unaware_sync(ctx: SyncContext) -> None:
    try:
        print("begun", ctx.bot_id)
        time.sleep(3600)
    finally:
        print("finally")


def without() -> None:
    try:
        print("begun")
        time.sleep(3600)
    finally:
        print("finally")


async def terminates_a_child(ctx: Context) -> None:
    """What it forks ends at SIGTERM, and alone."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_sleeps, args=(theirs,))
    child.start()
    await asyncio.to_thread(ours.recv)
    child.terminate()
    await asyncio.to_thread(child.join)
    print("child", child.exitcode, bool(ctx.stopping))


def _sleeps(parent: Connection) -> None:
    parent.send("begun")
    time.sleep(3600)


async def readies(ctx: Context) -> None:
    ctx.status("warms up\nslowly")
    ctx.ready()
    ctx.heartbeat()


def remembers(ctx: SyncContext) -> None:
    file = ctx.data_dir / "runs"
    with file.open("a") as runs:
        runs.write(f"{ctx.run_id}\n")
    modes = [oct(path.stat().st_mode & 0o777) for path in (ctx.data_dir, ctx.data_dir.parent)]
    print(json.dumps([file.read_text().split(), modes]))


def logs(ctx: SyncContext) -> None:
    ctx.log.debug("not shown")
    ctx.log.info("%d orders open", 12)
    try:
        raise LookupError("no such order")
    except LookupError:
        ctx.log.exception("an order is lost")


async def beats(*, freeze: bool = False) -> None:
    asyncio.create_task(_waits_elsewhere(), name="elsewhere")  # noqa: RUF006
    await asyncio.sleep(0)
    print("begun", os.environ["WATCHDOG_USEC"])
    while freeze:
        time.sleep(3600)
    await asyncio.sleep(3600)


async def _waits_elsewhere() -> None:
    await _waits_deeper()


async def _waits_deeper() -> None:
    await asyncio.sleep(3600)


async def crashes(*, message: str = "", depth: int = 1, other: bool = False) -> None:
    try:
        _falls(message, depth)
    except LookupError as error:
        raise (RuntimeError if other else ConnectionError)(f"because of {message}") from error


def _falls(message: str, depth: int) -> None:
    if depth == 0:
        raise KeyError(message)
    _falls(message, depth - 1)


def crashes_in_a_group() -> None:
    raise ExceptionGroup("several", [ValueError("x" * 1000)])


def reveals(*, token: str, text: str = "plain") -> None:
    print(json.dumps([token, text]))

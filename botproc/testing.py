"""Runs a bot within a test, without a supervisor or a process of its own.

    async def test_it_watches_the_price(tmp_path):
        async with testing.running(mybots.watcher.main, symbol="BTC", bot_data_dir=tmp_path) as bot:
            await bot.ready()                       # until ctx.ready()
            assert bot.statuses == ["watches BTC"]
            bot.stop()                              # what SIGTERM does
            assert await bot.ended() is None        # what main returns or raises

The same for a plain `def`, which runs in a thread: `with testing.running_sync(main, symbol="BTC") as bot:`, and no
`await`. The keyword arguments are the bot's parameters, but for those that begin with `bot_`: its name and labels, its
data directory (else a temporary one) and its grace. Leaving the block stops the bot, and raises what it has raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from botproc import bootstrap, contract
from botproc import target as targets


class _Observed:
    """What a bot tells its supervisor, and what is told to it. `context` is its `ctx`."""

    def __init__(
        self,
        main: Callable[..., Any],
        params: Mapping[str, Any],
        *,
        bot_name: str | None,
        bot_labels: Mapping[str, str],
        bot_data_dir: str,
        bot_grace_s: float,
    ) -> None:
        self.statuses: list[str] = []
        """What it has given to `ctx.status`, oldest first."""
        self.heartbeats = 0
        """How often it has called `ctx.heartbeat`. A loop beats by itself only where somebody waits for it."""
        self._grace_s = bot_grace_s
        self._stopping = contract.Stopping()
        target = targets.look_at(main)
        self.context = (contract.Context if target.is_async else contract.SyncContext)(
            bot_id=1,
            run_id=1,
            kind=main.__module__,
            name=bot_name,
            labels=bot_labels,
            data_dir=bot_data_dir,
            stopping=self._stopping,
            tell=self._hear,
        )
        kwargs = targets.arguments(target, params)
        self._call = functools.partial(main, *((self.context,) if target.takes_context else ()), **kwargs)
        self._is_ready = False
        self._error: BaseException | None = None
        self._seen = False
        """Its end was asked for: what it has raised is known to the test."""

    def stop(self) -> None:
        """Asks the bot to stop. What SIGTERM does to it in a process of its own happens here too."""
        self._stopping.ask()

    def _hear(self, **values: str) -> None:
        if "STATUS" in values:
            self.statuses.append(values["STATUS"])
        if "WATCHDOG" in values:
            self.heartbeats += 1
        if "READY" in values:
            self._is_ready = True
            self._wake()

    def _wake(self) -> None:
        """There is news for who waits: it is ready, or it has ended."""
        raise NotImplementedError

    def _check_ready(self) -> None:
        if not self._is_ready:
            raise RuntimeError("the bot has ended before it was ready") from self._error

    def _outlived(self) -> TimeoutError:
        return TimeoutError(f"the bot was asked to stop, and has not ended within its grace of {self._grace_s:g} s")


class Bot(_Observed):
    """An `async def` that runs in the loop of the test."""

    def __init__(self, main: Callable[..., Any], params: Mapping[str, Any], **about: Any) -> None:
        super().__init__(main, params, **about)
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: self._wake())

    async def ready(self) -> None:
        """Returns when the bot has called `ctx.ready()`. Raises RuntimeError if it ends before."""
        await self._news.wait()
        self._check_ready()

    async def ended(self) -> Any:
        """What `main` returns, when it does; None if a stop cancelled it. Raises what it raises."""
        # A test that is cancelled here does not cancel the bot.
        await asyncio.wait({self._task})
        self._seen = True
        if self._error is not None:
            raise self._error
        return self._task.result()

    async def _run(self) -> Any:
        try:
            return await bootstrap.until_stopped(self._call, self._stopping, self._grace_s)
        except BaseException as error:
            # Kept, not raised: SystemExit in a task would end the loop of the test.
            self._error = error

    async def _end(self) -> None:
        self.stop()
        await asyncio.wait({self._task}, timeout=self._grace_s)
        if not self._task.done():
            raise self._outlived()

    def _wake(self) -> None:
        # From any thread.
        self._loop.call_soon_threadsafe(self._news.set)


class SyncBot(_Observed):
    """A plain `def` that runs in a thread.

    Where a stop raises SystemExit in a process, it does so in the thread, but only at its next line of Python: a
    `time.sleep` is not interrupted.
    """

    def __init__(self, main: Callable[..., Any], params: Mapping[str, Any], **about: Any) -> None:
        super().__init__(main, params, **about)
        self._news = threading.Event()
        self._result: Any = None
        self._thread = threading.Thread(target=self._run, name="bot", daemon=True)
        self._stopping.then = self._leave
        self._thread.start()

    def ready(self, timeout_s: float = 10.0) -> None:
        """Returns when the bot has called `ctx.ready()`. Raises RuntimeError if it ends before, and TimeoutError."""
        if not self._news.wait(timeout_s):
            raise TimeoutError(f"the bot was not ready within {timeout_s:g} s")
        self._check_ready()

    def ended(self, timeout_s: float = 10.0) -> Any:
        """What `main` returns, when it does; None if a stop ended it. Raises what it raises, and TimeoutError."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"the bot has not ended within {timeout_s:g} s")
        self._seen = True
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            if not (self._stopping and isinstance(error, SystemExit)):
                self._error = error
        finally:
            self._wake()

    def _leave(self) -> None:
        if not self._stopping.heeded and self._thread.ident is not None:
            thread = ctypes.c_ulong(self._thread.ident)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(SystemExit))

    def _end(self) -> None:
        self.stop()
        self._thread.join(self._grace_s)
        if self._thread.is_alive():
            raise self._outlived()

    def _wake(self) -> None:
        self._news.set()


@contextlib.asynccontextmanager
async def running(
    main: Callable[..., Any],
    /,
    *,
    bot_name: str | None = None,
    bot_labels: Mapping[str, str] = MappingProxyType({}),
    bot_data_dir: Path | None = None,
    bot_grace_s: float = 10.0,
    **params: Any,
) -> AsyncIterator[Bot]:
    """Runs an `async def` until the end of the block, where it is stopped.

    Raises there what the bot has raised, if the test has not seen it; TimeoutError if it does not end in its grace.
    """
    with _directory(bot_data_dir) as data_dir:
        bot = Bot(
            main,
            params,
            bot_name=bot_name,
            bot_labels=bot_labels,
            bot_data_dir=data_dir,
            bot_grace_s=bot_grace_s,
        )
        try:
            yield bot
        finally:
            await bot._end()
        if not bot._seen:
            await bot.ended()


@contextlib.contextmanager
def running_sync(
    main: Callable[..., Any],
    /,
    *,
    bot_name: str | None = None,
    bot_labels: Mapping[str, str] = MappingProxyType({}),
    bot_data_dir: Path | None = None,
    bot_grace_s: float = 10.0,
    **params: Any,
) -> Iterator[SyncBot]:
    """Runs a plain `def` in a thread until the end of the block, where it is stopped. Raises there as `running`."""
    with _directory(bot_data_dir) as data_dir:
        bot = SyncBot(
            main,
            params,
            bot_name=bot_name,
            bot_labels=bot_labels,
            bot_data_dir=data_dir,
            bot_grace_s=bot_grace_s,
        )
        try:
            yield bot
        finally:
            bot._end()
        if not bot._seen:
            bot.ended()


@contextlib.contextmanager
def _directory(given: Path | None) -> Iterator[str]:
    if given is not None:
        yield str(given)
        return
    with tempfile.TemporaryDirectory(prefix="bot-") as made:
        yield made

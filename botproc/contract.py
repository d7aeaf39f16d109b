"""What a bot's author sees: `ctx`, and no more. This is its reference.

A bot is a function. Its keyword parameters are the bot's parameters; it may take the context as its first parameter,
which then is named `ctx`. When the function returns, the bot has ended well; an exception is a crash. What it prints
is its log.

    async def main(ctx: Context, *, symbol: str, every_s: float = 5.0) -> None:
        '''Watches the price of a symbol.'''
        async with exchange.connect() as market:
            ctx.status(f"watches {symbol}")
            while await ctx.sleep(every_s):
                price = await market.price(symbol)
                ctx.log.info("%s is at %s", symbol, price)
        # Asked to stop: this runs, and so does whatever `async with` and `finally` have to do.
        (ctx.data_dir / "last").write_text(str(price))

The same as a plain function; only `await` is missing, and its context is a `SyncContext`:

    def main(ctx: SyncContext, *, symbol: str, every_s: float = 5.0) -> None:
        '''Watches the price of a symbol.'''
        with exchange.connect() as market:
            ctx.status(f"watches {symbol}")
            while ctx.sleep(every_s):
                price = market.price(symbol)
                ctx.log.info("%s is at %s", symbol, price)
        (ctx.data_dir / "last").write_text(str(price))

**How a bot is stopped.** It gets SIGTERM, and SIGKILL when its grace (10 seconds, if nothing else is set) is over.

| the bot | at SIGTERM |
|---|---|
| `async def`, has used `ctx.stopping` or `ctx.sleep` | returns by itself; is cancelled after half its grace |
| `async def`, any other | its main task is cancelled: `CancelledError` at its `await`, `finally` blocks run |
| `def main(ctx)`, has used `ctx.stopping` or `ctx.sleep` | returns by itself |
| `def main(ctx)`, any other | `SystemExit` is raised in its main thread: `finally` blocks run |
| `def` without `ctx` | ends at once, as any process does, unless it has a handler of its own |

A second SIGTERM changes nothing. A bot that ends so has the exit code 0.

**Ready and heartbeat.** A kind may declare that its bots say when they are ready: then each is `starting` until
`ctx.ready()`. A kind may have a heartbeat: then asyncio bots beat from their event loop, by themselves, and a plain one
calls `ctx.heartbeat()` at least that often. Whoever misses it has the stacks of its threads and tasks written to its
log, and is ended.

`botproc.testing` runs a bot within a test.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sys
from _queue import Empty, SimpleQueue
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from botproc import notify


class Stopping:
    """Whether the bot is asked to stop.

    It is true from then on (`if ctx.stopping: return`), can be awaited in the loop of the main task
    (`await ctx.stopping`), and waited for in any thread.
    """

    def __init__(self) -> None:
        self.heeded = False
        """The bot looks at it, and is trusted to return by itself."""
        self.then: Callable[[], object] = lambda: None
        """What else is to be done when it is asked to stop. For whoever runs the bot."""
        self._asked = False
        # Python's own events take locks, and a signal handler that needs one which its thread has would wait for
        # ever. Putting into this queue is safe at any moment; whoever takes the token out puts it back.
        self._tokens: SimpleQueue[None] = SimpleQueue()
        self._woken = asyncio.Event()

    def __bool__(self) -> bool:
        return self._asked

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks the thread until the bot is asked to stop: True; False if `timeout_s` seconds have passed."""
        try:
            self._tokens.get(timeout=timeout_s)
        except Empty:
            return False
        self._tokens.put(None)
        return True

    def __await__(self) -> Generator[Any, None, None]:
        yield from self._woken.wait().__await__()

    def ask(self) -> None:
        """Asks the bot to stop, as SIGTERM does. May be called in a signal handler, and again."""
        again, self._asked = self._asked, True
        self._tokens.put(None)
        if not again:
            self.then()

    def wake(self) -> None:
        """Wakes the tasks that await it. To be called in their loop."""
        self._woken.set()


class _Bot:
    """What both contexts have. `tell` takes what is for the supervisor, as `notify.notify` does."""

    def __init__(
        self,
        *,
        bot_id: int,
        run_id: int,
        kind: str,
        name: str | None,
        labels: Mapping[str, str],
        data_dir: str,
        stopping: Stopping,
        tell: Callable[..., object] = notify.notify,
    ) -> None:
        self.bot_id = bot_id
        self.run_id = run_id
        self.kind = kind
        self.name = name
        self.labels = labels
        self._data_dir = Path(data_dir)
        self._stopping = stopping
        self._tell = tell

    def __repr__(self) -> str:
        identity = f"bot_id={self.bot_id}, run_id={self.run_id}, kind={self.kind!r}, name={self.name!r}"
        return f"{type(self).__name__}({identity}, labels={self.labels!r})"

    @property
    def stopping(self) -> Stopping:
        """Whether the bot is asked to stop. Whoever has used it once is trusted to return by itself."""
        self._stopping.heeded = True
        return self._stopping

    def ready(self) -> None:
        """The bot is ready: from `starting` it becomes `running`. For kinds with `ready = "notify"`."""
        self._tell(READY="1")

    def heartbeat(self) -> None:
        """The bot is well; shown as `heartbeat_age_s` in the listing. Asyncio bots with a heartbeat beat anyway."""
        self._tell(WATCHDOG="1")

    def status(self, text: str) -> None:
        """Shown as `status` in the listing, e.g. "12 orders open"."""
        self._tell(STATUS=text)

    @functools.cached_property
    def log(self) -> logging.Logger:
        """Writes lines such as "INFO 12 orders open" to the bot's output; `ctx.log.exception()` with the traceback.

        It stands apart: what the bot or its libraries set up in `logging` neither doubles nor silences it.
        """
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        log = logging.Logger(self.kind, logging.INFO)
        log.addHandler(handler)
        return log

    @functools.cached_property
    def data_dir(self) -> Path:
        """A directory of this bot alone, which its later runs find as this one leaves it. Raises OSError."""
        self._data_dir.parent.mkdir(mode=0o700, exist_ok=True)
        self._data_dir.mkdir(mode=0o700, exist_ok=True)
        return self._data_dir


class Context(_Bot):
    """Who this bot is, and how it and its supervisor speak with each other: the `ctx` of an `async def`.

    It has `bot_id`, `run_id`, `kind`, `name` (None if it has none) and `labels`.
    """

    async def sleep(self, seconds: float) -> bool:
        """Sleeps, but no longer than until the bot is asked to stop. True if it is to go on, False if to stop."""
        stopping = self.stopping
        if stopping:
            # A loop that does not look at the answer must not keep all others from running.
            await asyncio.sleep(0)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await stopping
        return not stopping


class SyncContext(_Bot):
    """Who this bot is, and how it and its supervisor speak with each other: the `ctx` of a plain `def`.

    It has `bot_id`, `run_id`, `kind`, `name` (None if it has none) and `labels`.
    """

    def sleep(self, seconds: float) -> bool:
        """Sleeps, but no longer than until the bot is asked to stop. True if it is to go on, False if to stop."""
        return not self.stopping.wait(max(0.0, seconds))

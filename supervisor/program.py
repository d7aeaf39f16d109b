"""Where everything is put together: settings, ledger, engine, fleet, and the HTTP server on top."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator

from supervisor import background, data_directory, handover, logs
from supervisor.api import application, audit, listener, server, threads
from supervisor.core import errors
from supervisor.engine.local import LocalEngine
from supervisor.fleet.catalogue import Catalogue
from supervisor.fleet.fleet import Fleet
from supervisor.fleet.retention import Retention
from supervisor.fleet.starts import Rate
from supervisor.logs.console_offsets import Printed
from supervisor.metrics import Metrics
from supervisor.settings import Settings
from supervisor.store import Ledger
from supervisor.store.secrets import Secrets

log = logging.getLogger(__name__)

DRAIN_S = 0.5
CONSOLE_S = 0.5
"""How long the last lines may take to reach a stdout that somebody reads slowly."""


@contextlib.contextmanager
def console(settings: Settings) -> Iterator[logs.Console]:
    """Our own stdout, for the bots' lines and for what the program says itself."""
    out = logs.Console()
    handler = logs.ConsoleHandler(out)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    # Which migrations were applied, Peewee tells by names that say nothing to a reader.
    logging.getLogger("peewee").setLevel(logging.WARNING)
    # Who did what is told however little the program says otherwise.
    audit.log.setLevel(logging.INFO)
    try:
        yield out
    finally:
        root.removeHandler(handler)
        out.close(CONSOLE_S)


@contextlib.asynccontextmanager
async def open_ledger(settings: Settings, counts: Metrics) -> AsyncIterator[Ledger]:
    """The ledger, and those told of its events who are to be. Raises Refused."""
    ledger = await Ledger.open(settings.data_dir / "ledger.sqlite3", on_commit=counts.committed)
    try:
        async with telling(settings, ledger):
            yield ledger
    finally:
        await ledger.close()


@contextlib.asynccontextmanager
async def telling(settings: Settings, ledger: Ledger) -> AsyncIterator[None]:
    """While the block lasts, events go to the webhooks and the Redis stream of the settings, if there are any.

    What that takes is imported only then: 5 MB each. Raises SettingsRefused.
    """
    async with contextlib.AsyncExitStack() as told:
        if settings.webhooks:
            from supervisor.notices import teller

            await told.enter_async_context(
                teller.telling(settings.webhooks, ledger, recovered_after_s=settings.recovered_after_s)
            )
        if settings.redis_url is not None:
            try:
                from supervisor.notices import redis_stream
            except ModuleNotFoundError:
                raise errors.SettingsRefused(
                    "redis_url is set, but the package redis is not installed: pip install 'bot-supervisor[redis]'"
                ) from None
            await told.enter_async_context(redis_stream.publishing(settings.redis_url, settings.redis_stream, ledger))
        yield


@contextlib.asynccontextmanager
async def open_fleet(
    settings: Settings,
    ledger: Ledger,
    counts: Metrics,
    out: logs.Console,
    reread: Callable[[], Settings],
    leave: Callable[[], bool],
) -> AsyncIterator[Fleet]:
    """The fleet of these settings, booted, with its engine. Raises Refused.

    `leave` is asked at the end: whether bots and zygotes are left as they are, for a supervisor that comes at once.
    """
    data = settings.data_dir
    log_dir = data / "logs"
    for directory in (data / "run", log_dir):
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise errors.SettingsRefused(f"cannot make {directory}: {error.strerror}") from None
    printed = Printed(data / "run" / "printed.json")
    follower = logs.Follower(log_dir, out, limit_bytes=settings.log_limit_bytes, printed=printed.take())
    bot_logs = logs.BotLogs(log_dir, follower)
    engine = LocalEngine(
        data,
        settings.kinds,
        lambda bot_id, run_id, values: fleet.notified(bot_id, run_id, values),
        bot_logs,
        zygote_idle_s=settings.zygote_idle_s,
        without_supervisor_s=settings.without_supervisor_s,
    )
    secrets = Secrets(data / "secrets")
    catalogue = Catalogue(
        settings.kinds,
        engine=engine,
        secrets=secrets,
        rate=Rate(at_once=settings.starts_at_once, per_s=settings.starts_per_s),
        read=lambda: reread().kinds,
    )
    fleet = Fleet(
        engine=engine,
        ledger=ledger,
        logs=bot_logs,
        bots_dir=data / "bots",
        catalogue=catalogue,
        secrets=secrets,
        metrics=counts,
    )
    retention = Retention(
        ledger=ledger,
        logs=bot_logs,
        bots_dir=data / "bots",
        keep_runs_days=settings.keep_runs_days,
        keep_runs=settings.keep_runs,
    )
    tasks = background.Background()
    try:
        await engine.open()
        await fleet.boot()
        tasks.start(retention.run(), name="retention")
        yield fleet
    finally:
        await tasks.close()
        await engine.close(leave=leave())
        fleet.close()
        await asyncio.to_thread(follower.drain, DRAIN_S)
        reached = follower.close()
        if leave():
            printed.keep(reached)


class Orders:
    """What signals ask of the supervisor, from the moment there is a loop. A second one changes nothing.

    Attributes:
        leave: whether bots and zygotes stay as they are at the end, for a supervisor that comes at once.
    """

    def __init__(self) -> None:
        self.leave = False
        self.stop, self.replace, self.reload = asyncio.Event(), asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum, order in (
            (signal.SIGTERM, self.stop),
            (signal.SIGINT, self.stop),
            (signal.SIGUSR2, self.replace),
            (signal.SIGHUP, self.reload),
        ):
            loop.add_signal_handler(signum, order.set)

    async def reload_kinds(self, fleet: Fleet) -> None:
        """Read the kinds again whenever it is asked for, and say what came of it."""
        while True:
            await self.reload.wait()
            self.reload.clear()
            log.info("got SIGHUP: reads the kinds again")
            try:
                await fleet.reload_kinds()
            except errors.Problem as problem:
                log.warning("the kinds are as they were: %s", problem.detail)

    async def close(self) -> None:
        """Take no more of them: they stay pending from now on, with this process and with what it becomes."""
        handover.hold_signals()
        # One that came just before has its handler run within the next rounds of the loop: it is read, then called.
        for _ in range(3):
            await asyncio.sleep(0)


async def serve(settings: Settings, reread: Callable[[], Settings]) -> handover.Handover | None:
    """Run until SIGTERM or SIGINT: then stop all bots, answering reads meanwhile, and return None.

    Or until SIGUSR2: then leave the bots as they are, and return what the supervisor that is to take over
    goes on with. At SIGHUP the kinds are those of the settings that `reread` gives, which raises SettingsRefused.

    Raises Refused when the program cannot start.
    """
    orders = Orders()
    asyncio.get_running_loop().set_default_executor(threads.pool())
    received = handover.received()
    counts = Metrics(per_bot=settings.metrics_per_bot)
    max_connections = min(settings.max_connections, server.raise_descriptor_limit() // 4)
    with (
        data_directory.held(settings.data_dir, received.get("lock")) as data_dir,
        listener.listen_locally(settings.uds, received.get("http"))
        if settings.uds
        else listener.listen(settings.host, settings.port, received.get("http")) as sock,
        console(settings) as out,
    ):
        async with open_ledger(settings, counts) as ledger:
            # By now the threads are made that may be there when the loop is not: they hold these signals for good, and
            # take none that nobody would hear of. No child is made yet, which would inherit that.
            handover.release_signals()
            async with open_fleet(settings, ledger, counts, out, reread, lambda: orders.leave) as fleet:
                http = server.Server(application.create(fleet, settings), max_connections=max_connections)
                fleet.metrics.connections.set_function(lambda: len(http.server_state.connections))
                handed = await _serve(fleet, http, sock, data_dir, orders, settings.shutdown_s)
    await orders.close()
    if handed and orders.stop.is_set():
        # It came when the fleet was left already: the next supervisor finds it pending, and stops the bots.
        signal.raise_signal(signal.SIGTERM)
    return handed


async def _serve(
    fleet: Fleet,
    http: server.Server,
    sock: socket.socket,
    data_dir: data_directory.Held,
    orders: Orders,
    shutdown_s: float,
) -> handover.Handover | None:
    """Answer calls until an order to stop or to be replaced is carried out; what the next supervisor goes on with."""
    # What the program is made of lives as long as it does. Looking through all of it for garbage, as the collector does
    # now and then, holds up the loop for 50 ms. A list of 1,000 bots makes 10,000 objects, and none of them is garbage:
    # with the usual threshold of 700 the collector took a tenth of each such answer.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    tasks = background.Background()
    try:
        tasks.start(orders.reload_kinds(fleet), name="reload")
        serving = tasks.start(http.serve(sockets=[sock]), name="http")
        data_dir.serves()
        given = {tasks.start(order.wait(), name="order") for order in (orders.stop, orders.replace)}
        await asyncio.wait({serving, *given}, return_when=asyncio.FIRST_COMPLETED)
        if orders.replace.is_set() and not orders.stop.is_set():
            log.info("making way for a new supervisor; all bots run on")
            handed = handover.Handover(sock.dup(), os.dup(data_dir.fd))
            http.stop()
            await serving
            if not orders.stop.is_set():
                orders.leave = True
                return handed
            handed.close()
        log.info("stopping all bots")
        await fleet.shutdown(shutdown_s)
        http.stop()
        await serving
        return None
    finally:
        await tasks.close()

"""Where everything is put together: settings, ledger, engine, fleet, and the HTTP server on top."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator

from supervisor import data_directory, handover, logs
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
        directory.mkdir(mode=0o700, exist_ok=True)
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
    try:
        await engine.open()
        await fleet.boot()
        pruning = asyncio.create_task(retention.run(), name="retention")
        try:
            yield fleet
        finally:
            pruning.cancel()
    finally:
        await engine.close(leave=leave())
        fleet.close()
        await asyncio.to_thread(follower.drain, DRAIN_S)
        reached = follower.close()
        if leave():
            printed.keep(reached)


async def reload(fleet: Fleet) -> None:
    """What SIGHUP asks for: read the kinds again, and say what came of it."""
    log.info("got SIGHUP: reads the kinds again")
    try:
        await fleet.reload_kinds()
    except errors.Problem as problem:
        log.warning("the kinds are as they were: %s", problem.detail)


async def serve(settings: Settings, reread: Callable[[], Settings]) -> handover.Handover | None:
    """Run until SIGTERM or SIGINT: then stop all bots, answering reads meanwhile, and return None.

    Or until SIGUSR2: then leave the bots as they are, and return what the supervisor that is to take over
    goes on with. At SIGHUP the kinds are those of the settings that `reread` gives, which raises SettingsRefused.

    Raises Refused when the program cannot start.
    """
    loop = asyncio.get_running_loop()
    loop.set_default_executor(threads.pool())
    stop, replaced = asyncio.Event(), asyncio.Event()
    handed = handover.received()
    counts = Metrics(per_bot=settings.metrics_per_bot)
    max_connections = min(settings.max_connections, server.raise_descriptor_limit() // 4)
    with (
        data_directory.held(settings.data_dir, handed.get("lock")) as data_dir,
        listener.listen_locally(settings.uds, handed.get("http"))
        if settings.uds
        else listener.listen(settings.host, settings.port, handed.get("http")) as sock,
        console(settings) as out,
    ):
        # A second signal changes nothing: stopping takes the time that it takes, and that is bounded.
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, stop.set)
        # Until the fleet is there it is only not to kill us.
        loop.add_signal_handler(signal.SIGUSR2, replaced.set)
        loop.add_signal_handler(signal.SIGHUP, log.info, "got SIGHUP before there is something to reload")
        handover.release_signals()
        async with (
            open_ledger(settings, counts) as ledger,
            open_fleet(settings, ledger, counts, out, reread, lambda: replaced.is_set() and not stop.is_set()) as fleet,
        ):
            reloads: set[asyncio.Task[None]] = set()

            def hang_up() -> None:
                reloading = asyncio.create_task(reload(fleet), name="reload")
                reloads.add(reloading)
                reloading.add_done_callback(reloads.discard)

            loop.add_signal_handler(signal.SIGHUP, hang_up)
            # What the program is made of lives as long as it does. Looking through all of it for garbage, as the
            # collector does now and then, holds up the loop for 50 ms. A list of 1,000 bots makes 10,000 objects, and
            # none of them is garbage: with the usual threshold of 700 the collector took a tenth of each such answer.
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000, 20, 20)
            http = server.Server(application.create(fleet, settings), max_connections=max_connections)
            fleet.metrics.connections.set_function(lambda: len(http.server_state.connections))
            serving = asyncio.create_task(http.serve(sockets=[sock]))
            data_dir.serves()
            waiting = {asyncio.create_task(event.wait()) for event in (stop, replaced)}
            await asyncio.wait({serving, *waiting}, return_when=asyncio.FIRST_COMPLETED)
            if replaced.is_set() and not stop.is_set():
                log.info("making way for a new supervisor; all bots run on")
                handed_on = handover.Handover(sock.dup(), os.dup(data_dir.fd))
                http.stop()
                await serving
                # From here on they are for the next supervisor, which stops the bots if it is told to.
                handover.hold_signals()
                for _ in range(3):
                    # Those that came before reach their handlers.
                    await asyncio.sleep(0)
                if not stop.is_set():
                    return handed_on
                handover.release_signals()
                handed_on.close()
            log.info("stopping all bots")
            await fleet.shutdown(settings.shutdown_s)
            http.stop()
            await serving
    return None

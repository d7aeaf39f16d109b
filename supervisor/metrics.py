"""The numbers of the supervisor, as Prometheus reads them.

What happens is counted here by whoever does it, in a call that takes a few microseconds. What is (bots by state, what
they use) is looked up when somebody asks: a `Census`. All counts begin anew with each supervisor, as those of
Prometheus may: `rate` and `increase` know what that means.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from supervisor import __version__
from supervisor.model import Cause, State, Usage

_START_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_STOP_S = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0)
_COMMIT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)
_REQUEST_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0)

# When a series began would be another series for each; process_start_time_seconds says it for all.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True, kw_only=True)
class BotUsage:
    """What the process of a bot uses now."""

    bot_id: int
    name: str | None
    kind: str
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Zygote:
    """How warm a kind is. `rss_bytes` is None without a zygote."""

    kind: str
    warm: bool
    rss_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What there is at one moment. `bots` is None when the ledger could not be read."""

    bots: Mapping[tuple[str, State], int] | None
    usages: Sequence[BotUsage]
    zygotes: Sequence[Zygote]
    ledger_queue: int
    ledger_outage: bool


class Metrics:
    """What has happened since this supervisor started. Each call may come from any thread.

    `per_bot`: whether a census looks at what each single bot uses.
    """

    def __init__(self, *, per_bot: bool = True) -> None:
        self.per_bot = per_bot
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        build = Info("bot_supervisor_build", "The version that runs.", registry=registry)
        build.info({"version": __version__, "python_version": platform.python_version()})
        self._starts = Counter(
            "bot_supervisor_starts", "Processes of bots that were made.", ["kind"], registry=registry
        )
        self._exits = Counter(
            "bot_supervisor_exits", "Runs that ended, by cause.", ["kind", "cause"], registry=registry
        )
        self._restarts = Counter(
            "bot_supervisor_restarts", "Starts of bots again by themselves.", ["kind"], registry=registry
        )
        self._start_s = Histogram(
            "bot_supervisor_start_latency_seconds",
            "From the decision to start a bot until it was ready; it may have waited for its turn.",
            ["kind"],
            buckets=_START_S,
            registry=registry,
        )
        self._stop_s = Histogram(
            "bot_supervisor_stop_latency_seconds",
            "From the decision to end a process until all that it had started was gone.",
            ["kind"],
            buckets=_STOP_S,
            registry=registry,
        )
        self._commit_s = Histogram(
            "bot_supervisor_ledger_commit_seconds",
            "Transactions of the ledger, each with a group of writes.",
            buckets=_COMMIT_S,
            registry=registry,
        )
        self._request_s = Histogram(
            "bot_supervisor_http_request_duration_seconds",
            "Until the answer began, by method, path of the route, and status.",
            ["method", "route", "status"],
            buckets=_REQUEST_S,
            registry=registry,
        )
        self.requests = Gauge(
            "bot_supervisor_http_requests_in_progress",
            "Calls whose answer is not complete; an open stream is one.",
            registry=registry,
        )
        self.streams = Gauge("bot_supervisor_http_streams", "Open streams of events or of logs.", registry=registry)
        self.connections = Gauge(
            "bot_supervisor_http_connections", "Open connections, idle ones included.", registry=registry
        )

    def started(self, kind: str) -> None:
        """A process of a bot was made."""
        self._starts.labels(kind).inc()

    def ready(self, kind: str, after_s: float) -> None:
        """A bot is ready, so long after the decision to start it."""
        self._start_s.labels(kind).observe(after_s)

    def restarted(self, kind: str) -> None:
        """A bot is started again by itself."""
        self._restarts.labels(kind).inc()

    def ended(self, kind: str, cause: Cause) -> None:
        """A run has ended."""
        self._exits.labels(kind, cause).inc()

    def gone(self, kind: str, after_s: float) -> None:
        """Nothing is left of a process, so long after the decision to end it."""
        self._stop_s.labels(kind).observe(after_s)

    def committed(self, seconds: float) -> None:
        """The ledger has written a group."""
        self._commit_s.observe(seconds)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """The answer to a call has begun."""
        self._request_s.labels(method, route, str(status)).observe(seconds)

    def know(self, kinds: Iterable[str]) -> None:
        """Begins the counters of these kinds, if that is not done: a first crash is seen by `increase` only where
        there was a 0 before."""
        for kind in kinds:
            self._starts.labels(kind)
            self._restarts.labels(kind)
            for cause in Cause:
                self._exits.labels(kind, cause)


class Scrape(Collector):
    """All that there is to tell at one moment."""

    def __init__(self, metrics: Metrics, census: Census) -> None:
        self._metrics = metrics
        self._census = census

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics.registry.collect()
        yield from self._bots()
        yield from self._usages()
        yield from self._zygotes()
        yield GaugeMetricFamily(
            "bot_supervisor_ledger_queue_length",
            "Writes to the ledger that are not done yet.",
            value=self._census.ledger_queue,
        )
        yield GaugeMetricFamily(
            "bot_supervisor_ledger_outage", "1 while the ledger cannot be written.", value=self._census.ledger_outage
        )

    def _bots(self) -> Iterator[Metric]:
        if self._census.bots is None:
            # Better no number than a wrong one: failed bots do not mend because nobody can count them.
            return
        bots = GaugeMetricFamily("bot_supervisor_bots", "Bots by kind and state.", labels=["kind", "state"])
        kinds = {zygote.kind for zygote in self._census.zygotes} | {kind for kind, _ in self._census.bots}
        for kind in sorted(kinds):
            for state in State:
                bots.add_metric([kind, state], self._census.bots.get((kind, state), 0))
        yield bots

    def _usages(self) -> Iterator[Metric]:
        labels = ["bot_id", "name", "kind"]
        cpu = CounterMetricFamily(
            "bot_supervisor_bot_cpu_seconds", "CPU time of a bot's process; each run begins at 0.", labels=labels
        )
        memory = GaugeMetricFamily(
            "bot_supervisor_bot_resident_memory_bytes", "Resident memory of a bot's process.", labels=labels
        )
        for bot in self._census.usages:
            values = [str(bot.bot_id), bot.name or "", bot.kind]
            cpu.add_metric(values, bot.usage.cpu_seconds)
            memory.add_metric(values, bot.usage.rss_bytes)
        if self._metrics.per_bot:
            yield cpu
            yield memory

    def _zygotes(self) -> Iterator[Metric]:
        warm = GaugeMetricFamily(
            "bot_supervisor_zygote_warm", "1 where a kind is imported, and its bots start warm.", labels=["kind"]
        )
        memory = GaugeMetricFamily(
            "bot_supervisor_zygote_resident_memory_bytes", "Resident memory of a kind's zygote.", labels=["kind"]
        )
        for zygote in self._census.zygotes:
            warm.add_metric([zygote.kind], zygote.warm)
            if zygote.rss_bytes is not None:
                memory.add_metric([zygote.kind], zygote.rss_bytes)
        yield warm
        yield memory

"""The numbers for Prometheus: what has happened since this supervisor began, and how things stand.

What happens is counted where it happens, by one call each that takes about a microsecond. How things stand is read
when somebody asks, and not before. The registry is our own: what other packages count in the global one is theirs.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from supervisor import __version__
from supervisor.core.model import Bot, Cause, State, Usage

PREFIX = "bot_supervisor"

_UP_TO_A_SECOND = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_UP_TO_A_MINUTE = (*_UP_TO_A_SECOND, 2.5, 5.0, 10.0, 30.0, 60.0)

# One more line for each counter, for what Prometheus sees by itself: that it began anew.
disable_created_metrics()


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """How things stand at one moment.

    `bots` has a number for each kind and each state that could be counted, `warm` one entry for each kind of the
    settings, `zygotes` the resident memory of each that there is, in bytes, `usages` the bots whose processes are to
    be shown one by one.
    """

    bots: Mapping[tuple[str, State], int]
    warm: Mapping[str, bool]
    zygotes: Mapping[str, int]
    usages: Sequence[tuple[Bot, Usage]]
    ledger_queued: int
    ledger_outage: bool
    streams: int = 0


class Metrics:
    """What is counted and timed. `per_bot`: whether bots are also shown one by one."""

    def __init__(self, *, per_bot: bool = True) -> None:
        self.per_bot = per_bot
        self._registry = CollectorRegistry()
        counter = functools.partial(Counter, namespace=PREFIX, registry=self._registry)
        histogram = functools.partial(Histogram, namespace=PREFIX, registry=self._registry)
        self._starts = counter("starts", "Processes that were made for bots.", ["kind"])
        self._exits = counter("exits", "Runs that ended, those that never had a process too.", ["kind", "cause"])
        self._restarts = counter("restarts", "Starts again, by itself or by command, after a run that ended.", ["kind"])
        self._start_latency = histogram(
            "start_latency_seconds",
            "From the moment a start was asked for, or decided, until the bot was ready.",
            ["kind"],
            buckets=_UP_TO_A_MINUTE,
        )
        self._stop_latency = histogram(
            "stop_latency_seconds",
            "From the moment a process was to end until it and all that it had started were gone.",
            ["kind"],
            buckets=_UP_TO_A_MINUTE,
        )
        self._commits = histogram(
            "ledger_commit_seconds", "A transaction of the ledger, fsync included.", buckets=_UP_TO_A_SECOND
        )
        self.connections = Gauge(
            "http_connections", "Open connections, idle ones too.", namespace=PREFIX, registry=self._registry
        )
        """Told by whoever has them what to ask for their number."""
        self._answers = histogram(
            "http_request_duration_seconds",
            "From a call to the beginning of its answer.",
            ["method", "route", "status"],
            buckets=(*_UP_TO_A_SECOND, 2.5, 5.0, 10.0),
        )
        ProcessCollector(registry=self._registry)

    def started(self, kind: str) -> None:
        """A process was made."""
        self._starts.labels(kind).inc()

    def ready(self, kind: str, latency_s: float) -> None:
        """A bot is ready, so long after its start was asked for."""
        self._start_latency.labels(kind).observe(latency_s)

    def ended(self, kind: str, cause: Cause) -> None:
        """A run is over."""
        self._exits.labels(kind, cause).inc()

    def gone(self, kind: str, latency_s: float) -> None:
        """Nothing is left of a process, so long after it was to end."""
        self._stop_latency.labels(kind).observe(latency_s)

    def restarted(self, kind: str) -> None:
        """A bot is started again."""
        self._restarts.labels(kind).inc()

    def committed(self, took_s: float) -> None:
        """The ledger has written. Called from its thread."""
        self._commits.observe(took_s)

    def answered(self, method: str, route: str, status: str, took_s: float) -> None:
        """A call has its answer. None of these labels may be what a caller can invent."""
        self._answers.labels(method, route, status).observe(took_s)

    def text(self, levels: Levels, accept: str) -> tuple[bytes, str]:
        """All of it in the format that the Accept header asks for, and the name of that format.

        Takes 13 ms with 1,000 bots (45 ms as OpenMetrics), and is to be called in a thread.
        """
        for kind in {kind for kind, _ in levels.bots}:
            # What has not happened yet is 0: from nothing to 1 would be no increase.
            for by_kind in (self._starts, self._restarts, self._start_latency, self._stop_latency):
                by_kind.labels(kind)
            for cause in Cause:
                self._exits.labels(kind, cause)
        encode, content_type = _encoder(accept)
        return encode(_Scrape(self._registry, levels)), content_type


class _Scrape(Collector):
    """What was counted, and how things stand."""

    def __init__(self, counted: CollectorRegistry, levels: Levels) -> None:
        self._counted = counted
        self._levels = levels

    def collect(self) -> Iterator[Metric]:
        yield from self._counted.collect()
        levels = self._levels
        build = {"version": __version__, "python": platform.python_version()}
        yield _gauge("build_info", "The supervisor that runs.", list(build), [(list(build.values()), 1)])
        yield _gauge("bots", "Bots that are not deleted.", ["kind", "state"], levels.bots.items())
        warm = [([kind], is_warm) for kind, is_warm in levels.warm.items()]
        yield _gauge("zygote_warm", "Whether the kind is imported, and its bots are forked at once.", ["kind"], warm)
        memory = [([kind], rss_bytes) for kind, rss_bytes in levels.zygotes.items()]
        yield _gauge("zygote_resident_memory_bytes", "Resident memory of the kind's zygote.", ["kind"], memory)
        yield _gauge("ledger_queue_length", "Writes that are not settled yet.", [], [([], levels.ledger_queued)])
        yield _gauge("ledger_outage", "Whether the ledger cannot be written.", [], [([], levels.ledger_outage)])
        yield _gauge("open_streams", "Feeds of events and logs that are open.", [], [([], levels.streams)])
        if levels.usages:
            yield from self._by_bot()

    def _by_bot(self) -> Iterator[Metric]:
        labels = ["bot_id", "name", "kind"]
        # The process's own: it grows while a run lasts, and begins at 0 with the next, as a counter may.
        cpu = CounterMetricFamily(
            f"{PREFIX}_bot_cpu_seconds", "CPU time of the bot's process, from 0 in each run.", labels=labels
        )
        memory = GaugeMetricFamily(
            f"{PREFIX}_bot_resident_memory_bytes", "Resident memory of the bot's process.", labels=labels
        )
        for bot, usage in self._levels.usages:
            values = [str(bot.bot_id), bot.name or "", bot.kind]
            cpu.add_metric(values, usage.cpu_seconds)
            memory.add_metric(values, usage.rss_bytes)
        yield cpu
        yield memory


def _gauge(name: str, told: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]) -> Metric:
    gauge = GaugeMetricFamily(f"{PREFIX}_{name}", told, labels=labels)
    for shown, value in values:
        gauge.add_metric(shown, value)
    return gauge


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except TypeError:
        # It compares the version that is asked for, and this one is not made of numbers.
        return choose_encoder("")

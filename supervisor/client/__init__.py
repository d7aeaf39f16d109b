"""A client of the supervisor's API, in two flavours: `Client` and, for asyncio and Trio, `AsyncClient`.

It needs httpx, httpx-sse and anyio, and nothing else of this distribution. docs/client.md shows how it is used.
"""

from supervisor.client.clients import AsyncClient, Client
from supervisor.client.problems import Error, Problem, Unreachable
from supervisor.client.values import (
    Bot,
    Crash,
    Event,
    Health,
    Kind,
    LastExit,
    Line,
    Outcome,
    PastRun,
    Raised,
    Reloaded,
    Run,
    Skipped,
)

__all__ = [
    "AsyncClient",
    "Bot",
    "Client",
    "Crash",
    "Error",
    "Event",
    "Health",
    "Kind",
    "LastExit",
    "Line",
    "Outcome",
    "PastRun",
    "Problem",
    "Raised",
    "Reloaded",
    "Run",
    "Skipped",
    "Unreachable",
]

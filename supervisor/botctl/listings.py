"""The commands that look: what there is, and what was."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Group
from rich.live import Live

from supervisor.botctl import options, terminal, units
from supervisor.botctl.exits import Misused
from supervisor.client import Bot, Client, Run

T = TypeVar("T")

_BOT_COLUMNS = (">ID", "NAME", "KIND", "STATE", ">PID", ">CPU", ">MEM", ">UPTIME", ">RESTARTS", "REASON")
_LAST_LINES = 10


def _row(bot: Bot) -> Sequence[object]:
    return (
        bot.bot_id,
        bot.name or "-",
        bot.kind,
        terminal.state(bot.state, frozen=bool(bot.frozen)),
        bot.pid or "-",
        units.percent(bot.cpu_percent),
        units.size(bot.rss_bytes),
        units.duration(bot.uptime_s),
        bot.restarts,
        bot.reason,
    )


def ps(
    every: Annotated[bool, typer.Option("--all", "-a", help="those too that have ended")] = False,
    kind: options.Kind = None,
    name: options.Name = None,
    label: options.Labels = None,
    state: options.States = None,
    json: options.Json = False,
    url: options.Url = None,
) -> None:
    """List the bots that are active, or all of them."""
    with Client(url) as client:
        states = state or (["all"] if every else [])
        bots = client.bots(kind=kind, name=name, labels=options.pairs(label), states=states)
        if json:
            terminal.array(bots)
        else:
            terminal.show(terminal.table(_BOT_COLUMNS, map(_row, bots)))


def top(
    interval: Annotated[float, typer.Option(min=0.2, help="seconds between two looks")] = 2.0,
    kind: options.Kind = None,
    label: options.Labels = None,
    json: options.Json = False,
    url: options.Url = None,
) -> None:
    """Watch the active bots. Those that use most CPU come first; Ctrl-C ends it."""
    if not json and not sys.stdout.isatty():
        raise Misused("top needs a terminal, or --json")
    with Client(url) as client:

        def look() -> list[Bot]:
            found = client.bots(kind=kind, labels=options.pairs(label))
            return sorted(found, key=lambda bot: (-(bot.cpu_percent or 0), -(bot.rss_bytes or 0)))

        if json:
            while True:
                terminal.document(look())
                time.sleep(interval)
        to = terminal.console()
        # With nothing to show at first: what is interrupted while `with` begins is not put back.
        with Live(console=to, screen=True, auto_refresh=False) as live:
            while True:
                live.update(_screen(look(), to.height), refresh=True)
                time.sleep(interval)


def _screen(bots: list[Bot], height: int) -> Group:
    running = sum(bot.state == "running" for bot in bots)
    cpu = sum(bot.cpu_percent or 0 for bot in bots)
    memory = sum(bot.rss_bytes or 0 for bot in bots)
    now = datetime.now().strftime("%H:%M:%S")
    total = f"{now}  bots {len(bots)}  running {running}  CPU {units.percent(cpu)}  memory {units.size(memory)}"
    shown = terminal.table(_BOT_COLUMNS, map(_row, bots[: max(1, height - 3)]))
    return Group(terminal.cell(total, "bold"), terminal.cell(""), shown)


def show(bot_id: options.BotId, json: options.Json = False, url: options.Url = None) -> None:
    """Tell everything about one bot. Why it is so, its last exit, parameters, labels and last lines."""
    with Client(url) as client:
        bot = client.bot(bot_id)
        run = client.run(bot.run_id) if bot.run_id else _last(client.runs(bot_id=bot_id))
        lines = client.logs(bot_id, tail=_LAST_LINES)
    if json:
        terminal.document({"bot": bot, "last_run": run, "last_lines": lines})
        return
    last = bot.last_exit
    fields = {
        "bot": f"{bot.bot_id} {bot.name or ''}".strip(),
        "kind": bot.kind,
        "state": terminal.state(bot.state, frozen=bool(bot.frozen)),
        "reason": bot.reason,
        "waiting for": bot.waiting_for,
        "goal": bot.goal,
        "status": bot.status,
        "params": _assigned(bot.params),
        "labels": _assigned(bot.labels),
        "restart": _assigned(bot.restart),
        "limits": _assigned(bot.limits),
        "schedule": _assigned(bot.schedule or {}),
        "grace": f"{bot.grace_s:g}s",
        "overrides": " ".join(bot.overrides or ()),
        "node": bot.node,
        "pid": bot.pid,
        "run": bot.run_id,
        "started": _if(bot.started_at, units.time),
        "uptime": _if(bot.uptime_s, units.duration),
        "cpu": _if(bot.cpu_percent, units.percent),
        "memory": _if(bot.rss_bytes, units.size),
        "descendants": bot.descendants,
        "heartbeat age": _if(bot.heartbeat_age_s, units.duration),
        "restarts": bot.restarts,
        "next start": _if(bot.next_start_at, units.time),
        "last exit": _if(
            last, lambda end: f"{end.cause} ({units.end(end.exit_code, end.signal)}) {units.time(end.at)}"
        ),
    }
    rows: list[tuple[object, object]] = [
        (terminal.cell(name, "bold"), value) for name, value in fields.items() if value or value == 0
    ]
    if run is not None and run.detail:
        # A traceback, or the stacks of a bot that hung.
        first, *stack = run.detail.rstrip("\n").split("\n")
        rows += [(terminal.cell("last run", "bold"), f"{run.run_id}: {first}"), *(("", text) for text in stack)]
    terminal.show(terminal.table(("", ""), rows), *(terminal.cell(f"| {text}") for text in lines))


def _if(value: T | None, shown: Callable[[T], str]) -> str | None:
    return None if value is None else shown(value)


def _last(runs: Iterable[Run]) -> Run | None:
    return next(iter(deque(runs, maxlen=1)), None)


def _assigned(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items() if value not in (None, False))


def history(
    bot: Annotated[int | None, typer.Option(min=1, metavar="ID", help="of this bot")] = None,
    kind: options.Kind = None,
    since: options.Since = None,
    json: options.Json = False,
    url: options.Url = None,
) -> None:
    """List every process that was. Oldest first, with how it ended."""
    with Client(url) as client:
        past = client.history(bot_id=bot, kind=kind, since=options.time(since))
        if json:
            terminal.array(past)
            return
        columns = (">RUN", ">BOT", "KIND", ">NUMBER", ">PID", "START", "END", "CAUSE", "EXIT")
        rows = [
            (
                run.run_id,
                run.bot_id,
                run.kind,
                "-" if run.start_number is None else run.start_number,
                run.pid or "-",
                units.time(run.start),
                "still alive" if run.end is None else units.time(run.end),
                run.cause or "-",
                units.end(run.exit_code, run.signal),
            )
            for run in past
        ]
        terminal.show(terminal.table(columns, rows))


def runs(
    bot: Annotated[int | None, typer.Option(min=1, metavar="ID", help="of this bot")] = None,
    cause: Annotated[list[str] | None, typer.Option(help="that ended so: crashed, killed…; repeatable")] = None,
    kind: options.Kind = None,
    fingerprint: Annotated[str | None, typer.Option(help="that failed as a group of crashes did")] = None,
    since: options.Since = None,
    json: options.Json = False,
    url: options.Url = None,
) -> None:
    """List runs in full. Oldest first, with what they used and why they ended."""
    with Client(url) as client:
        found = client.runs(
            bot_id=bot, kind=kind, causes=cause or (), fingerprint=fingerprint, since=options.time(since)
        )
        if json:
            terminal.array(found)
            return
        columns = (">RUN", ">BOT", "KIND", "STARTED", ">LASTED", "CAUSE", "EXIT", ">CPU", ">MEM", "DETAIL")
        rows = [
            (
                run.run_id,
                run.bot_id,
                run.kind,
                units.time(run.started_at),
                units.duration(((run.ended_at or datetime.now(UTC)) - run.started_at).total_seconds()),
                run.cause or "-",
                units.end(run.exit_code, run.signal),
                "-" if run.cpu_seconds is None else f"{run.cpu_seconds:.2f}s",
                units.size(run.max_rss_bytes),
                run.detail.partition("\n")[0],
            )
            for run in found
        ]
        terminal.show(terminal.table(columns, rows))


def crashes(
    kind: options.Kind = None,
    since: options.Since = None,
    json: options.Json = False,
    url: options.Url = None,
) -> None:
    """List the failed runs in groups. A group failed in the same way; the latest comes first."""
    with Client(url) as client:
        groups = client.crashes(kind=kind, since=options.time(since))
        if json:
            terminal.array(groups)
            return
        columns = (">COUNT", "KIND", "CAUSE", "LAST", ">BOT", ">RUN", "FINGERPRINT", "DETAIL")
        rows = [
            (
                group.count,
                group.kind,
                group.cause,
                units.time(group.last_at),
                group.bot_id,
                group.run_id,
                group.fingerprint,
                f"{group.type}: {group.message}" if group.type else group.detail,
            )
            for group in groups
        ]
        terminal.show(terminal.table(columns, rows))


def kinds(json: options.Json = False, url: options.Url = None) -> None:
    """List what can be started."""
    with Client(url) as client:
        found = client.kinds()
    if json:
        terminal.array(found)
        return
    columns = ("KIND", "WARM", ">MEM", ">IMPORT", "PARAMS", "DESCRIPTION")
    rows = [
        (
            kind.name,
            "yes" if kind.warm else "no",
            units.size(kind.rss_bytes),
            "-" if kind.import_s is None else f"{kind.import_s:.2f}s",
            ",".join((kind.params_schema or {}).get("properties", {})) or "-",
            kind.description if kind.warm else kind.reason or kind.description,
        )
        for kind in found
    ]
    terminal.show(terminal.table(columns, rows))

"""The commands that change something: start, stop, restart, delete, signal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated

import typer

from supervisor.botctl import options, terminal
from supervisor.botctl.exits import Exit, Misused
from supervisor.botctl.together import together
from supervisor.client import AsyncClient, Bot, Client, Outcome, Problem

_AT_ONCE = 16
"""So many bots are told at the same time."""

_UP = ("running", "exited", "scheduled")
_DOWN = ("stopped", "exited", "failed")

All = Annotated[bool, typer.Option("--all", help="all bots")]


def start(
    what: Annotated[
        list[str] | None, typer.Argument(metavar="[KIND | IDS...]", help="a new bot, or bots there are")
    ] = None,
    param: Annotated[list[str] | None, typer.Option(metavar="K=V", help="JSON, or else text; repeatable")] = None,
    name: Annotated[str | None, typer.Option(help="the new bot's name")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="K=V", help="the new bot's label; repeatable")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="so many bots that are alike")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="until ready, or failed")] = False,
    json: options.Json = False,
    url: options.Url = None,
) -> int:
    """Start a new bot of a kind, or bots there are. The kind is counter if none is named."""
    what = what or ["counter"]
    if all(text.isascii() and text.isdigit() for text in what):
        if param or name or label or count:
            raise Misused("a bot that is there already has its parameters, name and labels")
        return _each(url, "starting", list(map(int, what)), AsyncClient.start, _UP, json)
    if len(what) > 1:
        raise Misused("one kind, or some ids")
    if count is not None and name is not None:
        raise Misused("a name is for one bot alone")
    params, labels = options.params(param) or None, options.pairs(label) or None
    with Client(url) as client:
        if count is None:
            bots = [client.create(what[0], params, name=name, labels=labels, wait=wait)]
        else:
            with terminal.progress(f"starting {count}"):
                bots = client.create_many(count, what[0], params, labels=labels, wait=wait)
    if json:
        terminal.document(bots[0] if count is None else {"bots": bots})
    # A bot that waits for its turn or its time has started well, unless it was waited for.
    good = _UP if wait else (*_UP, "starting", "backoff")
    return _told([_outcome(bot, good) for bot in bots], silent=json)


def stop(
    bot_ids: options.AnyIds = None,
    kind: options.Kind = None,
    label: options.Labels = None,
    name: options.Name = None,
    state: options.States = None,
    every: All = False,
    grace_s: options.GraceS = None,
    json: options.Json = False,
    url: options.Url = None,
) -> int:
    """Stop bots. Answered when each process, and all that it started, is gone."""
    if _are_named(bot_ids, kind, label, name, state, every):
        return _each(url, "stopping", bot_ids or [], partial(AsyncClient.stop, grace_s=grace_s), _DOWN, json)
    with Client(url) as client, terminal.progress("stopping"):
        outcomes = client.stop_many(
            kind=kind, name=name, labels=options.pairs(label), states=state or (), all=every, grace_s=grace_s
        )
    return _results(outcomes, json)


def restart(
    bot_ids: options.AnyIds = None,
    kind: options.Kind = None,
    label: options.Labels = None,
    name: options.Name = None,
    state: options.States = None,
    every: All = False,
    max_parallel: Annotated[
        int | None, typer.Option(min=1, help="of those chosen by options: so many at a time; the first failure ends it")
    ] = None,
    grace_s: options.GraceS = None,
    json: options.Json = False,
    url: options.Url = None,
) -> int:
    """Restart bots. Answered when each is ready, or has failed."""
    if _are_named(bot_ids, kind, label, name, state, every):
        if max_parallel is not None:
            raise Misused("--max-parallel is for bots that are chosen by options")
        return _each(url, "restarting", bot_ids or [], partial(AsyncClient.restart, grace_s=grace_s), _UP, json)
    with Client(url) as client, terminal.progress("restarting"):
        outcomes = client.restart_many(
            kind=kind,
            name=name,
            labels=options.pairs(label),
            states=state or (),
            all=every,
            grace_s=grace_s,
            max_parallel=max_parallel,
        )
    return _results(outcomes, json)


def delete(bot_ids: options.SomeIds, json: options.Json = False, url: options.Url = None) -> int:
    """Stop bots, then forget them. Their logs go, their runs stay."""

    async def forget(client: AsyncClient, bot_id: int) -> Outcome:
        await client.delete(bot_id)
        return Outcome(bot_id=bot_id, ok=True, state="deleted", detail="")

    return _results(asyncio.run(_side_by_side(url, "deleting", bot_ids, forget)), json)


def signal(
    bot_id: options.BotId,
    name: Annotated[str, typer.Argument(metavar="SIGNAL", help="HUP, SIGUSR1…")],
    json: options.Json = False,
    url: options.Url = None,
) -> None:
    """Send a signal to a bot's process."""
    name = name.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    with Client(url) as client:
        client.signal(bot_id, name)
    if json:
        terminal.document({"bot_id": bot_id, "signal": name})


def _are_named(bot_ids: Sequence[int] | None, *conditions: object) -> bool:
    """Whether the bots are named by their ids; else by options."""
    if bot_ids and any(conditions):
        raise Misused("say ids or options, not both")
    if not bot_ids and not any(conditions):
        raise Misused("say which bots: ids, --kind, --label, --name, --state, or --all for all of them")
    return bool(bot_ids)


def _each(
    url: str | None,
    what: str,
    bot_ids: Sequence[int],
    command: Callable[[AsyncClient, int], Awaitable[Bot]],
    good: Sequence[str],
    json: bool,
) -> int:
    async def one(client: AsyncClient, bot_id: int) -> Outcome:
        return _outcome(await command(client, bot_id), good)

    return _results(asyncio.run(_side_by_side(url, what, bot_ids, one)), json)


async def _side_by_side(
    url: str | None, what: str, bot_ids: Sequence[int], command: Callable[[AsyncClient, int], Awaitable[Outcome]]
) -> Sequence[Outcome]:
    """The command to each of them. One that is refused concerns no other, but is raised where there is one alone."""
    turns = asyncio.Semaphore(_AT_ONCE)
    async with AsyncClient(url) as client:
        if len(bot_ids) == 1:
            return [await command(client, bot_ids[0])]
        with terminal.progress(what, len(bot_ids)) as advance:

            async def one(bot_id: int) -> Outcome:
                async with turns:
                    try:
                        return await command(client, bot_id)
                    except Problem as problem:
                        return Outcome(bot_id=bot_id, ok=False, state=None, detail=str(problem))
                    finally:
                        advance()

            return await together(*map(one, dict.fromkeys(bot_ids)))


def _outcome(bot: Bot, good: Sequence[str]) -> Outcome:
    return Outcome(bot_id=bot.bot_id, ok=bot.state in good, state=bot.state, detail=bot.reason)


def _results(outcomes: Sequence[Outcome], json: bool) -> int:
    if json:
        terminal.document({"results": outcomes})
    elif not outcomes:
        terminal.complain("there is no such bot: nothing was done")
    return _told(outcomes, silent=json)


def _told(outcomes: Sequence[Outcome], *, silent: bool) -> int:
    """A line each, those that are not well on stderr; the exit code."""
    for outcome in outcomes:
        line = " ".join(filter(None, ("bot", str(outcome.bot_id), outcome.state)))
        line += f": {outcome.detail}" if outcome.detail else ""
        if not outcome.ok:
            terminal.complain(line)
        elif not silent:
            print(terminal.line(line))
    return Exit.WELL if all(outcome.ok for outcome in outcomes) else Exit.NOT_ALL_WELL

"""The commands that follow: logs, events, and waiting for one."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from supervisor.botctl import options, terminal, units
from supervisor.botctl.exits import Exit, Misused
from supervisor.botctl.together import together
from supervisor.client import AsyncClient, Client, Event, Problem, Skipped

_MOST_FOLLOWED = 100
"""So many logs are followed when none is named: each takes a connection."""

_SETTLED = ("stopped", "exited", "failed")


class Awaited(enum.StrEnum):
    """What can be waited for."""

    READY = "ready"
    STOPPED = "stopped"


def logs(
    bot_ids: options.AnyIds = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on with what they print, until Ctrl-C")] = False,
    tail: Annotated[int, typer.Option("-n", "--tail", min=1, max=10_000, help="so many last lines of each")] = 100,
    json: options.Json = False,
    url: options.Url = None,
) -> int:
    """Print what bots have printed. Without ids: all that are active."""
    with Client(url) as client:
        chosen = list(dict.fromkeys(bot_ids or (bot.bot_id for bot in client.bots())))
        prefixes = terminal.prefixes(chosen)
        if not follow:
            for bot_id in chosen:
                for text in client.logs(bot_id, tail=tail):
                    _print(bot_id, text, prefixes, json)
            return Exit.WELL
    if not chosen:
        terminal.complain("no bot is active: name those to follow")
        return Exit.NOT_ALL_WELL
    if len(chosen) > _MOST_FOLLOWED:
        raise Misused(f"{len(chosen)} bots are more than the {_MOST_FOLLOWED} that can be followed at once")
    return asyncio.run(_follow(url, chosen, tail, prefixes, json))


async def _follow(url: str | None, bot_ids: Sequence[int], tail: int, prefixes: Mapping[int, str], json: bool) -> int:
    async with AsyncClient(url) as client:

        async def one(bot_id: int) -> None:
            try:
                async for line in client.follow(bot_id, tail=tail):
                    if isinstance(line, Skipped):
                        terminal.complain(
                            f"bot {bot_id}: {line.bytes or 'some'} bytes of its log were deleted before they came"
                        )
                    else:
                        _print(bot_id, line.text, prefixes, json, offset=line.offset)
            except Problem as problem:
                # It was deleted, and the others go on.
                if len(bot_ids) == 1:
                    raise
                terminal.complain(problem)

        await together(*map(one, bot_ids))
    return Exit.NOT_ALL_WELL


def _print(bot_id: int, text: str, prefixes: Mapping[int, str], json: bool, **more: Any) -> None:
    if json:
        terminal.document({"bot_id": bot_id, **more, "line": text})
    else:
        print(f"{prefixes[bot_id]}{terminal.line(text)}", flush=True)


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on with each change, until Ctrl-C")] = False,
    bot: Annotated[int | None, typer.Option(min=1, metavar="ID", help="of this bot")] = None,
    since: Annotated[int | None, typer.Option(min=0, metavar="NUMBER", help="all after this event")] = None,
    json: options.Json = False,
    url: options.Url = None,
) -> None:
    """Print the latest event of each bot. With -f each change too, as it comes."""
    if since is not None and not follow:
        raise Misused("--since goes with -f")
    with Client(url) as client:

        def known() -> set[int]:
            return {client.bot(bot).bot_id} if bot else {each.bot_id for each in client.bots(states=["all"])}

        left = known()
        if not left and not follow:
            return
        seen: set[int] = set()
        for event in client.events(bot_id=bot, since=since):
            _tell(event, json)
            if follow:
                continue
            if not seen:
                # From now on the feed tells of each that is deleted.
                left = known()
            seen.add(event.bot_id)
            if left <= seen:
                return


def _tell(event: Event, json: bool) -> None:
    if json:
        terminal.document(event)
        return
    state = terminal.state("deleted" if event.deleted else event.state)
    bot = f"bot-{event.bot_id}" + (f" {event.name}" if event.name else "")
    terminal.say(units.time(event.at), bot, event.kind, state, event.reason)


def wait(
    bot_id: options.BotId,
    goal: Annotated[Awaited, typer.Option("--for", help="stopped: no process, and none to come")] = Awaited.READY,
    timeout: Annotated[float | None, typer.Option(min=0, metavar="S", help="seconds; else for ever")] = None,
    json: options.Json = False,
    url: options.Url = None,
) -> int:
    """Wait until a bot is ready or stopped. Exit code 1: not within the timeout, or it cannot come any more."""
    try:
        event = asyncio.run(_awaited(url, bot_id, goal, timeout))
    except TimeoutError:
        terminal.complain(f"bot {bot_id} is not {goal.value} after {timeout:g} s")
        return Exit.NOT_ALL_WELL
    is_there = _came(event, goal)
    if json:
        terminal.document(event)
    what = f"bot {event.bot_id} {'deleted' if event.deleted else event.state}: {event.reason}"
    if not is_there:
        terminal.complain(what)
    elif not json:
        print(terminal.line(what))
    return Exit.WELL if is_there else Exit.NOT_ALL_WELL


async def _awaited(url: str | None, bot_id: int, goal: Awaited, timeout_s: float | None) -> Event:
    """The event that decides it: what is waited for has come, or cannot come any more."""
    async with asyncio.timeout(timeout_s), AsyncClient(url) as client:
        async for event in client.events(bot_id=bot_id):
            if event.deleted or event.state in _SETTLED or _came(event, goal):
                return event
    raise AssertionError("a feed has no end")


def _came(event: Event, goal: Awaited) -> bool:
    if goal is Awaited.STOPPED:
        return event.deleted or event.state in _SETTLED
    # One that has ended well was ready before.
    return event.state in ("running", "exited") and not event.deleted

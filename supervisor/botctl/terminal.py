"""What reaches the terminal: tables and lines for people, JSON for programs. Nothing of it can act on the terminal."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from supervisor.logs.text import safe

_STYLES = {
    "starting": "yellow",
    "running": "green",
    "stopping": "yellow",
    "killing": "magenta",
    "backoff": "yellow",
    "scheduled": "cyan",
    "stopped": "dim",
    "exited": "dim",
    "failed": "red",
    "deleted": "dim",
}
_COLOURS = ("cyan", "green", "yellow", "blue", "magenta", "bright_cyan", "bright_green", "bright_yellow", "bright_blue")
_UNBOUNDED = 100_000
"""The width of what is no terminal: nothing is cut for a file or a pipe."""


def line(text: object) -> str:
    """The text as one line without control characters."""
    shown = safe(str(text).encode("utf-8", "surrogateescape")).decode()
    return shown.replace("\n", "\\n").replace("\t", " ")


def complain(what: object) -> None:
    """One line on stderr."""
    print(f"botctl: {line(what)}", file=sys.stderr)


def console(*, stderr: bool = False) -> Console:
    """Rich's, with none of its guesses about what a text may mean."""
    file = sys.stderr if stderr else sys.stdout
    width = None if file.isatty() else _UNBOUNDED
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)


def cell(value: object, style: str = "") -> Text:
    """A text that is cut at the edge rather than wrapped."""
    return Text(line(value), style=style, no_wrap=True, overflow="ellipsis")


def state(name: str, *, frozen: bool = False) -> Text:
    """A state in its colour; that of a process that a signal froze, in a colour that is to be seen."""
    return cell(name, "magenta" if frozen else _STYLES.get(name, ""))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Rows below the names of their columns. `>NAME`: its cells are numbers, and are not cut where the terminal is too
    narrow for all."""
    made = Table(box=None, show_header=any(columns), header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        is_number = name.startswith(">")
        made.add_column(
            name.removeprefix(">"),
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="ellipsis",
        )
    for row in rows:
        made.add_row(*(value if isinstance(value, Text) else cell(value) for value in row))
    return made


def show(*what: Any) -> None:
    """Tables and texts, one below the other."""
    to = console()
    for each in what:
        to.print(each)


def say(*words: object) -> None:
    """One line, however long."""
    cells = (word if isinstance(word, Text) else cell(word) for word in words)
    console().print(Text("  ").join(cells), soft_wrap=True)


def prefixes(bot_ids: Sequence[int]) -> Mapping[int, str]:
    """What stands before the lines of each bot: nothing if there is one alone, and on a terminal in its own colour."""
    if len(bot_ids) < 2:
        return dict.fromkeys(bot_ids, "")
    to = console()
    width = len(f"bot-{max(bot_ids)}")
    plain = {bot_id: f"{f'bot-{bot_id}':{width}} | " for bot_id in bot_ids}
    if not to.is_terminal or to.no_color:
        return plain
    colours = itertools.cycle(_COLOURS)
    return {bot_id: typer.style(text, fg=next(colours)) for bot_id, text in plain.items()}


def document(value: Any) -> None:
    """JSON on one line of stdout."""
    print(json.dumps(value, default=_plain), flush=True)


def array(values: Iterable[Any]) -> None:
    """A JSON list on stdout, written as its items come."""
    mark = "["
    for value in values:
        print(mark + json.dumps(value, default=_plain), end="")
        mark = ",\n"
    print("[]" if mark == "[" else "]")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[], object]]:
    """A bar on stderr, if that is a terminal, while bulk work goes on. Yields what moves it on by one; without a
    total it only shows the time."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    counted = [MofNCompleteColumn()] if total is not None else []
    columns = [TextColumn("{task.description}"), BarColumn(), *counted, TimeElapsedColumn()]
    with Progress(*columns, console=console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=total)
        yield lambda: shown.advance(task)

"""The comparison for people: tables on the terminal, and a page with tables and pictures."""

from __future__ import annotations

import dataclasses
import html
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import targets
from benchmarks.comparison import ALL_IN, Compared, Failed, LeftOut, Result, What
from benchmarks.peers.known import FLOORS, PEERS

TITLES = {
    "fleet": "Light bots",
    "web": "Bots that import a web stack",
    "flood": "A bot that prints as fast as it can for five seconds",
}

PICTURES = ("start of one to its first line", ALL_IN, "listing, p50")
"""Of these, with the largest fleet, a picture is drawn."""

HEAD = """# Benchmarks

Us beside those who do the same, on the same machine, with the same bot, in the same run. Written by
`python -m benchmarks --peers --write-docs`; `python -m benchmarks.peers install` installs the others, each into an
environment of its own.

Each number is the median of the rounds. In a round ours runs first and then each of the others, and in brackets is the
median of what they took divided by what we took in the same round: 3 x is three times as much as ours. Only one of them
runs at a time. A bot has started when its first line is in its log, and is gone when its process is; both are seen in
the kernel (inotify, pidfd), not in an answer.

Each is driven by its own interface, in the fastest way that it has, with its own defaults but for the delay before a
restart, which is none where that can be set. supervisord and s6 have their bots declared beforehand; the others,
ours too, are told of a bot when it starts. s6's bots write their logs by themselves. `homemade` is what people write at
home: FastAPI, and `multiprocessing` with spawn. `fork` and `posix_spawn` are floors: a warm process that forks the same
bot, and `sleep` spawned, with nobody to manage either. One that needs too long for a measure is left out of its later
rounds and of those with more bots, and so is one whose bots would not have room in the memory.
"""


def summary(results: Sequence[Result]) -> str:
    """In Markdown: the targets and what was reached, and where a peer is better."""
    lines = ["| target | limit | measured | met |", "|---|---|---|---|"]
    for one in targets.reached(results):
        sign = "≥" if one.target.at_least else "≤"
        limit = f"{sign} {one.target.limit:g} {one.unit}".rstrip()
        lines.append(f"| {one.target} | {limit} | {_number(one.value, one.unit)} | {'yes' if one.met else '**no**'} |")
    parts = ["## Targets", "\n".join(lines)] if len(lines) > 2 else []
    parts += ["## Behind a peer", behind(results) or "Nowhere."]
    return "\n\n".join(parts)


def behind(results: Sequence[Result]) -> str:
    """Each row in which peers are better than ours, and by how much. The floors manage nothing, and are no peers."""
    better: dict[What, list[Compared]] = {}
    for result in results:
        if isinstance(result, Compared) and result.behind and result.peer not in FLOORS:
            better.setdefault(result.what, []).append(result)
    return "\n".join(
        f"* {_title(what.measure, what.bots)}: {what.name}: ours {_number(rows[0].ours, what.unit)}, "
        + ", ".join(f"{row.peer} {_cell(row)}" for row in rows)
        for what, rows in better.items()
    )


def tables(results: Sequence[Result]) -> str:
    """All of it in Markdown: a table for each measure and number of bots, with a column for each peer."""
    parts: list[str] = []
    for measure, bots in dict.fromkeys(_place(result) for result in results):
        some = [result for result in results if _place(result) == (measure, bots)]
        compared = [result for result in some if isinstance(result, Compared)]
        left_out = {result.peer: result.why for result in some if isinstance(result, LeftOut)}
        measured = {result.peer for result in compared}
        peers = [name for name in PEERS if name in measured or name in left_out]
        lines = ["| | ours | " + " | ".join(peers) + " |", "|---|" + "---|" * (len(peers) + 1)]
        for what in dict.fromkeys(result.what for result in compared):
            found = {result.peer: result for result in compared if result.what == what}
            ours = next(iter(found.values())).ours
            cells = [
                _cell(found[name]) if name in found else "" if name in measured else left_out[name] for name in peers
            ]
            better = " (more is better)" if what.more_is_better else ""
            lines.append(" | ".join([f"| {what.name}{better}", _number(ours, what.unit), *cells]) + " |")
        failed = [f"* {result.peer}: {result.why}" for result in some if isinstance(result, Failed)]
        failed += [f"* {name}: {why}, left out of later rounds" for name, why in left_out.items() if name in measured]
        parts += [f"## {_title(measure, bots)}", "\n".join(lines) if compared else "", "\n".join(failed)]
    return "\n\n".join(part for part in parts if part)


def _title(measure: str, bots: int) -> str:
    if measure != "fleet":
        return TITLES[measure]
    return TITLES[measure] + (f", {bots} of them" if bots else ", with no other running")


def _place(result: Result) -> tuple[str, int]:
    return (result.what.measure, result.what.bots) if isinstance(result, Compared) else (result.measure, result.bots)


def _cell(result: Compared) -> str:
    ratio = (
        "" if result.ratio is None else f" ({result.ratio:.2g} x)" if result.ratio < 100 else f" ({result.ratio:.0f} x)"
    )
    return _number(result.theirs, result.what.unit) + ratio


def _number(value: float, unit: str) -> str:
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".rstrip()


def write_json(
    directory: Path, results: Sequence[Result], facts: Mapping[str, Any], versions: Mapping[str, str]
) -> Path:
    """Writes all of it to a file named after the time; its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / time.strftime("peers-%Y%m%dT%H%M%SZ.json", time.gmtime())
    rows = [
        dataclasses.asdict(result) | ({"ratio": result.ratio} if isinstance(result, Compared) else {})
        for result in results
    ]
    path.write_text(json.dumps({"machine": facts, "versions": versions, "rows": rows}, indent=2) + "\n")
    return path


def write_docs(
    directory: Path, results: Sequence[Result], facts: Mapping[str, Any], versions: Mapping[str, str]
) -> Path:
    """Writes `benchmarks.md` and its pictures; the page's path."""
    pictures = ""
    compared = [result for result in results if isinstance(result, Compared)]
    for name in PICTURES:
        same = [result for result in compared if result.what.name == name and result.what.measure == "fleet"]
        if not same:
            continue
        what = max((result.what for result in same), key=lambda what: what.bots)
        bars = {"ours": next(result.ours for result in same if result.what == what)}
        bars |= {result.peer: result.theirs for result in same if result.what == what}
        file = f"benchmarks-{name.split(',')[0].split(' of ')[0].lower().replace(' ', '-')}.svg"
        title = f"{what.name[0].upper()}{what.name[1:]}, {what.bots} light bots ({what.unit}, less is better)"
        (directory / file).write_text(picture(title, bars))
        pictures += f"\n![{title}]({file})\n"
    machine = ", ".join(f"{name} {value}" for name, value in facts.items())
    there = "\n".join(f"* {name}: {version}" for name, version in versions.items())
    page = directory / "benchmarks.md"
    page.write_text(f"{HEAD}\n{summary(results)}\n{pictures}\n{tables(results)}\n\n## Where\n\n{machine}\n\n{there}\n")
    return page


def picture(title: str, bars: Mapping[str, float]) -> str:
    """Horizontal bars as SVG, each as long as its value is large."""
    longest = max(bars.values()) or 1.0
    parts = [f'<text x="10" y="20" font-weight="bold">{html.escape(title)}</text>']
    for row, (name, value) in enumerate(bars.items()):
        y, width = 34 + row * 24, max(1.0, 420 * value / longest)
        colour = "#2a6f97" if name == "ours" else "#adb5bd"
        parts += [
            f'<text x="100" y="{y + 13}" text-anchor="end">{html.escape(name)}</text>',
            f'<rect x="108" y="{y}" width="{width:.1f}" height="18" fill="{colour}"/>',
            f'<text x="{114 + width:.1f}" y="{y + 13}">{value:.3g}</text>',
        ]
    height = 44 + len(bars) * 24
    style = f'width="620" height="{height}" font-family="sans-serif" font-size="13"'
    ground = f'<rect width="620" height="{height}" fill="white"/>'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {style}>', ground, *parts, "</svg>"]) + "\n"

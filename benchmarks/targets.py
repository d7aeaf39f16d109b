"""What is to be reached beside the peers, and what was."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.comparison import ALL_IN, Compared, Result

FLOOR = "fork"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A limit of one row. `floor`: of ours divided by the floor's. `among`: of ours with so many bots running, divided
    by ours with `bots`."""

    name: str
    limit: float
    measure: str = "fleet"
    bots: int
    floor: bool = False
    among: int | None = None
    at_least: bool = False

    def __str__(self) -> str:
        what = f"{self.name}, {self.bots:,} bots" if self.measure == "fleet" and self.bots else self.name
        if self.among is not None:
            what += f", with {self.among:,} running beside {self.bots or 'none'}"
        return f"{what}, beside {FLOOR}" if self.floor else what

    def reached(self, results: Sequence[Result]) -> Reached | None:
        """None where it was not measured."""
        rows = [
            row
            for row in results
            if isinstance(row, Compared) and (row.what.measure, row.what.name) == (self.measure, self.name)
        ]
        ours = {row.what.bots: row.ours for row in rows}
        if self.among is not None:
            there = self.bots in ours and self.among in ours
            return Reached(self, ours[self.among] / ours[self.bots], "x") if there else None
        if self.floor:
            ratios = [row.ratios for row in rows if row.peer == FLOOR and row.what.bots == self.bots]
            return Reached(self, statistics.median(1 / ratio for ratio in ratios[0]), "x") if ratios else None
        units = {row.what.bots: row.what.unit for row in rows}
        return Reached(self, ours[self.bots], units[self.bots]) if self.bots in ours else None


@dataclass(frozen=True, slots=True)
class Reached:
    """What was measured of a target."""

    target: Target
    value: float
    unit: str

    @property
    def met(self) -> bool:
        return self.value >= self.target.limit if self.target.at_least else self.value <= self.target.limit


TARGETS = (
    Target(name="start of one to its first line", bots=0, floor=True, limit=2),
    Target(name="all at once to the last first line", bots=100, floor=True, limit=2),
    Target(name="all at once to the last first line", bots=1000, limit=4),
    Target(name="start of one to its first line", bots=0, among=1000, limit=1.2),
    *(Target(name=ALL_IN, bots=bots, limit=2) for bots in (300, 1000)),
    *(Target(name="kill -9 to the next first line", bots=bots, limit=10) for bots in (0, 100, 300, 1000)),
    Target(name="CPU of the manager in a minute", bots=100, limit=0.3),
    Target(name="CPU of the manager in a minute", bots=1000, limit=3),
    Target(name="lines in a second", measure="flood", bots=1, floor=True, limit=1, at_least=True),
    Target(name="lines lost", measure="flood", bots=1, limit=0),
    Target(name="CPU of the manager", measure="flood", bots=1, limit=0.5),
    Target(name="listing meanwhile, p99", measure="flood", bots=1, limit=20),
    Target(name="listing, p50", bots=1000, limit=25),
)


def reached(results: Sequence[Result]) -> list[Reached]:
    """Of those targets whose rows were measured."""
    found = (target.reached(results) for target in TARGETS)
    return [one for one in found if one is not None]

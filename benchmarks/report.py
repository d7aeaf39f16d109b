"""What was measured, as a table for people and as JSON for comparing."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number. With a floor, `at_most` is a limit of the ratio, otherwise of `ours`.

    `ratio` is the median of the `ratios`, one a round: what disturbs a round disturbs both halves of it.
    """

    measure: str
    what: str
    unit: str
    ours: float
    floor: float | None = None
    ratios: tuple[float, ...] = ()
    at_most: float | None = None

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def within(self) -> bool | None:
        """None where there is no limit."""
        if self.at_most is None:
            return None
        return (self.ours if self.ratio is None else self.ratio) <= self.at_most


def table(rows: Sequence[Row]) -> str:
    """The rows in columns."""
    head = ("measure", "what", "ours", "floor", "ratio (spread)", "limit", "")
    cells = [head, *map(_cells, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    limit = "" if row.at_most is None else f"≤ {row.at_most:g} " + ("x" if row.ratios else row.unit)
    ratio = "" if row.ratio is None else f"{row.ratio:.3g} x ({min(row.ratios):.3g} to {max(row.ratios):.3g})"
    verdict = {None: "", True: "ok", False: "OVER"}[row.within]
    floor = "" if row.floor is None else f"{row.floor:.3g} {row.unit}"
    return row.measure, row.what, f"{row.ours:.3g} {row.unit}", floor, ratio, limit, verdict


def write(directory: Path, rows: Sequence[Row], facts: Mapping[str, Any]) -> Path:
    """Writes all of it to a file named after the time; its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
    shown = [{**dataclasses.asdict(row), "ratio": row.ratio, "within": row.within} for row in rows]
    path.write_text(json.dumps({"machine": facts, "rows": shown}, indent=2) + "\n")
    return path


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    cpu = [
        line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().split("\n") if "model name" in line
    ]
    directory = tempfile.gettempdir()
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "file_system": file_system(Path(directory)),
        "fsync_ms": round(_fsync_s(directory) * 1000, 3),
        "create_ms": round(_create_s(directory) * 1000, 3),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def file_system(directory: Path) -> str:
    """The type of what is mounted there, by the kernel's name: statfs has one number for ext2, ext3 and ext4."""
    mounted: dict[Path, str] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        # Of two at one place, the later lies over the other.
        mounted[Path(mount.split()[4])] = source.split()[0]
    path = directory.resolve()
    return next((mounted[part] for part in (path, *path.parents) if part in mounted), "unknown")


def _fsync_s(directory: str) -> float:
    """The median of a small write that reaches the disk: no start can be cheaper than one."""
    times = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(20):
            begin = time.monotonic()
            os.write(file.fileno(), bytes(4096))
            os.fdatasync(file.fileno())
            times.append(time.monotonic() - begin)
    return statistics.median(times)


def _create_s(directory: str) -> float:
    """The median of making an empty file, and each start makes two. On ext4 without a journal it depends on how many
    files were deleted in the last minute: from 0.02 to 0.9 ms were seen."""
    times = []
    with tempfile.TemporaryDirectory(dir=directory) as name:
        for number in range(200):
            begin = time.monotonic()
            os.close(os.open(f"{name}/{number}", os.O_WRONLY | os.O_CREAT, 0o600))
            times.append(time.monotonic() - begin)
    return statistics.median(times)

"""The bots that all are compared with: the same code, whoever starts it.

`python bots.py KIND REPORT` runs one as a program, for those who start a new interpreter for each.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable

if __name__ == "__main__":
    # The directory of a program comes first in its path, and this one's has names that others use too.
    sys.path[0] = __file__.rpartition("/benchmarks/")[0]

FLOOD_S = 5.0


def flood(*, report: str) -> None:
    """Prints numbers as fast as it can for five seconds, writes to the file `report` how many, and then is silent."""
    begin = time.monotonic()
    lines = 0
    while (took_s := time.monotonic() - begin) < FLOOD_S:
        for _ in range(100):
            print(lines)
            lines += 1
    sys.stdout.flush()
    with open(report, "w") as file:
        json.dump({"lines": lines, "seconds": took_s}, file)
    signal.pause()


def bot(kind: str) -> Callable[[str], None]:
    """The bot of a kind, `light`, `web` or `flood`, to be called with its report. What it needs is imported now."""
    match kind:
        case "light":
            from botproc import counter

            return lambda _: asyncio.run(counter.main())
        case "web":
            from benchmarks import webbot

            return lambda _: asyncio.run(webbot.main())
        case "flood":
            return lambda report: flood(report=report)
    raise ValueError(f"no such kind of bot: {kind}")


def main(kind: str, report: str) -> None:
    # As a supervised bot's: a line is seen when it is printed, and is one write.
    sys.stdout.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]
    bot(kind)(report)


if __name__ == "__main__":
    main(*sys.argv[1:])

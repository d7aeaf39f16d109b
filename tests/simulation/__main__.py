"""Play many stories: `python -m tests.simulation --seeds 1000 --first 0 --length 200 --stage fleet`."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation import stories
from tests.simulation.fleet import FleetStage
from tests.simulation.one_bot import OneBot

STAGES: dict[str, stories.MakeStage] = {"one-bot": OneBot, "fleet": FleetStage}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="number of stories")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--length", type=int, default=200, help="steps of a story")
    parser.add_argument("--stage", choices=STAGES, default="one-bot", help="where they are played")
    given = parser.parse_args()
    began = time.perf_counter()
    for seed in range(given.first, given.first + given.seeds):
        try:
            stories.run(STAGES[given.stage], seed, given.length)
        except stories.Broken as broken:
            print(broken)
            return 1
    steps, took_s = given.seeds * given.length, time.perf_counter() - began
    print(f"{steps} steps in {took_s:.1f} s, {steps / took_s:.0f} a second: nothing is broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())

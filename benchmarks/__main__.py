"""python -m benchmarks: measures us beside the floor, prints a table, keeps the numbers as JSON."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks import measures, report

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures the supervisor beside the floor: a bare os.fork() of the same bot, in the same run.",
        epilog="\n".join(f"{name:10}{(measure.__doc__ or '')}" for name, measure in measures.MEASURES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="few samples and small fleets: a check, not a measurement")
    parser.add_argument("--only", action="append", choices=measures.MEASURES, help="this measure; may be given again")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes (default: %(default)s)")
    chosen = parser.parse_args()

    facts = report.machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    effort = measures.QUICK if chosen.quick else measures.FULL
    rows: list[report.Row] = []
    for name in chosen.only or measures.MEASURES:
        begin = time.monotonic()
        rows += measures.MEASURES[name](effort)
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
    print()
    print(report.table(rows))
    print()
    print(report.write(chosen.results, rows, facts))


if __name__ == "__main__":
    main()

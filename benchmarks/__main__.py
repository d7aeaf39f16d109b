"""python -m benchmarks: measures us beside the floor, or beside our peers; prints tables, keeps the numbers as JSON."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks import comparison, measures, page, report
from benchmarks.peers import environment, known, ours

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    every = measures.MEASURES | comparison.MEASURES
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures the supervisor beside the floor: a bare os.fork() of the same bot, in the same run. "
        "With --peers, beside others that do the same as we do.",
        epilog="\n".join(
            [
                *(f"{name:10}{(measure.__doc__ or '')}" for name, measure in measures.MEASURES.items()),
                "\nwith --peers:",
                *(f"{name:10}{(measure.__doc__ or '')}" for name, measure in comparison.MEASURES.items()),
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="few samples and small fleets: a check, not a measurement")
    parser.add_argument("--only", action="append", choices=every, help="this measure; may be given again")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes (default: %(default)s)")
    parser.add_argument(
        "--peers", nargs="*", choices=known.PEERS, help="beside these peers; beside all, when none is named"
    )
    parser.add_argument("--full", action="store_true", help="with --peers: fleets of 1,000 too")
    parser.add_argument("--write-docs", action="store_true", help="with --peers: write docs/benchmarks.md")
    chosen = parser.parse_args()
    # What this shell tells Python is not what is measured: unbuffered output alone makes 15 % of printing.
    for name in [name for name in os.environ if name.startswith("PYTHON") and name != "PYTHONPATH"]:
        del os.environ[name]
    there = measures.MEASURES if chosen.peers is None else comparison.MEASURES
    if other := set(chosen.only or ()) - set(there):
        parser.error(f"--only {', '.join(other)}: {'with' if chosen.peers is None else 'without'} --peers")
    if chosen.peers is None and (chosen.full or chosen.write_docs):
        parser.error("--full and --write-docs go with --peers")

    if chosen.peers is None:
        beside_the_floor(chosen.only or there, quick=chosen.quick, results=chosen.results)
    else:
        beside_peers(
            chosen.peers or known.PEERS,
            chosen.only or there,
            effort=comparison.QUICK if chosen.quick else comparison.FULL if chosen.full else comparison.USUAL,
            results=chosen.results,
            docs=DOCS if chosen.write_docs else None,
        )


def beside_the_floor(names: Iterable[str], *, quick: bool, results: Path) -> None:
    facts = report.machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    effort = measures.QUICK if quick else measures.FULL
    rows: list[report.Row] = []
    for name in names:
        begin = time.monotonic()
        rows += measures.MEASURES[name](effort)
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
    print()
    print(report.table(rows))
    print()
    print(report.write(results, rows, facts))


def beside_peers(
    peers: Iterable[str], names: Iterable[str], *, effort: comparison.Effort, results: Path, docs: Path | None
) -> None:
    facts = report.machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    versions = {"ours": ours.Ours().version()}
    installed = []
    for name in peers:
        try:
            versions[name] = known.PEERS[name].version()
            installed.append(known.PEERS[name])
        except environment.Unavailable as why:
            versions[name] = f"left out, {why}"
        print(f"{name}: {versions[name]}", flush=True)
    found = comparison.compare(installed, effort, names, say=lambda line: print(line, flush=True))
    print()
    print(page.summary(found))
    print()
    print(page.tables(found))
    print()
    print(page.write_json(results, found, facts, versions))
    if docs is not None:
        print(page.write_docs(docs, found, facts, versions))


if __name__ == "__main__":
    main()

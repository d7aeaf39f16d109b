"""python -m benchmarks.peers: installs those whom we are compared with, and says which are there."""

from __future__ import annotations

import argparse

from benchmarks.peers import environment
from benchmarks.peers.known import PEERS


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=f"Installs the peers into {environment.CACHE} (BENCHMARK_PEERS_DIR), and says which are there.",
    )
    parser.add_argument("command", choices=("install", "list"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)}; all, when none is named")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    for name in chosen.names or PEERS:
        try:
            if chosen.command == "install":
                PEERS[name].install()
            print(f"{name}: {PEERS[name].version()}", flush=True)
        except environment.Unavailable as why:
            print(f"{name}: left out, {why}", flush=True)


if __name__ == "__main__":
    main()

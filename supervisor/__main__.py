"""The program's door. It imports nothing at the top: each process that multiprocessing spawns imports it again."""

from __future__ import annotations


def main() -> int:
    """Run the command line and return its exit code."""
    from supervisor import handover

    # What follows takes half a second, and is not to be ended by a signal for which there is a handler at its end.
    handover.hold_signals()
    from supervisor.cli import app

    return app.main()


if __name__ == "__main__":
    raise SystemExit(main())

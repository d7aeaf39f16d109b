"""The program's door. It imports nothing at the top: each process that multiprocessing spawns imports it again."""

from __future__ import annotations


def main() -> int:
    """Run the command line and return its exit code."""
    from supervisor.cli import app

    return app.main()


if __name__ == "__main__":
    raise SystemExit(main())

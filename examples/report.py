"""A bot that runs and ends, by a schedule."""

from __future__ import annotations

from datetime import datetime

from botproc.contract import SyncContext


def main(ctx: SyncContext) -> None:
    """Writes one line, and how often it has done so."""
    runs = ctx.data_dir / "runs"
    count = int(runs.read_text()) + 1 if runs.exists() else 1
    runs.write_text(str(count))
    print(f"report {count}, at {datetime.now().astimezone().isoformat(timespec='seconds')}")

"""What a ledger holds, for people who want to know whether all is well with it. Reads alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from playhouse.migrations import Runner

from supervisor.core import model
from supervisor.store import bots, events, file, migrations


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A ledger at one moment."""

    schema: str
    """The newest migration that is applied."""
    pending: Sequence[str]
    """The migrations that the next supervisor will apply."""
    states: Mapping[str, int]
    """How many bots are in each state, but for the forgotten ones."""
    remembered: frozenset[int]
    forgotten: frozenset[int]
    runs: int
    open_runs: Mapping[int, model.Identity | None]
    """The bots with a run whose end is not known, and the process of that, if it came to have one."""
    latest_event: int
    with_secrets: Sequence[model.Params]
    """The parameters of those bots that are not forgotten and may have a secret."""


def inspect(path: Path) -> Inspection | None:
    """The ledger, every page of it checked; None if there is none. Works beside a supervisor that writes to it.

    Raises LedgerRefused: a supervisor would not start with it, or only because it does not check that much.
    """
    with file.explained(path):
        file.refuse_lone_log(path)
        if not path.exists():
            return None
        file.judge(path)
        db = file.looking(path)
        try:
            for check in ("integrity_check(1)", "foreign_key_check"):
                for found in db.execute_sql(f"PRAGMA {check}"):
                    if found != ("ok",):
                        raise file.damaged(path, f"{check}: {' '.join(map(str, found)).splitlines()[-1]}")
            steps = Runner(db, migrations.DIRECTORY).status()
            rows = db.execute_sql("SELECT bot_id, state, forgotten_at IS NOT NULL FROM bot").fetchall()
            states = [state for _, state, is_forgotten in rows if not is_forgotten]
            return Inspection(
                schema=max((step.name for step in steps if step.applied), default="none"),
                pending=[step.name for step in steps if not step.applied],
                states={state: states.count(state) for state in model.State if state in states},
                remembered=frozenset(bot_id for bot_id, _, is_forgotten in rows if not is_forgotten),
                forgotten=frozenset(bot_id for bot_id, _, is_forgotten in rows if is_forgotten),
                runs=db.execute_sql("SELECT count(*) FROM run").fetchone()[0],
                open_runs={
                    bot_id: None
                    if pid is None
                    else model.Identity(pid=pid, start_ticks=start_ticks, inode=inode, boot_id=boot_id)
                    for bot_id, pid, start_ticks, inode, boot_id in db.execute_sql(
                        "SELECT bot_id, pid, start_ticks, inode, boot_id FROM run WHERE cause IS NULL"
                    )
                },
                latest_event=events.latest(db),
                with_secrets=bots.params_with_secrets(db),
            )
        finally:
            db.close()

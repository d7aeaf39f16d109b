"""When a schedule comes round: pure functions of cron expressions, time zones and moments.

Moments are microseconds since the epoch, UTC. Cron expressions are read by `cronsim` as Debian's cron reads them: a
time that a change of the clocks leaves out is made up for just after it, one that comes twice counts once.
"""

from __future__ import annotations

from zoneinfo import ZoneInfo

from cronsim import CronSim

from supervisor.core import timestamps
from supervisor.core.model import Overlap, Schedule


def next_after(schedule: Schedule, after: int) -> int | None:
    """The first moment of the schedule that is later; None when there is none in the next fifty years."""
    begin = timestamps.utc(after).astimezone(ZoneInfo(schedule.timezone))
    for time in CronSim(schedule.cron, begin):
        at = timestamps.of(time)
        if at > after:
            return at
    return None


def missed(schedule: Schedule, since: int, now: int) -> bool:
    """Whether a moment of the schedule lies after `since` and not after `now`."""
    due = next_after(schedule, since)
    return due is not None and due <= now


def after_run(schedule: Schedule, began: int, ended: int) -> int | None:
    """When the next run is due, now that the one before has ended."""
    if schedule.overlap is Overlap.QUEUE and missed(schedule, began, ended):
        return ended
    return next_after(schedule, ended)

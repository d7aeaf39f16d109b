"""When schedules come round, the changes of the clocks included."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import settings
from supervisor.core import schedules
from supervisor.core.model import Overlap, Schedule

S = 1_000_000
BERLIN = ZoneInfo("Europe/Berlin")
CRONS = ["* * * * *", "*/5 * * * *", "30 2 * * *", "0,30 1-3 * * *", "59 23 31 12 *", "0 0 29 2 *", "15 */6 * * 1-5"]
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]

moments = st.integers(946_684_800 * S, 2_840_140_800 * S)
around_changes_of_the_clocks = st.builds(
    lambda day, s: int(day.timestamp() * S) + s,
    st.sampled_from([datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)]),
    st.integers(-4 * 3600 * S, 4 * 3600 * S),
)


def at(text: str, fold: int = 0) -> int:
    """A moment by the clock of Berlin."""
    return round(datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()) * S


def by_the_clock(moment: int | None) -> str:
    assert moment is not None
    return datetime.fromtimestamp(moment / S, BERLIN).isoformat(" ", "minutes")


@given(cron=st.sampled_from(CRONS), zone=st.sampled_from(ZONES), after=moments | around_changes_of_the_clocks)
def test_the_next_time_is_later_and_none_lies_between(cron: str, zone: str, after: int) -> None:
    schedule = Schedule(cron=cron, timezone=zone)
    due = schedules.next_after(schedule, after)
    assert due is not None
    assert due > after
    assert due % (60 * S) == 0
    assert schedules.next_after(schedule, due - 1) == due
    assert schedules.next_after(schedule, (after + due) // 2) == due
    assert schedules.missed(schedule, after, due)
    assert not schedules.missed(schedule, after, due - 1)
    if cron == "* * * * *":
        assert due - after <= 60 * S


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        # 2 to 3 does not exist on this day: made up for at the first moment after it.
        ("30 2 * * *", at("2026-03-29 00:00"), "2026-03-29 03:00+02:00"),
        ("30 2 * * *", at("2026-03-29 03:00"), "2026-03-30 02:30+02:00"),
        ("*/30 * * * *", at("2026-03-29 01:30"), "2026-03-29 03:00+02:00"),
        # 2 to 3 comes twice: a time of day counts the first time, an interval goes on.
        ("30 2 * * *", at("2026-10-25 00:00"), "2026-10-25 02:30+02:00"),
        ("30 2 * * *", at("2026-10-25 02:30"), "2026-10-26 02:30+01:00"),
        ("30 2 * * *", at("2026-10-25 02:15", fold=1), "2026-10-26 02:30+01:00"),
        ("*/30 * * * *", at("2026-10-25 02:30"), "2026-10-25 02:00+01:00"),
        ("0 0 29 2 *", at("2026-01-01 00:00"), "2028-02-29 00:00+01:00"),
        ("0 0 29 2 *", at("2096-03-01 00:00"), "2104-02-29 00:00+01:00"),
    ],
)
def test_changes_of_the_clocks_and_leap_days(cron: str, after: int, expected: str) -> None:
    assert by_the_clock(schedules.next_after(Schedule(cron=cron, timezone="Europe/Berlin"), after)) == expected


def test_a_fraction_of_a_second_is_no_second() -> None:
    schedule = Schedule(cron="* * * * *")
    assert schedules.next_after(schedule, 60 * S - 1) == 60 * S
    assert schedules.next_after(schedule, 60 * S) == 120 * S
    assert schedules.next_after(schedule, 60 * S + 1) == 120 * S


@pytest.mark.parametrize("cron", ["0 0 31 2 *", "0 0 */31 * MON#2", "61 * * * *", "* * *", "", "@daily"])
def test_what_never_comes_is_refused(cron: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="no cron expression"):
        settings.Schedule(cron=cron)


def test_what_never_comes_again_is_none() -> None:
    # The first of a month is never its second Monday.
    assert schedules.next_after(Schedule(cron="0 0 */31 * MON#2"), at("2026-01-01 00:00")) is None
    assert not schedules.missed(Schedule(cron="0 0 */31 * MON#2"), 0, at("2026-01-01 00:00"))


def test_a_time_during_a_run_is_skipped_or_made_up_for_at_once() -> None:
    skip, queue = (Schedule(cron="*/5 * * * *", overlap=overlap) for overlap in (Overlap.SKIP, Overlap.QUEUE))
    began, short, long = 300 * S, 400 * S, 700 * S
    assert schedules.after_run(skip, began, short) == schedules.after_run(queue, began, short) == 600 * S
    assert schedules.after_run(skip, began, long) == 900 * S
    assert schedules.after_run(queue, began, long) == long

"""What a bot does with limits before its own code runs, in a zygote without a supervisor."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from botproc import wire
from supervisor.engine import cgroups
from tests.process.clients import ZygoteClient
from tests.waiting import wait_for

NOBODY = 65534

MakeZygote = Callable[..., ZygoteClient]


def lowered() -> None:
    """The hard limit of what the kind's processes may have open."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))


@pytest.mark.parametrize(
    ("limit", "value", "why"),
    [
        ("open_files", 201, "the hard limit is 200, and this user may not raise it"),
        ("nice", -1, "Permission denied"),
        ("oom_score_adj", -1, "Permission denied"),
    ],
)
def test_what_an_ordinary_user_may_not_set(
    make_zygote: MakeZygote, tmp_path: Path, limit: str, value: int, why: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    for directory in (tmp_path, *list(tmp_path.parents)[:2]):
        directory.chmod(0o777)
    zygote = make_zygote("misbehaving:sleeps", uid=NOBODY, preexec=lowered)
    try:
        zygote.connect()
    except AssertionError:
        pytest.skip(f"a zygote cannot be another user's here: {zygote.log()}")
    zygote.limits = {limit: value}
    assert zygote.ended(zygote.spawn(1).run_id).exit_code == wire.EXIT_UNUSABLE
    said = f"bot-1 cannot be set up: the limit {limit} = {value} cannot be set: {why}\n"
    assert zygote.bot_log(1) == said


def test_what_is_not_given_stays_as_it_is(make_zygote: MakeZygote) -> None:
    """Only a core file must be asked for."""
    zygote = make_zygote("misbehaving:sleeps")
    zygote.connect()
    zygote.limits = {"nice": None, "open_files": None, "core": False}
    pid = zygote.spawn(1).pid
    wait_for(lambda: resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0), what="the bot is set up")
    for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_DATA):
        assert resource.prlimit(pid, which) == resource.prlimit(zygote.process.pid, which)
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, zygote.process.pid)


@pytest.fixture
def group() -> Iterator[Path]:
    """A group of version 2 below the one of the tests."""
    own = cgroups.own()
    if own is None or not os.access(own, os.W_OK) or os.geteuid() != 0:
        pytest.skip("there is no cgroup of version 2 in which a group can be made")
    group = own / f"bot-supervisor-test-{os.getpid()}"
    group.mkdir()
    yield group
    wait_for(lambda: not (group / "cgroup.procs").read_text(), what="the group is empty")
    group.rmdir()


def test_a_bot_joins_its_group(make_zygote: MakeZygote, group: Path) -> None:
    """With all that it starts; its zygote does not, nor does a bot without one."""
    zygote = make_zygote("misbehaving:has_a_family")
    zygote.connect()
    zygote.cgroup = str(group)
    run_id = zygote.spawn(1).run_id
    zygote.wait_log(1, "family")
    assert len((group / "cgroup.procs").read_text().split()) == 5
    zygote.cgroup = ""
    zygote.spawn(2)
    zygote.wait_log(2, "family")
    assert len((group / "cgroup.procs").read_text().split()) == 5
    for pid in (group / "cgroup.procs").read_text().split():
        # Once the bot is gone, its zygote ends the others too.
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), 9)
    assert zygote.ended(run_id).signal == 9


def test_a_group_that_cannot_be_joined(make_zygote: MakeZygote, tmp_path: Path) -> None:
    zygote = make_zygote("misbehaving:sleeps")
    zygote.connect()
    zygote.cgroup = str(tmp_path / "none")
    assert zygote.ended(zygote.spawn(1).run_id).exit_code == wire.EXIT_UNUSABLE
    said = f"its control group {zygote.cgroup} cannot be joined: No such file or directory"
    assert zygote.bot_log(1) == f"bot-1 cannot be set up: {said}\n"

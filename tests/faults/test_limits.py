"""Limits, from the settings or the call down to the kernel, and what becomes of a bot that goes beyond them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.observe import end, last_end, ready
from tests.program import Program
from tests.waiting import wait_for

MIB = 1 << 20
NEVER = {"policy": "never"}
PROCESSOR = min(os.sched_getaffinity(0))

KINDS = {
    "limited": f"""
        target = "misbehaving:sleeps"
        [kinds.limited.limits]
        open_files = 64
        cpu_s = 100
        nice = 7
        oom_score_adj = 500
        cpu_affinity = [{PROCESSOR}]
        address_space_bytes = {1 << 40}
        memory_bytes = {1 << 30}
        """,
    "sleeps": 'target = "misbehaving:sleeps"',
    "spins": 'target = "greedy:spins"',
    "allocates": 'target = "greedy:allocates"',
}


def create(program: Program, kind: str, **fields: Any) -> int:
    """POST /bots, and the bot is started; its id."""
    response = program.post("/bots", {"kind": kind, "restart": NEVER, **fields})
    assert response.is_success, response.text
    return int(response.json()["bot_id"])


def limits_of(pid: int) -> dict[str, tuple[str, str]]:
    """Soft and hard limit by the name in /proc/PID/limits."""
    text = Path(f"/proc/{pid}/limits").read_text()
    return {name.strip(): (soft, hard) for name, soft, hard in re.findall(r"^(Max .{22})(\S+) +(\S+)", text, re.M)}


def test_limits_of_a_kind(shared: Program) -> None:
    plain = limits_of(ready(shared, create(shared, "sleeps")))
    pid = ready(shared, create(shared, "limited"))
    assert {name: values for name, values in limits_of(pid).items() if values != plain[name]} == {
        "Max open files": ("64", "64"),
        "Max cpu time": ("100", "105"),
        "Max address space": (str(1 << 40), str(1 << 40)),
        "Max data size": (str(1 << 30), str(1 << 30)),
    }
    assert plain["Max core file size"] == ("0", "0"), "off unless asked for"
    process = psutil.Process(pid)
    assert (process.nice(), process.cpu_affinity()) == (7, [PROCESSOR])
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "500\n"
    if (autogroup := Path(f"/proc/{pid}/autogroup")).exists():
        assert autogroup.read_text().endswith("nice 7\n")


def test_limits_of_a_bot(shared: Program) -> None:
    bot_id = create(shared, "limited", limits={"open_files": 99, "cpu_s": None, "core": True})
    found = limits_of(ready(shared, bot_id))
    assert (found["Max open files"], found["Max cpu time"][0]) == (("99", "99"), "unlimited")
    assert found["Max core file size"][0] == found["Max core file size"][1]
    assert found["Max data size"][0] == str(1 << 30), "what is not given is the kind's"
    shown = shared.bot(bot_id)["limits"]
    assert (shown["open_files"], shown["cpu_s"], shown["core"], shown["nice"]) == (99, None, True, 7)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            {"cpu_affinity": [PROCESSOR, 4095]},
            "the limit cpu_affinity = [{0}, 4095] cannot be set: there is no processor",
        ),
        ({"memory_bytes": 4096}, "the limit memory_bytes = 4096 cannot be set: the process has "),
        ({"address_space_bytes": 1}, "the limit address_space_bytes = 1 cannot be set: the process has "),
    ],
)
def test_a_limit_that_cannot_be_set(shared: Program, limits: dict[str, Any], said: str) -> None:
    bot_id = create(shared, "sleeps", restart={"policy": "always"}, limits=limits)
    bot = shared.wait_state(bot_id, "failed")
    said = said.replace("{0}", str(PROCESSOR))
    assert said in bot["reason"]
    assert said in shared.ended_runs(bot_id)[-1]["last_lines"][-1]
    assert len(shared.ended_runs(bot_id)) == 1, "it is not tried again"


def test_the_cpu_time_is_used_up(shared: Program) -> None:
    bot_id = create(shared, "spins", limits={"cpu_s": 1})
    bot = shared.wait_state(bot_id, "failed")
    assert last_end(shared, bot_id) == ("killed", None, "SIGXCPU")
    assert bot["reason"].startswith("used up its CPU time limit (SIGXCPU)")


def test_more_memory_than_each_process_may_have(shared: Program) -> None:
    bot_id = create(shared, "allocates", params={"mib": 512}, limits={"memory_bytes": 128 * MIB})
    shared.wait_state(bot_id, "failed")
    assert "MemoryError" in shared.bot_log(bot_id)
    assert last_end(shared, bot_id) == ("oom", 1, None)


def test_what_cannot_be_enforced_is_told(shared: Program) -> None:
    note = shared.get("/kinds/limited").json()["limits_note"]
    if not note:
        pytest.skip("a cgroup of version 2 with a memory controller is delegated here")
    assert note.startswith("memory_bytes is RLIMIT_DATA of each process: ")
    assert shared.get("/kinds/sleeps").json()["limits_note"] == ""
    ready(shared, create(shared, "sleeps", limits={"pids": 50}))
    wait_for(lambda: "pids is not enforced: " in shared.log(), what="a warning")


# ---- killed for memory


@pytest.fixture
def small() -> Iterator[Path]:
    """A memory cgroup of version 1 for 256 MiB, which is the least that a program with a hungry bot runs in."""
    parent = Path("/sys/fs/cgroup/memory")
    if os.geteuid() != 0:
        pytest.skip("only root can make a memory cgroup")
    if not (parent / "memory.oom_control").exists():
        pytest.skip("there is no memory cgroup of version 1")
    group = parent / f"bot-supervisor-test-{os.getpid()}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(256 * MIB))
    yield group
    wait_for(lambda: not (group / "cgroup.procs").read_text(), what="the cgroup is empty")
    group.rmdir()


def test_a_bot_killed_by_the_kernel_for_memory(make_program: Callable[..., Program], small: Path) -> None:
    """As in a container with a limit: the whole program is in the group, the bot is what the kernel finds too large."""
    join = f'echo $$ > {small}/cgroup.procs && exec "$@"'
    program = make_program(kinds=KINDS).start(wrapper=["sh", "-c", join, "sh"])
    other = create(program, "sleeps")
    ready(program, other)
    bot_id = create(program, "allocates", params={"mib": 1024}, limits={"oom_score_adj": 1000})
    bot = program.wait_state(bot_id, "failed", limit_s=30)
    assert last_end(program, bot_id) == ("oom", None, "SIGKILL")
    assert bot["reason"].startswith("was killed by the kernel: out of memory")
    # One who is killed by somebody else right afterwards was not.
    end(psutil.Process(ready(program, other)), signal.SIGKILL)
    program.wait_state(other, "failed")
    assert last_end(program, other) == ("killed", None, "SIGKILL")
    assert program.terminate() == 0

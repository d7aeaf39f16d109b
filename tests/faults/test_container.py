"""As containers are run: an ordinary user without any privilege, a root that cannot be written, so many processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.observe import is_alive, last_end, ready, warm_zygote
from tests.program import Program
from tests.waiting import wait_for

PIDS = Path("/sys/fs/cgroup/pids")
SOON = ["--shutdown-s", "0.5"]


@pytest.fixture(params=[0, 65534], ids=["user 0", "an ordinary user"])
def user(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def directory(user: int) -> Iterator[Path]:
    """The user's, and the only one in which it may write."""
    directory = Path(tempfile.mkdtemp())
    os.chown(directory, user, user)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make such a place")
def test_without_privileges_and_with_a_root_that_cannot_be_written(directory: Path, user: int) -> None:
    shut = (
        'mount --bind "$0" "$0"; mount -o remount,bind,ro /;'
        f" exec setpriv --reuid={user} --regid={user} --clear-groups --inh-caps=-all --bounding-set=-all"
        ' --no-new-privs "$@"'
    )
    wrapper = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child"]
    wrapper += ["sh", "-ec", shut, str(directory)]
    # The program executes its interpreter again, for zygotes.
    probe = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import supervisor.program'], check=True)"
    if subprocess.run([*wrapper, sys.executable, "-c", probe], capture_output=True).returncode != 0:
        pytest.skip("no such place can be made here, or the user cannot read this tree in it")
    program = Program(directory, kinds={"family": 'target = "misbehaving:has_a_family"'}, flags=SOON)
    try:
        program.start(wrapper=wrapper)
        [first] = psutil.Process(program.pid).children()
        status = Path(f"/proc/{first.pid}/status").read_text()
        assert re.findall(r"^(?:NoNewPrivs|CapBnd|CapEff):\s*(\w+)", status, re.M) == ["0" * 16, "0" * 16, "1"]
        stops, family, stays = program.start_bot(), program.start_bot("family"), program.start_bot()
        ready(program, stops), ready(program, family, "family"), ready(program, stays)
        everything = first.children(recursive=True)
        assert {uid for process in everything for uid in process.uids()} == {user}
        assert program.get(f"/stop/{stops}").status_code == program.get(f"/stop/{family}").status_code == 200
        assert program.runs(family)[-1]["descendants_killed"] == 4
        assert last_end(program, stops) == ("stopped", 0, None)
        first.send_signal(signal.SIGTERM)
        assert program.process is not None
        assert program.process.wait(8) == 0
        assert [process for process in everything if is_alive(process)] == []
        program.check_invariants()
    finally:
        program.close()


@pytest.fixture
def pids() -> Iterator[Path]:
    """A cgroup of version 1 that bounds how many processes and threads there are."""
    if os.geteuid() != 0 or not (PIDS / "cgroup.procs").exists():
        pytest.skip("there is no pids cgroup of version 1, or it is not ours to use")
    group = PIDS / f"bot-supervisor-test-{os.getpid()}"
    group.mkdir()
    yield group
    wait_for(lambda: not (group / "cgroup.procs").read_text(), what="the cgroup is empty")
    group.rmdir()


def test_no_process_is_left(pids: Path, make_program: Callable[..., Program]) -> None:
    """Nothing is made by half, what runs is not harmed, and when there is room again all goes on."""
    join = ["sh", "-ec", 'echo 0 > "$0/cgroup.procs"; exec "$@"', str(pids)]
    program = make_program(flags=SOON).start(wrapper=join)
    warm_zygote(program)
    # However often it is tried before there is room again.
    restart = {"delay_s": 0.1, "factor": 1, "max_restarts": 10_000}
    crashes, stops, stays = (program.start_bot(restart=restart) for _ in range(3))
    used = {bot_id: ready(program, bot_id) for bot_id in (crashes, stops, stays)}

    (pids / "pids.max").write_text((pids / "pids.current").read_text())
    for _ in range(3):
        refused = program.post("/start", {})
        assert refused.status_code == 503, refused.text
        assert int(refused.headers["Retry-After"]) > 0
    assert [bot["bot_id"] for bot in program.get("/bots").json()] == [crashes, stops, stays]
    assert program.get(f"/bots/{stays}/logs").status_code == 200
    assert program.get("/apidocs").status_code == 200
    assert program.get("/assets/swagger-ui.css").status_code == 503
    assert program.get(f"/stop/{stops}").json() == {"bot_id": stops, "state": "stopped"}

    # What crashes now is started again when there is room.
    (pids / "pids.max").write_text("1")
    psutil.Process(used[crashes]).kill()
    wait_for(lambda: "spawn-failed" in [run["cause"] for run in program.runs(crashes)], 5)
    (pids / "pids.max").write_text("max")
    assert program.get("/assets/swagger-ui.css").status_code == 200
    assert ready(program, crashes) != used[crashes]
    assert ready(program, program.start_bot())
    assert program.bot(stays)["pid"] == used[stays]


def test_no_process_is_left_amid_a_batch(pids: Path, make_program: Callable[..., Program]) -> None:
    """None of the batch stays, and the same key makes it when there is room again."""
    join = ["sh", "-ec", 'echo 0 > "$0/cgroup.procs"; exec "$@"', str(pids)]
    program = make_program(flags=SOON).start(wrapper=join)
    stays = program.start_bot()
    pid = ready(program, stays)

    (pids / "pids.max").write_text(str(int((pids / "pids.current").read_text()) + 10))
    batch, key = {"count": 40}, {"Idempotency-Key": "k"}
    refused = program.post("/bots/batch", batch, headers=key)
    assert refused.status_code == 503, refused.text
    assert [bot["bot_id"] for bot in program.get("/bots?state=all").json()] == [stays]
    (pids / "pids.max").write_text("max")
    made = program.post("/bots/batch", batch, headers=key)
    assert made.status_code == 201, made.text
    assert len({bot["pid"] for bot in made.json()["bots"]}) == 40
    assert program.bot(stays)["pid"] == pid

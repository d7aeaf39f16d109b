"""The supervisor is replaced by a new one: bots, zygotes and the ledger are as if nothing had happened."""

from __future__ import annotations

import concurrent.futures
import fcntl
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from supervisor import data_directory
from tests.faults.observe import copies, end, ends_well, is_alive, last_end, ready
from tests.ledgers import make_earlier
from tests.program import Program
from tests.waiting import wait_for

KINDS = {
    "leaves": 'target = "obedient:leaves"',
    "family": 'target = "misbehaving:has_a_family"',
    "deaf": 'target = "misbehaving:deaf"',
}
NEVER = {"policy": "never"}
SOON = ["--shutdown-s", "0.5"]
TOKEN = "a-token-that-nobody-guesses"

Make = Callable[..., Program]
Pool = concurrent.futures.ThreadPoolExecutor


def replaced(program: Program) -> float:
    """Replaces the supervisor; how long the API was away, as the command says."""
    done = program.replace()
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{program.log()[-3000:]}"
    told = re.search(r"away for (\d+\.\d+) s at most", done.stdout)
    assert told is not None
    return float(told[1])


def test_twenty_bots_do_not_notice(make_program: Make) -> None:
    program = make_program(kinds=KINDS, flags=SOON).start()
    leaving = program.start_bot("leaves", restart=NEVER)
    family, deaf = program.start_bot("family"), program.start_bot("deaf", grace_s=0.2)
    others = [program.start_bot() for _ in range(17)]
    words = {leaving: "waiting", family: "family", deaf: "deaf"}
    for bot_id in (*words, *others):
        ready(program, bot_id, words.get(bot_id, "0\n"))
    before = {bot_id: program.bot(bot_id) for bot_id in (*words, *others)}
    zygotes = {kind: program.zygote(kind) for kind in (*KINDS, "counter")}
    started = {pid: psutil.Process(pid).create_time() for pid in (bot["pid"] for bot in before.values())}
    # The ledger has what the API shows a moment later.
    running = "SELECT count(*) FROM event WHERE state = 'running'"
    wait_for(lambda: program.ledger(running)[0][0] == 20, what="all starts are in the ledger")
    events = program.ledger("SELECT count(*) FROM event")[0][0]
    was, pid = psutil.Process(program.pid), program.pid

    print(f"the API was away for {replaced(program):.2f} s")
    assert program.pid == pid
    assert is_alive(was), "it is still the same process"
    after = {bot_id: program.bot(bot_id) for bot_id in before}
    for bot_id, bot in after.items():
        assert bot["state"] == "running"
        assert [bot[name] for name in ("pid", "run_id", "started_at", "ready_at", "restarts")] == [
            before[bot_id][name] for name in ("pid", "run_id", "started_at", "ready_at", "restarts")
        ]
    assert {pid: psutil.Process(pid).create_time() for pid in started} == started
    assert {kind: program.zygote(kind) for kind in zygotes} == zygotes
    assert program.ledger("SELECT count(*) FROM run")[0][0] == 20
    wait_for(lambda: program.ledger(running)[0][0] == 40, what="each is in the ledger once more")
    assert program.ledger("SELECT count(*) FROM event")[0][0] == events + 20, "one for each bot"

    # What follows goes on as ever.
    os.kill(before[leaving]["pid"], signal.SIGUSR1)
    program.wait_state(leaving, "failed")
    assert last_end(program, leaving) == ("crashed", 44, None)
    tree = psutil.Process(before[family]["pid"]).children(recursive=True)
    assert len(tree) == 4
    for bot_id in (family, deaf, others[0]):
        assert program.get(f"/stop/{bot_id}").json() == {"bot_id": bot_id, "state": "stopped"}
    assert [process for process in tree if is_alive(process)] == []
    assert last_end(program, deaf) == ("stop-timeout", None, "SIGKILL")
    assert ready(program, program.start_bot())
    ends_well(program, signal.SIGTERM)


def test_an_exit_meanwhile_is_known(make_program: Make) -> None:
    """While no supervisor was looking; by a zygote, and by the supervisor itself for a bot whose zygote had died."""
    program = make_program(kinds={"leaves": KINDS["leaves"]}, flags=SOON).start()
    orphan, with_zygote = program.start_bot("leaves", restart=NEVER), program.start_bot("leaves", restart=NEVER)
    pids = {bot_id: ready(program, bot_id, "waiting") for bot_id in (orphan, with_zygote)}
    first = program.zygote("leaves")
    end(first, signal.SIGKILL)
    wait_for(lambda: program.get("/kinds/leaves").json()["zygote_pid"] != first.pid, 10)
    again = program.start_bot("leaves", restart=NEVER)
    pids[again] = ready(program, again, "waiting")
    supervisor = psutil.Process(program.pid)
    assert psutil.Process(pids[orphan]).ppid() == program.pid

    with concurrent.futures.ThreadPoolExecutor() as threads:
        restart = threads.submit(replaced, program)
        # From here on, until it has imported all that it is made of, nobody looks.
        wait_for(lambda: b"LISTEN_FDS=" in Path(f"/proc/{program.pid}/environ").read_bytes(), 10)
        supervisor.suspend()
        for pid in pids.values():
            os.kill(pid, signal.SIGUSR1)
        wait_for(lambda: not any(is_alive(psutil.Process(pid)) for pid in pids.values() if psutil.pid_exists(pid)), 10)
        supervisor.resume()
        restart.result()
    for bot_id in pids:
        program.wait_state(bot_id, "failed")
        assert last_end(program, bot_id) == ("crashed", 44, None)


def test_a_bot_without_a_zygote_stays_and_is_swept(make_program: Make) -> None:
    """It is the supervisor's own child, before and after; the zygotes are too, and no death of one harms another."""
    program = make_program(kinds=KINDS, flags=SOON).start()
    family, stays, leaving = (program.start_bot(kind, restart=NEVER) for kind in ("family", "leaves", "leaves"))
    pids = {
        bot_id: ready(program, bot_id, word)
        for bot_id, word in ((family, "family"), (stays, "waiting"), (leaving, "waiting"))
    }
    for kind in ("family", "leaves"):
        end(program.zygote(kind), signal.SIGKILL)
    replaced(program)
    assert {bot_id: program.bot(bot_id)["pid"] for bot_id in pids} == pids
    zygote = program.zygote()
    tree = psutil.Process(pids[family]).children(recursive=True)
    assert program.get(f"/stop/{family}").status_code == 200
    assert [process for process in tree if is_alive(process)] == []
    assert program.runs(family)[-1]["descendants_killed"] == 4
    os.kill(pids[leaving], signal.SIGUSR1)
    program.wait_state(leaving, "failed")
    assert last_end(program, leaving) == ("crashed", 44, None)
    # One that was made before, and dies after.
    end(zygote, signal.SIGKILL, reaped=True)
    assert ready(program, stays) == pids[stays]
    assert ready(program, program.start_bot())
    ends_well(program, signal.SIGTERM)


def test_no_connection_is_refused(make_program: Make) -> None:
    """Who asks meanwhile waits for his answer, and each bot that was answered is there, once."""
    program = make_program(flags=SOON).start()
    ready(program, program.start_bot())
    over, made, broken = threading.Event(), [], []

    def ask() -> None:
        while not over.is_set():
            try:
                # Each on a connection of its own: those that are kept alive are closed.
                answer = httpx.post(f"{program.client.base_url}/start", timeout=20)
                assert answer.status_code == 200, answer.text
                made.append(answer.json()["bot_id"])
            except httpx.ConnectError:
                raise
            except httpx.TransportError as error:
                broken.append(error)

    with concurrent.futures.ThreadPoolExecutor() as threads:
        asking = threads.submit(ask)
        wait_for(lambda: len(made) > 3 or asking.done(), 10)
        for _ in range(2):
            replaced(program)
            seen = len(made)
            wait_for(lambda: len(made) > seen + 3 or asking.done(), 10)  # noqa: B023
        over.set()
        asking.result()
    assert len(set(made)) == len(made)
    assert not broken, broken
    for bot_id in made:
        program.wait_state(bot_id, "running")
        assert copies(program, bot_id) == 1


def test_each_line_is_on_the_console_once(make_program: Make) -> None:
    program = make_program(kinds={"ticks": 'target = "obedient:ticks"'}, flags=SOON).start()
    bot_id = program.start_bot("ticks")

    def numbers() -> list[int]:
        return [int(number) for number in re.findall(rf"^bot-{bot_id} \| (\d+)$", program.log(), re.M)]

    wait_for(numbers)
    replaced(program)
    wait_for(lambda: len(numbers()) > 300)
    replaced(program)
    wait_for(lambda: len(numbers()) > 600)
    # Looked at once: more come all the time.
    seen = numbers()
    assert seen == list(range(len(seen)))


def test_settings_of_the_first_start_hold(make_program: Make) -> None:
    """The token too, which was taken out of the environment; and what the file says by now."""
    program = make_program(flags=SOON, env={"BOT_SUPERVISOR_ADMIN_TOKEN": TOKEN}).start()
    program.client.headers["Authorization"] = f"Bearer {TOKEN}"
    bot_id = program.start_bot()
    ready(program, bot_id)
    program.config.write_text('[kinds.later]\ntarget = "botproc.counter:main"\n')
    for _ in range(2):
        replaced(program)
        assert httpx.get(f"{program.client.base_url}/bots").status_code == 401
        assert program.bot(bot_id)["state"] == "running"
    assert program.start_bot("later")
    environment = Path(f"/proc/{program.zygote('later').pid}/environ").read_text()
    assert TOKEN not in environment
    assert "LISTEN_FDS" not in environment
    assert program.get("/kinds").status_code == 200


def test_one_that_cannot_start_leaves_the_bots(make_program: Make) -> None:
    program = make_program(flags=SOON).start()
    bot_id = program.start_bot()
    pid = ready(program, bot_id)
    good = program.config.read_text()
    program.config.write_text("port = [")
    done = program.replace()
    assert done.returncode == 1
    assert "did not come back" in done.stderr
    assert program.process is not None
    assert program.process.wait(10) == 2
    assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    program.config.write_text(good)
    program.start()
    assert ready(program, bot_id) == pid


def test_where_none_runs(tmp_path: Path, make_program: Make) -> None:
    program = make_program(flags=SOON)
    for _ in range(2):
        done = program.replace()
        assert done.returncode == 1
        assert done.stderr == f"bot-supervisor: no supervisor works in {program.data_dir}\n"
        assert "Traceback" not in done.stdout + done.stderr
        if program.process is None:
            program.start()
            assert program.terminate() == 0


def test_the_lock_file_is_deleted(make_program: Make) -> None:
    """The directory itself is locked too, and that cannot be deleted from under its holder."""
    program = make_program(flags=SOON).start()
    bot_id = program.start_bot()
    pid, first = ready(program, bot_id), program.process
    (program.data_dir / "supervisor.lock").unlink()
    second = program.launch()
    assert second.wait(20) == 3
    assert f"another supervisor works in {program.data_dir}" in program.log()
    program.process = first
    done = program.replace()
    assert (done.returncode, done.stdout) == (1, "")
    assert "supervisor.lock is gone; send it SIGUSR2" in done.stderr
    assert program.bot(bot_id)["pid"] == pid
    os.kill(program.pid, signal.SIGUSR2)
    wait_for(lambda: data_directory.said(program.data_dir)[1], 20, "the new one has made it again")
    replaced(program)
    assert program.bot(bot_id)["pid"] == pid


def test_an_innocent_process_gets_no_signal(make_program: Make) -> None:
    """The lock names a pid that is somebody else's, and somebody else holds the lock."""
    program = make_program(flags=SOON).start()
    with subprocess.Popen(["sleep", "600"]) as innocent:
        lock = program.data_dir / "supervisor.lock"
        words = lock.read_text()
        lock.write_text(words.replace(str(program.pid), str(innocent.pid)))
        done = program.replace()
        assert done.returncode == 1
        assert "just changed" in done.stderr
        assert innocent.poll() is None
        innocent.kill()
    assert program.get("/livez").status_code == 200


def test_two_replacements_at_once(make_program: Make) -> None:
    program = make_program(flags=SOON).start()
    pid = ready(program, program.start_bot())
    with Pool() as threads:
        done = [asked.result() for asked in [threads.submit(program.replace) for _ in range(3)]]
    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * 3
    assert program.bot(1)["pid"] == pid


def test_the_data_directory_is_never_free_amid_an_upgrade(make_program: Make) -> None:
    program = make_program(flags=SOON).start()
    over = threading.Event()

    def intrude() -> list[int]:
        """Take the lock of the directory whenever it can be had."""
        taken = []
        fd = os.open(program.data_dir, os.O_RDONLY)
        try:
            while not over.is_set():
                try:
                    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    taken.append(1)
                    fcntl.flock(fd, fcntl.LOCK_UN)
                except BlockingIOError:
                    pass
        finally:
            os.close(fd)
        return taken

    with Pool() as threads:
        intruding = threads.submit(intrude)
        try:
            replaced(program)
        finally:
            over.set()
        assert intruding.result() == []


def test_a_data_directory_of_version_0_1_0(make_program: Make) -> None:
    """Its supervisor was killed, and then the machine started again. What was wanted then is wanted now."""
    program = make_program(kinds={"sleeper": 'command = ["sleep", "1000"]\nrestart = {policy = "never"}'}, flags=SOON)
    program.data_dir.mkdir()
    make_earlier(program.data_dir / "ledger.sqlite3")
    program.start()
    assert ready(program, 1)
    assert [run["cause"] for run in program.runs(1)] == ["lost", None]
    web = program.bot(1)
    assert (web["name"], web["labels"], web["params"]) == ("web", {"customer": "7"}, {"start_number": 5})
    assert program.bot_log(1).startswith("5\n")
    assert web["overrides"] == {}
    assert program.wait_state(8, "running")["overrides"]["restart"]["policy"] == "on-failure"
    assert program.wait_state(5, "running")["last_exit"]["cause"] == "lost"
    assert program.bot(2)["state"] == "stopped"
    assert program.wait_state(4, "scheduled")["waiting_for"] == "schedule"
    for gone, kind in ((3, "crashes"), (7, "limited")):
        assert f"no kind '{kind}'" in program.wait_state(gone, "failed")["reason"]
    assert program.get("/bots/6").status_code == 404
    again = program.post("/start", {"kind": "sleeper"}, headers={"Idempotency-Key": "once"})
    assert again.json() == {"bot_id": 1}
    assert program.start_bot() == 9
    assert program.get("/runs/3").json()["last_lines"][-1] == "ValueError: no such price"
    assert program.get("/bots_history", params={"bot_id": 3}).json()[0]["cause"] == "crashed"

"""When the program must not start: one clear line, an exit code, nothing touched. And odd places where it must."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from tests.faults.observe import copies, end, ends_well, is_alive, ready, warm_zygote
from tests.program import Program
from tests.waiting import wait_for

SOON = ["--shutdown-s", "0.5"]
APPLICATION_ID = 0x626F7473
NOBODY = 65534

Make = Callable[..., Program]


@pytest.fixture
def untold(tmp_path: Path) -> Iterator[Program]:
    """A program whose ledger is none, so that what must hold after every case cannot be looked up there."""
    program = Program(tmp_path)
    try:
        yield program
        assert program.processes(every=True) == []
    finally:
        program.close()


def refused(program: Program, *, wrapper: Sequence[str] = ()) -> tuple[int, str]:
    """Starts another supervisor, which must end by itself and say why in one line; exit code and line."""
    running = program.process
    try:
        process = program.launch(wrapper=wrapper, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = (stream.decode() for stream in process.communicate(timeout=60))
    finally:
        program.process = running
    assert out == ""
    assert err.startswith("bot-supervisor: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    return process.returncode, err


def ledger_files(program: Program) -> Mapping[str, tuple[bytes, int]]:
    """The ledger's files, byte for byte, and when each was last written."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in program.data_dir.glob("ledger*")
        if path.is_file()
    }


# ---- the data directory and the port


def test_a_second_supervisor_on_the_same_data(program: Program) -> None:
    bots = [program.start_bot() for _ in range(2)]
    pids = [ready(program, bot_id) for bot_id in bots]
    zygote, family = warm_zygote(program), set(program.family())
    for _ in range(2):
        code, line = refused(program)
        assert code == 3
        assert str(program.data_dir) in line
        assert str(program.pid) in line
    assert set(program.family()) == family
    assert program.zygote() == zygote
    assert [program.bot(bot_id)["pid"] for bot_id in bots] == pids
    assert ready(program, program.start_bot())
    assert program.get(f"/stop/{bots[0]}").json()["state"] == "stopped"


def test_refused_while_bots_wait_for_the_next_supervisor(make_program: Make) -> None:
    """Its port is taken, or it is too old for the ledger: bots and zygotes run on, and the next start has them."""
    program = make_program(flags=SOON).start()
    bot_id = program.start_bot()
    pid, zygote = ready(program, bot_id), program.zygote()
    program.kill()
    before = {process.pid for process in program.processes(every=True)}
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program.flags += ["--port", str(port)]
        code, line = refused(program)
    assert code == 2
    assert f"port {port}" in line
    del program.flags[-2:]
    newer(program.data_dir / "ledger.sqlite3")
    files = ledger_files(program)["ledger.sqlite3"]
    assert refused(program)[0] == 4
    assert ledger_files(program)["ledger.sqlite3"] == files
    assert {process.pid for process in program.processes(every=True)} == before
    program.write("DELETE FROM schema_migration WHERE name = '0042_later'")
    program.start()
    assert ready(program, bot_id) == pid
    assert program.zygote() == zygote


# ---- the ledger


def newer(path: Path) -> None:
    with sqlite3.connect(path) as ledger:
        ledger.execute("INSERT INTO schema_migration (name, applied) VALUES ('0042_later', '2026-01-01 00:00:00')")
    ledger.close()


def of_another_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as ledger:
        ledger.execute("CREATE TABLE orders (id INTEGER)")
    ledger.close()


def garbage_within(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(os.urandom(20_000))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (newer, "0042_later"),
        (of_another_program, "another program"),
        (garbage_within, "damaged"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"not a database, but long enough to be looked at\n" * 100), "damaged"),
        (lambda path: path.chmod(0o444), "read-only"),
    ],
    ids=lambda value: getattr(value, "__name__", "") if callable(value) else value,
)
def test_a_ledger_that_cannot_be_used(
    untold: Program, whole_ledger: Path, spoil: Callable[[Path], object], words: str
) -> None:
    untold.data_dir.mkdir()
    path = untold.data_dir / "ledger.sqlite3"
    shutil.copy(whole_ledger, path)
    spoil(path)
    before = ledger_files(untold)
    code, line = refused(untold)
    assert code == 4
    assert str(path) in line
    assert words in line
    assert ledger_files(untold) == before


@pytest.fixture(scope="module")
def whole_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A ledger with some history, as a supervisor that ended well has left it."""
    program = Program(tmp_path_factory.mktemp("history"), flags=SOON)
    try:
        program.start()
        for _ in range(3):
            program.get(f"/stop/{program.start_bot()}")
        assert program.terminate() == 0
        # Nothing of it is left in a write-ahead log.
        program.write("PRAGMA journal_mode = delete")
        yield program.data_dir / "ledger.sqlite3"
    finally:
        program.close()


def test_an_older_ledger_is_migrated(make_program: Make) -> None:
    """The oldest there can be: ours, and with no table in it."""
    program = make_program(flags=SOON)
    program.data_dir.mkdir()
    program.write(f"PRAGMA application_id = {APPLICATION_ID}")
    program.start()
    assert ready(program, program.start_bot())
    assert program.ledger("SELECT name FROM schema_migration ORDER BY id")[0]["name"] == "0001_initial"


# ---- another boot


def test_the_machine_was_started_again(make_program: Make) -> None:
    """Runs of another boot are lost, goals are honoured, and whoever has such a pid now gets no signal."""
    program = make_program(kinds={"tells": 'target = "obedient:tells"'}, flags=SOON).start()
    up, down, stopping = program.start_bot(), program.start_bot(), program.start_bot()
    pids = [ready(program, bot_id) for bot_id in (up, stopping)]
    program.get(f"/stop/{down}")
    zygote = program.zygote()
    program.kill()
    end(zygote, signal.SIGKILL)
    for pid in pids:
        end(psutil.Process(pid), signal.SIGKILL)
    with tempfile.TemporaryFile() as told, subprocess.Popen(
        [sys.executable, "-c", "import obedient; obedient.tells()"],
        cwd=Path(__file__).parents[1] / "bots",
        stdout=told,
    ) as innocent:  # fmt: skip
        try:
            wait_for(lambda: told.seek(0) == 0 and b"listening" in told.read(), 5)
            # The same pid, the same start, the same pidfd; only the boot is another.
            fd = os.pidfd_open(innocent.pid)
            ticks = Path(f"/proc/{innocent.pid}/stat").read_text().rpartition(")")[2].split()[19]
            program.write(
                "UPDATE run SET pid = ?, start_ticks = ?, inode = ?, boot_id = ? WHERE cause IS NULL",
                innocent.pid, int(ticks), os.fstat(fd).st_ino, "01234567-89ab-cdef-0123-456789abcdef",
            )  # fmt: skip
            os.close(fd)
            program.write("UPDATE bot SET goal = 'down', state = 'stopping' WHERE bot_id = ?", stopping)
            program.start()
            pid = ready(program, up)
            assert pid not in (innocent.pid, *pids)
            assert [run["cause"] for run in program.runs(up)] == ["lost", None]
            assert [run["cause"] for run in program.runs(stopping)] == ["lost"]
            assert program.bot(stopping)["state"] == program.bot(down)["state"] == "stopped"
            assert copies(program, up) == 1
            assert program.get(f"/stop/{up}").status_code == 200
            ends_well(program, signal.SIGTERM)
            told.seek(0)
            assert told.read() == b"listening\n"
            assert innocent.poll() is None
        finally:
            innocent.kill()


# ---- another user, another world


@pytest.fixture
def nobody() -> Iterator[tuple[Program, Sequence[str]]]:
    """A program in a directory that an ordinary user owns, and what makes it run as that user."""
    wrapper: Sequence[str] = ()
    directory = Path(tempfile.mkdtemp())
    program = Program(directory, flags=SOON)
    if os.geteuid() == 0:
        wrapper = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
        os.chown(directory, NOBODY, NOBODY)
    try:
        # The program executes its interpreter again, for zygotes.
        probe = (
            "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import supervisor.program'], check=True)"
        )
        if subprocess.run([*wrapper, sys.executable, "-c", probe], capture_output=True).returncode != 0:
            pytest.skip("an ordinary user cannot read this tree or its environment, or there is no setpriv")
        yield program, wrapper
        if (program.data_dir / "ledger.sqlite3").exists():
            program.check_invariants()
    finally:
        program.close()
        shutil.rmtree(directory)


def test_an_ordinary_user(nobody: tuple[Program, Sequence[str]]) -> None:
    program, wrapper = nobody
    program.start(wrapper=wrapper)
    assert psutil.Process(program.pid).uids().effective != 0
    bots = [program.start_bot() for _ in range(2)]
    pids = [ready(program, bot_id) for bot_id in bots]
    program.kill()
    program.start(wrapper=wrapper)
    assert [ready(program, bot_id) for bot_id in bots] == pids
    end(program.zygote(), signal.SIGKILL)
    assert program.get(f"/stop/{bots[0]}").status_code == 200
    assert ready(program, program.start_bot())
    ends_well(program, signal.SIGTERM)


@pytest.mark.parametrize("existing", [False, True], ids=["fresh", "with data"])
def test_a_read_only_directory(nobody: tuple[Program, Sequence[str]], existing: bool) -> None:
    program, wrapper = nobody
    shut = program.directory
    if existing:
        program.start(wrapper=wrapper)
        program.get(f"/stop/{program.start_bot()}")
        assert program.terminate() == 0
        shut = program.data_dir
    before = ledger_files(program)
    shut.chmod(0o555)
    try:
        code, line = refused(program, wrapper=wrapper)
    finally:
        shut.chmod(0o755)
    assert code == (4 if existing else 2)
    assert str(program.data_dir) in line
    assert ledger_files(program) == before


def test_as_the_first_process_of_a_container(make_program: Make) -> None:
    program = make_program(kinds={"family": 'target = "misbehaving:has_a_family"'}, flags=SOON)
    wrapper = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid() != 0:
        wrapper[1:1] = ["--user", "--map-root-user"]
    if subprocess.run([*wrapper, "true"], capture_output=True).returncode != 0:
        pytest.skip("no pid namespace can be made here")
    program.start(wrapper=wrapper)
    assert program.process is not None
    [first] = psutil.Process(program.pid).children()
    assert Path(f"/proc/{first.pid}/status").read_text().split("NSpid:")[1].split("\n")[0].split()[-1] == "1"
    counter, family = program.start_bot(), program.start_bot("family")
    ready(program, counter), ready(program, family, "family")

    def zombies() -> list[psutil.Process]:
        return [process for process in first.children(recursive=True) if not is_alive(process)]

    # What somebody starts in the container from outside, and leaves.
    enter = ["nsenter", "--target", str(first.pid), "--user", "--pid", "--mount", "--preserve-credentials"]
    if os.geteuid() == 0:
        enter.remove("--user")
    orphan = "import os; os.fork() and os._exit(0); os.setsid(); print(os.getpid(), flush=True); import time; {}"
    left = subprocess.run(
        [*enter, sys.executable, "-c", orphan.format("time.sleep(0.1)")], capture_output=True, text=True, check=True
    )
    assert int(left.stdout) > 1
    wait_for(lambda: len(first.children()) == len(program.get("/kinds").json()["kinds"]) + 1, 5, "the orphan is reaped")
    # A zygote, and then the bots that it leaves.
    [zygote] = [process for process in first.children() if " ".join(process.cmdline()).startswith("zygote family")]
    bots = zygote.children()
    end(zygote, signal.SIGKILL, reaped=True)
    for bot in bots:
        assert bot.ppid() == first.pid
        end(bot, signal.SIGKILL, reaped=True)
    program.wait_state(family, "backoff", "starting", "running")
    assert program.bot(counter)["state"] == "running"
    wait_for(lambda: not zombies(), 5, "no zombie is left")
    everything = first.children(recursive=True)
    first.terminate()
    assert program.process.wait(8) == 0
    assert [process for process in everything if is_alive(process)] == []
    assert program.processes(every=True) == []

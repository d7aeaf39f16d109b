"""A real zygote and its bots, without a supervisor."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from botproc import kernel, wire
from tests.process.clients import ZygoteClient
from tests.waiting import wait_for

MakeZygote = Callable[..., ZygoteClient]


@pytest.fixture
def zygote(make_zygote: MakeZygote, request: pytest.FixtureRequest) -> ZygoteClient:
    """A connected zygote of the target that the test names by `@target`."""
    made = make_zygote(request.param)
    hello = made.connect()
    assert not hello.error
    return made


def target(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("zygote", [name], indirect=True, ids=[name.partition(":")[2]])


def inspected(zygote: ZygoteClient) -> dict[str, Any]:
    run_id = zygote.spawn(7, stay=False).run_id
    assert zygote.ended(run_id).exit_code == 0, zygote.bot_log(7)
    return dict(json.loads(zygote.bot_log(7)))


# ---- how a bot is set up


@target("inspector:plain")
def test_a_bot_has_a_session_a_title_and_nothing_of_others(zygote: ZygoteClient) -> None:
    alive = zygote.spawn(7)
    zygote.ended(alive.run_id)
    bot = json.loads(zygote.bot_log(7))

    assert bot["pid"] == bot["sid"] == bot["pgid"] == alive.pid
    assert bot["ppid"] == zygote.process.pid
    assert bot["cmdline"] == f"bot-7 {zygote.kind}"
    assert bot["comm"] == f"bot-7 {zygote.kind}"[:15]
    assert len(bot["argv"]) == 1, "arguments of the supervisor's are not the bot's"
    assert bot["threads"] == 1
    log = str(zygote.directory / "7.log")
    lock = str(zygote.directory / "7.lock")
    links = [link for fd, link in sorted(bot["fds"].items(), key=lambda item: int(item[0])) if "/proc/" not in link]
    assert [bot["fds"][fd] for fd in "012"] == ["/dev/null", log, log]
    # Besides: the pipe that tells whether the zygote lives, multiprocessing's own stdin, and the lock.
    assert sorted(link.partition(":")[0] for link in links[3:]) == sorted(["/dev/null", lock, "pipe"])
    assert sorted(bot["inheritable"]) == [0, 1, 2]
    assert bot["env"] == {
        "BOT_ID": "7",
        "BOT_RUN_ID": "1",
        "BOT_KIND": zygote.kind,
        "NOTIFY_SOCKET": "",
        "OF_THE_KIND": "yes",
    }
    assert bot["stdin"] == bot["sys.stdin"] == ""
    assert bot["append"]
    assert bot["line_buffering"]
    assert bot["encoding"] == ["utf-8", "backslashreplace"]
    assert bot["parent_alive"]
    assert (zygote.directory / "7.log").stat().st_mode & 0o777 == 0o600
    assert (zygote.directory / "7.lock").stat().st_mode & 0o777 == 0o600


def signals(numbers: str) -> set[signal.Signals]:
    mask = int(numbers, 16)
    return {s for s in signal.Signals if mask & (1 << (s - 1))}


def spoil_signals() -> None:
    """What a careless parent leaves to its children."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGINT})
    os.umask(0o027)


@pytest.mark.parametrize("call", ["plain", "asynchronous"])
def test_signals_are_as_a_fresh_python_has_them(make_zygote: MakeZygote, call: str) -> None:
    zygote = make_zygote(f"inspector:{call}", preexec=spoil_signals)
    zygote.connect()
    alive = zygote.spawn(7)
    assert zygote.ended(alive.run_id).exit_code == 0
    bot = json.loads(zygote.bot_log(7))

    assert signals(bot["ignored"]) == {signal.SIGPIPE, signal.SIGXFSZ}
    assert signals(bot["blocked"]) == set()
    assert bot["umask"] == 0o027, "the supervisor's is the bots' too"


def test_the_start_method_in_a_bot_is_the_interpreters_own(make_zygote: MakeZygote) -> None:
    zygote = make_zygote("inspector:plain")
    zygote.connect()
    print_it = "import multiprocessing as m; print(m.get_start_method())"
    own = subprocess.run([sys.executable, "-c", print_it], capture_output=True, text=True, check=True).stdout.strip()
    assert inspected(zygote)["start_method"] == own


@target("misbehaving:forks_workers")
def test_multiprocessing_works_in_a_bot(zygote: ZygoteClient) -> None:
    alive = zygote.spawn()
    assert "sum 55" in zygote.wait_log(1, "sum")
    os.kill(alive.pid, signal.SIGTERM)
    assert zygote.ended(alive.run_id).signal == signal.SIGTERM
    assert "Traceback" not in zygote.bot_log(1)


@target("inspector:speaks")
def test_the_context_and_output_of_a_bot(zygote: ZygoteClient) -> None:
    assert zygote.hello is not None
    assert zygote.hello.description == "Its context."
    assert zygote.hello.params == []
    zygote.ended(zygote.spawn(7).run_id)
    log = zygote.bot_log(7)
    assert f"SyncContext(bot_id=7, run_id=1, kind='{zygote.kind}', name=None, labels={{}})" in log
    assert "caf\u00e9 \\udc80" in log


@target("prints_at_import:main")
def test_what_the_import_prints_is_in_the_kinds_log_alone(zygote: ZygoteClient) -> None:
    for bot_id in (1, 2):
        zygote.ended(zygote.spawn(bot_id).run_id)
        assert zygote.bot_log(bot_id) == "printed by the bot\n"
    assert zygote.log().count("printed at import\n") == 1


@target("leaves_at_exit:main")
def test_what_is_registered_for_the_exit_is_done_by_whoever_registered_it(zygote: ZygoteClient) -> None:
    for bot_id in (1, 2):
        assert zygote.ended(zygote.spawn(bot_id).run_id).exit_code == 3
        of_the_kind, of_the_bot, _, *said = zygote.bot_log(bot_id).split(maxsplit=3)
        assert said == ["at the exit of the bot\n"]
        assert Path(of_the_kind).is_dir(), "a bot removed what is the kind's"
        assert not Path(of_the_bot).exists(), "what the bot registered was not done"
        # A file that the kind's modules keep open is open in its bots too.
        assert (Path(of_the_kind) / "kind.log").read_text() == "written by the bot\n" * bot_id


# ---- exits


@target("misbehaving:exits")
@pytest.mark.parametrize("code", [0, 1, 44, 255])
def test_an_exit_code(zygote: ZygoteClient, code: int) -> None:
    ended = zygote.ended(zygote.spawn(code=code).run_id)
    assert (ended.exit_code, ended.signal) == (code, None)
    assert ended.max_rss_bytes > 1_000_000
    assert 0 < ended.cpu_seconds < 5


@pytest.mark.parametrize(
    ("call", "code", "said"),
    [
        ("exits_hard", 7, ""),
        ("raises", 1, "ValueError: the price is negative"),
        ("exits_with_text", 1, "no more money"),
    ],
)
def test_other_ways_to_exit(make_zygote: MakeZygote, call: str, code: int, said: str) -> None:
    zygote = make_zygote(f"misbehaving:{call}")
    zygote.connect()
    ended = zygote.ended(zygote.spawn().run_id)
    assert (ended.exit_code, ended.signal) == (code, None)
    assert said in zygote.bot_log(1)


@target("misbehaving:dies")
@pytest.mark.parametrize("signum", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGTERM])
def test_a_death_by_signal(zygote: ZygoteClient, signum: signal.Signals) -> None:
    ended = zygote.ended(zygote.spawn(signum=int(signum)).run_id)
    assert (ended.exit_code, ended.signal) == (None, signum)


@target("misbehaving:sleeps")
def test_sigterm_in_the_first_moment_is_not_lost(zygote: ZygoteClient) -> None:
    for bot_id in range(1, 21):
        alive = zygote.spawn(bot_id)
        os.kill(alive.pid, signal.SIGTERM)
        assert zygote.ended(alive.run_id).exit_code == 0, zygote.bot_log(bot_id)


@target("botproc.counter:main")
def test_the_counter_counts(zygote: ZygoteClient) -> None:
    alive = zygote.spawn(1, start_number=12)
    assert zygote.wait_log(1, "13\n").startswith("12\n13\n")
    os.kill(alive.pid, signal.SIGTERM)
    assert zygote.ended(alive.run_id).exit_code == 0
    assert zygote.bot_log(1).splitlines()[:2] == ["12", "13"]


# ---- one copy


@target("misbehaving:sleeps")
def test_a_second_copy_ends_with_a_named_code(zygote: ZygoteClient) -> None:
    first = zygote.spawn(1)
    lock = zygote.directory / "1.lock"
    wait_for(lambda: lock.exists() and lock.read_text() == f"1 {first.pid} {first.start_ticks}\n")
    second = zygote.spawn(1)
    assert zygote.ended(second.run_id).exit_code == wire.EXIT_LOCKED
    assert "another copy" in zygote.bot_log(1)
    assert lock.read_text() == f"1 {first.pid} {first.start_ticks}\n"
    os.kill(first.pid, signal.SIGKILL)
    zygote.ended(first.run_id)
    third = zygote.spawn(1)
    wait_for(lambda: lock.read_text() == f"3 {third.pid} {third.start_ticks}\n")


def put_a_directory(path: Path) -> None:
    path.mkdir()


def put_a_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_a_pipe_that_is_read(path: Path) -> None:
    os.mkfifo(path)
    # Until the test is over.
    os.set_inheritable(reader := os.open(path, os.O_RDONLY | os.O_NONBLOCK), False)
    READERS.append(reader)


def put_a_link(path: Path) -> None:
    path.with_suffix(".elsewhere").write_text("of another\n")
    path.symlink_to(path.with_suffix(".elsewhere"))


def put_a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        directory = os.open(path.parent, os.O_PATH)
        one.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)


READERS: list[int] = []
NO_FILES = [put_a_directory, put_a_pipe, put_a_pipe_that_is_read, put_a_link, put_a_socket]


@pytest.mark.parametrize("put", NO_FILES, ids=lambda put: put.__name__)
@pytest.mark.parametrize("what", ["log", "lock"])
def test_what_is_no_regular_file_is_no_log_and_no_lock(
    make_zygote: Callable[..., ZygoteClient], put: Callable[[Path], None], what: str
) -> None:
    zygote = make_zygote("misbehaving:sleeps")
    zygote.connect()
    path = zygote.directory / f"1.{what}"
    put(path)
    try:
        assert zygote.ended(zygote.spawn(1).run_id).exit_code == wire.EXIT_UNUSABLE
    finally:
        while READERS:
            os.close(READERS.pop())
    reason = f"bot-1 cannot be set up: cannot open {path}: not a regular file"
    if what == "log":
        assert reason in zygote.log()
        told = json.loads((zygote.directory / "1.lock").read_text().splitlines()[1])
        assert told["message"] == f"cannot open {path}: not a regular file"
    else:
        assert reason in zygote.bot_log(1)
    if put is put_a_link:
        assert path.read_text() == "of another\n"


@target("misbehaving:sleeps")
def test_a_directory_that_is_missing_is_made_again(zygote: ZygoteClient) -> None:
    zygote.paths = zygote.directory / "logs" / "of" / "bots"
    alive = zygote.spawn(1)
    wait_for(lambda: (zygote.paths / "1.lock").exists())
    assert zygote.paths.stat().st_mode & 0o777 == 0o700
    assert (zygote.paths / "1.log").stat().st_mode & 0o777 == 0o600
    os.kill(alive.pid, signal.SIGTERM)
    assert zygote.ended(alive.run_id).exit_code == 0


# ---- the connection


@target("misbehaving:exits")
def test_an_end_is_told_until_it_is_acknowledged(zygote: ZygoteClient) -> None:
    first = zygote.spawn(1, code=3)
    zygote.ended(first.run_id)
    zygote.ended(zygote.spawn(2, code=4).run_id)

    hello = zygote.connect()
    assert [(e["run_id"], e["exit_code"], e["swept"]) for e in hello.ended] == [(1, 3, True), (2, 4, True)]
    assert hello.alive == []
    zygote.send(wire.Ack(run_ids=[1]))
    assert [e["run_id"] for e in zygote.connect().ended] == [2]
    zygote.send(wire.Ack(run_ids=[1, 2, 99]))
    assert zygote.connect().ended == []


@target("misbehaving:sleeps")
def test_what_happens_without_a_supervisor_is_told_to_the_next(zygote: ZygoteClient) -> None:
    bots = [zygote.spawn(bot_id) for bot_id in (1, 2, 3)]
    zygote.disconnect()
    os.kill(bots[1].pid, signal.SIGABRT)
    wait_for(lambda: not psutil.pid_exists(bots[1].pid))

    hello = zygote.connect()
    assert [wire.Alive(**values) for values in hello.alive] == [bots[0], bots[2]]
    assert [(e["run_id"], e["signal"]) for e in hello.ended] == [(2, signal.SIGABRT)]
    # And it goes on as before.
    os.kill(bots[0].pid, signal.SIGKILL)
    assert zygote.ended(bots[0].run_id).signal == signal.SIGKILL
    zygote.spawn(4)


@target("misbehaving:exits")
def test_what_was_asked_for_before_a_supervisor_died_is_done(zygote: ZygoteClient) -> None:
    run_id = zygote.order(1, code=5)
    hello = zygote.connect()
    told = [(e["run_id"], e["exit_code"]) for e in hello.ended]
    assert [a["run_id"] for a in hello.alive] + [r for r, _ in told] == [run_id]
    if not told:
        assert zygote.ended(run_id).exit_code == 5


@target("misbehaving:sleeps")
def test_a_supervisor_that_does_not_read_stops_nothing(zygote: ZygoteClient) -> None:
    """More answers than a socket buffer holds, and the zygote still reaps."""
    for _ in range(600):
        # A copy of a bot that has its lock ends at once; each is answered twice.
        zygote.order(1)
    wait_for(lambda: len(psutil.Process(zygote.process.pid).children()) == 1, 30)
    ends = {zygote.receive().run_id for _ in range(1200 - 1)}  # type: ignore[union-attr]
    assert ends == set(range(1, 601))


@target("misbehaving:sleeps")
def test_a_bot_is_told_as_it_is_in_the_kernel(zygote: ZygoteClient) -> None:
    alive = zygote.spawn()
    assert alive.start_ticks == kernel.start_ticks(alive.pid)
    assert alive.inode == kernel.pidfd_inode(alive.pid)
    assert zygote.hello is not None
    assert (zygote.hello.kind, zygote.hello.pid) == (zygote.kind, zygote.process.pid)
    assert zygote.hello.threads == 1
    assert 0 <= zygote.hello.import_s < 10


@target("misbehaving:sleeps")
def test_only_its_owner_can_speak_to_a_zygote(zygote: ZygoteClient) -> None:
    assert stat.S_IMODE(zygote.socket_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(zygote.log_path.stat().st_mode) == 0o600


# ---- how a zygote ends


@target("misbehaving:exits")
def test_quit_waits_for_the_last_bot_and_its_acknowledgement(zygote: ZygoteClient) -> None:
    alive = zygote.spawn(1, code=1)
    zygote.send(wire.Quit())
    zygote.ended(alive.run_id)
    assert zygote.process.poll() is None
    zygote.send(wire.Ack(run_ids=[alive.run_id]))
    assert zygote.process.wait(5) == 0
    assert not zygote.socket_path.exists()
    with pytest.raises(EOFError):
        zygote.receive()


@target("misbehaving:sleeps")
def test_another_supervisor_takes_a_quit_back(zygote: ZygoteClient) -> None:
    alive = zygote.spawn()
    zygote.send(wire.Quit())
    zygote.connect()
    os.kill(alive.pid, signal.SIGKILL)
    zygote.ended(alive.run_id)
    zygote.send(wire.Ack(run_ids=[alive.run_id]))
    zygote.spawn(2)


def test_a_lonely_zygote_leaves(make_zygote: MakeZygote) -> None:
    zygote = make_zygote("misbehaving:exits", lonely_s=0.2)
    zygote.connect()
    alive = zygote.spawn(code=1)
    zygote.ended(alive.run_id)
    zygote.disconnect()
    with pytest.raises(subprocess.TimeoutExpired):
        # It has an end to tell.
        zygote.process.wait(0.6)
    zygote.connect()
    zygote.send(wire.Ack(run_ids=[alive.run_id]))
    zygote.disconnect()
    assert zygote.process.wait(5) == 0
    assert not zygote.socket_path.exists()


def test_a_zygote_that_imports_is_not_lonely(make_zygote: MakeZygote) -> None:
    """Who connects meanwhile is heard when the import is done, however long it took."""
    zygote = make_zygote("a_second:main", lonely_s=0.2)
    assert zygote.connect().error == ""
    assert zygote.spawn().pid


@target("misbehaving:sleeps")
def test_sigterm_and_its_like_do_not_end_a_zygote(zygote: ZygoteClient) -> None:
    zygote.process.send_signal(signal.SIGTERM)
    zygote.spawn()
    assert os.getsid(zygote.process.pid) == zygote.process.pid, "Ctrl-C at a terminal is not for it"


# ---- imports


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("raises_at_import:main", "RuntimeError: no configuration"),
        ("prints_and_fails:main", "LookupError: no such market"),
        ("there_is_no_such:main", "ModuleNotFoundError: No module named 'there_is_no_such'"),
        ("signatures:nothing", "AttributeError: module 'signatures' has no attribute 'nothing'"),
        ("signatures:not_callable", "TypeError: the target is not callable, it is a int"),
        ("signatures:positional_only", "TypeError: the parameter 'a' cannot be given by name"),
    ],
)
def test_an_import_that_fails_is_told_and_the_zygote_leaves(make_zygote: MakeZygote, target: str, error: str) -> None:
    zygote = make_zygote(target)
    hello = zygote.connect()
    assert hello.error.strip().splitlines()[-1] == error
    assert zygote.process.wait(5) == 0
    assert error in zygote.log()
    if target.startswith("prints"):
        assert "about to fail\n" in zygote.log(), "what it printed before is the best hint"


@target("signatures:Deep.Down.bot")
def test_a_target_within_a_class(zygote: ZygoteClient) -> None:
    zygote.ended(zygote.spawn().run_id)
    assert zygote.bot_log(1) == "deep down\n"


@target("signatures:everything")
def test_a_signature_is_described(zygote: ZygoteClient) -> None:
    """Parameters of any type; those whose default is no JSON value cannot be given, and keep it."""
    assert zygote.hello is not None
    assert zygote.hello.description == "Takes all sorts of parameters."
    described = [(p["name"], p["type"], p["required"], p["default"]) for p in zygote.hello.params]
    assert described == [
        ("symbol", "str", True, None),
        ("amount", "int", False, 3),
        ("rate", "float", False, 0.5),
        ("dry", "bool", False, True),
        ("peers", "list", False, []),
        ("extra", "dict", False, {}),
        ("anything", None, False, None),
        ("marked", None, False, 1),
    ]


# ---- a want of resources


def test_a_fork_that_fails_is_told_and_the_zygote_lives_on(make_zygote: MakeZygote, tmp_path: Path) -> None:
    # The limit counts the processes of a user, and does not hold for root.
    uid = 0 if os.getuid() else 1_000_000_000 + os.getpid()
    if uid:
        for directory in (tmp_path, *list(tmp_path.parents)[:2]):
            directory.chmod(0o777)
    zygote = make_zygote("cannot_fork:main", uid=uid)
    try:
        zygote.connect()
    except AssertionError:
        pytest.skip(f"a zygote cannot be another user's here: {zygote.log()}")
    run_id = zygote.order(1)
    answer = zygote.receive()
    assert answer == wire.NotSpawned(run_id=run_id, errno=11, detail="fork: Resource temporarily unavailable")
    zygote.process.send_signal(signal.SIGUSR1)
    wait_for(lambda: "may fork" in zygote.log())
    zygote.spawn(1)


@target("misbehaving:sleeps")
def test_a_zygote_without_descriptors_makes_nothing_by_half(zygote: ZygoteClient) -> None:
    first = zygote.spawn(1)
    pid = zygote.process.pid
    used = set(map(int, os.listdir(f"/proc/{pid}/fd")))
    free = min(set(range(1000)) - used)
    limit = resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    zygote.order(2)
    answer = zygote.receive()
    assert isinstance(answer, wire.NotSpawned)
    assert answer.errno == 24
    wait_for(lambda: [child.pid for child in psutil.Process(pid).children()] == [first.pid])
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
    zygote.spawn(2)


# ---- what a bot says


@target("misbehaving:sleeps")
def test_params_of_any_size_and_sort_arrive(zygote: ZygoteClient) -> None:
    run_id = zygote.order(1, seconds=0.0, unknown="x" * 300_000)
    assert isinstance(zygote.receive(), wire.Alive)
    assert zygote.ended(run_id).exit_code == 1
    assert "unexpected keyword argument 'unknown'" in zygote.bot_log(1)


def test_a_bot_notifies_when_it_is_ready(make_zygote: MakeZygote, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(10)
        zygote = make_zygote("misbehaving:sleeps", notify_address=str(tmp_path / "notify"))
        zygote.connect()
        zygote.spawn()
        assert listener.recv(100) == b"READY=1"

"""A zygote that is killed at a fork, once, when there is the file that ARMED names; which says when.

"before its answer": as soon as it has forked, while its child is held up before it is a bot.
"after its answer": by its child, while the supervisor is stopped, and has not read the answer.

The child writes its pid beside the file.
"""

import os
import pathlib
import signal
import time

file = pathlib.Path(os.environ["ARMED"])
pid_file = file.with_suffix(".pid")
when = ""


def before_fork() -> None:
    global when
    when = file.read_text() if file.exists() else ""
    file.unlink(missing_ok=True)
    if when == "after its answer":
        os.kill(os.getppid(), signal.SIGSTOP)


def in_zygote() -> None:
    if when == "before its answer":
        while not pid_file.exists():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)


def in_child() -> None:
    if not when:
        return
    file.write_text(str(os.getpid()))
    file.rename(pid_file)
    if when == "before its answer":
        time.sleep(30)
        return
    zygote = os.getppid()
    status = pathlib.Path(f"/proc/{zygote}/stat")
    supervisor = int(status.read_text().rpartition(")")[2].split()[1])
    # It sleeps: all is said.
    while status.read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.001)
    os.kill(zygote, signal.SIGKILL)
    while os.getppid() == zygote:
        time.sleep(0.001)
    os.kill(supervisor, signal.SIGCONT)


def main() -> None:
    print("runs", flush=True)
    signal.pause()


os.register_at_fork(before=before_fork, after_in_parent=in_zygote, after_in_child=in_child)

"""A zygote that is killed right after a fork, while what it has forked is held up before it is a bot.

Once, when there is the file that ARMED names. The process that is held up then writes its pid beside it.
"""

import os
import pathlib
import signal
import time

file = pathlib.Path(os.environ["ARMED"])
is_armed = False


def before_fork() -> None:
    global is_armed
    is_armed = file.exists()
    file.unlink(missing_ok=True)


def in_zygote() -> None:
    if is_armed:
        while not file.with_suffix(".pid").exists():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)


def in_child() -> None:
    if is_armed:
        file.write_text(f"{os.getpid()}")
        file.rename(file.with_suffix(".pid"))
        time.sleep(30)


def main() -> None:
    print("runs", flush=True)
    signal.pause()


os.register_at_fork(before=before_fork, after_in_parent=in_zygote, after_in_child=in_child)

"""A bot that imports a real web stack, and the usual ways to start one: a new interpreter for each.

`python -m benchmarks.web WAY LOG_DIR` starts bots in one of the ways, as told on stdin, and says when it began and
which pids they have, as `benchmarks.floor` does.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time

KIND = """
[kinds.web]
target = "benchmarks.webbot:main"
"""
WAYS = ("spawn", "subprocess")


def main(way: str, log_dir: str) -> None:
    """The life of the process that starts bots in one of the usual ways."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    spawn = multiprocessing.get_context("spawn")
    ours: list[multiprocessing.process.BaseProcess | subprocess.Popen[bytes]] = []
    for command in sys.stdin:
        match command.split():
            case ["fork", first, count]:
                begin = time.monotonic_ns()
                for n in range(int(first), int(first) + int(count)):
                    log_path = f"{log_dir}/{n}.log"
                    if way == "spawn":
                        process = spawn.Process(target=_run, args=(log_path,))
                        process.start()
                        ours.append(process)
                    else:
                        with open(log_path, "ab") as log:
                            bot = [sys.executable, "-m", "benchmarks.webbot"]
                            ours.append(subprocess.Popen(bot, stdout=log))
                print(begin, *(one.pid for one in ours[-int(count) :]))
            case ["end"]:
                for one in ours:
                    assert one.pid is not None
                    os.kill(one.pid, signal.SIGKILL)
                    one.join() if isinstance(one, multiprocessing.process.BaseProcess) else one.wait()
                ours.clear()
                print()


def _run(log_path: str) -> None:
    """In the spawned process, which has imported nothing yet."""
    os.dup2(os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), 1)
    from benchmarks import webbot

    asyncio.run(webbot.main())


if __name__ == "__main__":
    main(*sys.argv[1:])

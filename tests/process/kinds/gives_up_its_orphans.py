"""A bot that is no subreaper any more: its daemons come to the zygote while it lives."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from botproc import kernel


def main() -> None:
    kernel._libc.prctl(kernel._PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    read, write = os.pipe()
    sleep = "import time; time.sleep(600)"
    started = f"import os, subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {sleep!r}], stdout=-3).pid)"
    pids = []
    # One in the session, a program in its own, and a mere fork in its own: each an orphan at once.
    for new_session in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", started], start_new_session=new_session, stdout=subprocess.PIPE, check=True
        )
        pids.append(int(done.stdout))
    if (child := os.fork()) == 0:
        os.setsid()
        if (daemon := os.fork()) != 0:
            os.write(write, str(daemon).encode())
            os._exit(0)
        time.sleep(600)
        os._exit(0)
    os.waitpid(child, 0)
    pids.append(int(os.read(read, 10)))
    print("daemons", *pids, flush=True)
    time.sleep(600)

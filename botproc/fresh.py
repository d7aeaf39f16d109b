"""A bot in an interpreter of its own, for kinds whose imports start threads: a fork would have but one of them, and
the locks of all."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from typing import NoReturn

import setproctitle

from botproc import bootstrap, command, target, wire


def run(spec: wire.ZygoteSpec, spawn: wire.Spawn) -> NoReturn:
    """Makes of this process that of a bot, and then a new interpreter. Called in the child, by multiprocessing."""
    lock = bootstrap.set_up(spec, spawn)
    # In memory and not in argv, which everybody can read.
    order = os.memfd_create("order", 0)
    os.write(order, pickle.dumps((spec, spawn, lock)))
    os.lseek(order, 0, os.SEEK_SET)
    code = f"import sys; sys.path[:] = {sys.path!r}; from botproc import fresh; fresh.main({order})"
    # SIGTERM stays blocked until the bot can take it.
    command.execute([sys.executable, "-c", code], spawn, lock, order)


def main(order: int) -> None:
    """The first code of the new interpreter: imports the kind, and calls its target."""
    with os.fdopen(order, "rb") as file:
        spec, spawn, lock = pickle.load(file)
    os.set_inheritable(lock, False)
    del sys.argv[1:]
    bootstrap.log_to(spawn.log_path)
    setproctitle.setproctitle(bootstrap.title(spec, spawn))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        loaded = target.load(spec)
    except BaseException:
        traceback.print_exc()
        bootstrap.give_up(spawn, f"the kind {spec.kind} cannot be imported", lock)
    bootstrap.play(spec, loaded, spawn, lock)

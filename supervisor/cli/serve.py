"""The supervisor itself: from the settings to the exit code, or to the one that takes over."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Mapping
from typing import Any

from botproc import kernel
from supervisor import event_loop, handover, settings


def serve(flags: Mapping[str, Any]) -> int:
    """Run until told to stop. Raises Refused."""
    # As it is now: the tokens are taken out of it.
    environment = dict(os.environ)
    chosen = settings.read(flags)
    # Half a second, which is not to pass before it is said what is wrong with the settings.
    from supervisor import program

    # Before there are threads, which would keep a mask of their own, and descriptors.
    kernel.reset_signals(blocked=handover.hold_signals())
    kernel.open_standard_streams()
    with asyncio.Runner(loop_factory=event_loop.Loop) as runner:
        handed = runner.run(program.serve(chosen, functools.partial(settings.read, flags, chosen)))
    if handed is not None:
        handover.execute(handed, environment)
    return 0

"""Registers what is to be done at exit: at import for the process that imports it, in a bot for that bot."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import tempfile
from pathlib import Path

_of_the_kind = tempfile.TemporaryDirectory()
logging.basicConfig(filename=Path(_of_the_kind.name) / "kind.log", level="INFO", format="%(message)s")
atexit.register(print, "at the exit of the kind")


def main() -> None:
    of_the_bot = tempfile.TemporaryDirectory()
    main.keep = of_the_bot  # type: ignore[attr-defined]
    atexit.register(print, "at the exit of the bot")
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    logging.info("written by the bot")
    print(_of_the_kind.name, of_the_bot.name, len(files))
    sys.exit(3)

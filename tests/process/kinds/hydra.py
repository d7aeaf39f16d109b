"""A bot whose child forks again and again, each parent ending at once."""

from __future__ import annotations

import os
import time


def main() -> None:
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork() != 0:
                os._exit(0)
            time.sleep(0.001)
    print("many heads")
    time.sleep(600)

"""Starts a helper process when it is imported, as a metrics or proxy library might."""

from __future__ import annotations

import subprocess
import time

helper = subprocess.Popen(["sleep", "600"])


def main() -> None:
    print(helper.pid)
    time.sleep(600)

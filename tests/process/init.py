"""Stands in for the init of a machine: an earlier supervisor runs under it, and what that leaves comes to it.

    python -m tests.process.init DATA_DIR KIND BOTS

Prints a line of JSON for each bot, and then the pid of the zygote. Ends when all its children have.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path

from botproc import kernel
from tests.process.benches import LocalBench


async def supervise(data_dir: Path, kind: str, bots: int) -> None:
    bench = await LocalBench(data_dir).open()
    for bot_id in range(1, bots + 1):
        process = await bench.start(kind, bot_id)
        print(json.dumps(dataclasses.asdict(process.identity)), flush=True)
    print(json.dumps(bench.engine.kind_status(kind).pid), flush=True)
    await asyncio.sleep(600)


def main() -> None:
    kernel.become_subreaper()
    if os.fork() == 0:
        asyncio.run(supervise(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


if __name__ == "__main__":
    main()

"""One kind for many bots: a zygote for each of them would make every start of a supervisor slow."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os


def main(*, what: str, params: dict = {}, cwd: str = "") -> None:  # type: ignore[type-arg] # noqa: B006
    """Does what the function `module:name` does, in a directory by which its descendants can be found."""
    if cwd:
        os.chdir(cwd)
    module, _, name = what.partition(":")
    done = getattr(importlib.import_module(module), name)(**params)
    if inspect.iscoroutine(done):
        asyncio.run(done)

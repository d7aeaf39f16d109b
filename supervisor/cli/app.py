"""The command line: run a command or, without one, the server; say in one line what is wrong."""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib.metadata
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic_settings

from botproc import kernel
from supervisor import __version__, event_loop, handover, settings
from supervisor.cli import check, notify, restart, tokens
from supervisor.core import errors

COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "check": check.main,
    "notify": notify.main,
    "restart": restart.restart,
    "token": tokens.main,
}
"""What the first argument may choose: called with the arguments behind it, returns an exit code or raises Refused."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, or the supervisor until it is told to stop, and return the exit code.

    Args:
        argv: the arguments without the program's name; those of the process when None.
    """
    try:
        _refuse_namesake()
        arguments = sys.argv[1:] if argv is None else argv
        if arguments and (command := COMMANDS.get(arguments[0])):
            handover.release_signals()
            return command(arguments[1:])
        # As it is now: the tokens are taken out of it.
        environment = dict(os.environ)
        flags = _flags(arguments)
        chosen = settings.read(flags)
        from supervisor import program

        # Before there are threads, which would keep a mask of their own, and descriptors.
        kernel.reset_signals(blocked=handover.hold_signals())
        kernel.open_standard_streams()
        with asyncio.Runner(loop_factory=event_loop.Loop) as runner:
            handed = runner.run(program.serve(chosen, functools.partial(settings.read, flags, chosen)))
        if handed is not None:
            handover.execute(handed, environment)
        return 0
    except errors.Refused as refused:
        print(f"bot-supervisor: {refused.detail}", file=sys.stderr)
        return refused.exit_code


def _refuse_namesake() -> None:
    """PyPI's `supervisor` installs the same import name: with both, nobody can say which files are whose."""
    try:
        importlib.metadata.distribution("supervisor")
    except importlib.metadata.PackageNotFoundError:
        return
    raise errors.SettingsRefused(
        "the distribution 'supervisor' is installed in this environment too, under the same import name;"
        " give bot-supervisor an environment of its own, or: pip uninstall supervisor"
    )


def _flags(argv: Sequence[str]) -> dict[str, Any]:
    for argument in argv:
        # argparse would print an unknown flag with its value.
        name = argument.partition("=")[0]
        if name.startswith("-") and "token" in name and name != "--token-file":
            raise errors.SettingsRefused(
                "a token has no flag, since argv is shown to every user of the machine: use --token-file with a file"
                f" that bot-supervisor token makes, or {settings.PREFIX}ADMIN_TOKEN and {settings.PREFIX}READ_TOKEN"
            )
        if name == "--redis-url":
            raise errors.SettingsRefused(
                "redis_url has no flag, since it may have a password, and argv is shown to every user of the machine:"
                f" use the TOML file, or {settings.PREFIX}REDIS_URL"
            )
    parser = argparse.ArgumentParser(
        prog="bot-supervisor",
        description="Runs fleets of Python bots, one process each, and keeps account of every run.",
        epilog=f"Each flag can also be set as {settings.PREFIX}<NAME> or in the TOML file. "
        f"Tokens: {settings.PREFIX}ADMIN_TOKEN and _READ_TOKEN, or --token-file. "
        f"Other commands: bot-supervisor {', '.join(COMMANDS)}, each with a --help.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bot-supervisor {__version__}")
    source: pydantic_settings.CliSettingsSource[argparse.ArgumentParser] = pydantic_settings.CliSettingsSource(
        settings.Flags,
        cli_parse_args=list(argv),
        root_parser=parser,
        cli_implicit_flags="toggle",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )
    return source()

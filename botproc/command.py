"""A bot that is a program of any language: `command = ["node", "bot.js", "{start_number}"]`."""

from __future__ import annotations

import os
import signal
import string
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from botproc import bootstrap, notify, secrets, wire

_SCALAR = {"union": ["int", "float", "str", "bool", "null"]}


def describe(spec: wire.ZygoteSpec) -> list[dict[str, Any]]:
    """The parameters of a command, as `target.describe` has those of a callable: what stands in braces in its
    arguments and in the values of its environment. Raises ValueError."""
    names = dict.fromkeys(_all_names(spec))
    if unused := [name for name in spec.params if name not in names]:
        raise ValueError(f"the parameter {unused[0]} stands in no argument of the command and in no value of env")
    return [
        {
            "name": name,
            "type": type(spec.params[name]).__name__ if spec.params.get(name) is not None else _SCALAR,
            "required": name not in spec.params,
            "default": spec.params.get(name),
        }
        for name in names
    ]


def run(spec: wire.ZygoteSpec, spawn: wire.Spawn) -> NoReturn:
    """Makes of this process that of a bot, and then the program. Called in the child, by multiprocessing."""
    lock = bootstrap.set_up(spec, spawn)
    try:
        params = secrets.resolve(spawn.params, spec.secrets_dir)
        if missing := [name for name in _all_names(spec) if name not in spawn.params]:
            raise secrets.Unresolved(f"the parameter {missing[0]} was not given")
        for name in (name for argument in spec.command for name in _names(argument)):
            if secrets.is_reference(spawn.params[name]):
                raise secrets.Unresolved(
                    f"the parameter {name} is a secret, and an argument is seen by every user of the machine:"
                    ' give it to the program in env, as NAME = "{' + name + '}"'
                )
        os.environ.update({name: _filled(value, params) for name, value in spec.env.items()})
    except (secrets.Unresolved, ValueError) as error:
        # The latter: what no environment can have, a NUL.
        bootstrap.give_up(spawn, str(error), lock)
    if spec.ready_at_start:
        notify.notify(READY="1")
    # Python ignores these two, and a program inherits that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    execute([_filled(argument, params) for argument in spec.command], spawn, lock)


def execute(argv: list[str], spawn: wire.Spawn, lock: int, *keep: int) -> NoReturn:
    """Becomes the program, with these descriptors and the standard ones: the lock is held as long as it lives."""
    for fd in (lock, *keep):
        os.set_inheritable(fd, True)
    sys.stdout.flush()
    try:
        os.execvp(argv[0], argv)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        bootstrap.give_up(spawn, f"cannot execute {argv[0]}: {reason}", lock)


def _all_names(spec: wire.ZygoteSpec) -> Iterator[str]:
    return (name for text in (*spec.command, *spec.env.values()) for name in _names(text))


def _names(text: str) -> Iterator[str]:
    """The names in braces. Raises ValueError for what else is in braces."""
    for _, name, format_spec, conversion in string.Formatter().parse(text):
        if name is None:
            continue
        if not name.isidentifier() or format_spec or conversion:
            raise ValueError(f"{text!r}: a parameter is a name in braces, such as {{start_number}}; a brace is doubled")
        yield name


def _filled(text: str, params: Mapping[str, Any]) -> str:
    return text.format_map({name: _text(value) for name, value in params.items()})


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case _:
            return str(value)

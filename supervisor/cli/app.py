"""The command line: serve, or run one of the program's own commands; say in one line what is wrong.

What a command needs is imported when it runs: most need no settings, which take longer to import than all else.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from typer.main import get_command

from supervisor import __version__, handover
from supervisor.core import errors
from supervisor.core.defaults import DATA_DIR, PREFIX

app = typer.Typer(
    name="bot-supervisor",
    help="Run a fleet of Python bots, one process each, and keep a ledger of every run. Without a command: serve.",
    epilog=f"Each option can also be set as {PREFIX}<NAME> in the environment, or in the TOML file. Tokens have no"
    f" option: use --token-file, or {PREFIX}ADMIN_TOKEN and {PREFIX}READ_TOKEN.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar=f"{PREFIX}DATA_DIR",
        show_envvar=False,
        help=f"data directory of the supervisor; {PREFIX}DATA_DIR sets it, too",
    ),
]


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


# ---- the commands


def check(data_dir: DataDir = DATA_DIR) -> int:
    """Look for what is wrong in a data directory.

    Says in a line each what is well and what is wrong, with what to do. Changes nothing, and exits with 0 if all is
    well, else with 1. While a supervisor runs it looks at the ledger alone.
    """
    from supervisor.cli import check

    return check.check(_absolute(data_dir))


def notify(
    config: Annotated[
        str | None, typer.Option(help=f"TOML file of the supervisor; {PREFIX}CONFIG sets it, too", show_default=False)
    ] = None,
) -> int:
    """Send a test notice to each webhook.

    Says what each webhook of the settings answered, and exits with 1 if one did not take the notice.
    """
    from supervisor.cli import notify

    return notify.notify(config)


def restart(data_dir: DataDir = DATA_DIR) -> int:
    """Replace the running supervisor.

    The new one is what is installed now, and no bot is touched.
    """
    from supervisor.cli import restart

    return restart.restart(_absolute(data_dir))


def token(
    file: Annotated[Path, typer.Argument(help="file to make; one that exists is never overwritten")] = Path(
        "tokens.toml"
    ),
    show: Annotated[bool, typer.Option("--show", help="print the tokens, too")] = False,
) -> int:
    """Make a file of tokens.

    It has mode 0600 and two new tokens: admin may do everything, read may only look.
    """
    from supervisor.cli import tokens

    return tokens.token(_absolute(file), show=show)


def serve(context: typer.Context, version: bool, **given: Any) -> int | None:
    """Serve until SIGTERM, or until another supervisor takes over."""
    if version:
        print(f"bot-supervisor {__version__}")
        return 0
    flags = {name: value for name, value in given.items() if value is not None}
    if context.invoked_subcommand is not None:
        if flags:
            raise typer.BadParameter(f"options of {context.invoked_subcommand} stand behind it", ctx=context)
        return None
    from supervisor.cli import serve

    return serve.serve(flags)


# ---- the options of the supervisor itself, made from its settings


def _option(name: str, field: Any) -> inspect.Parameter:
    """A setting as an option. What its value may be is checked with all other settings, wherever they come from."""
    dashed = name.replace("_", "-")
    types = {field.annotation, *get_args(field.annotation)}
    help_ = field.description
    if bool in types:
        option = typer.Option(f"--{dashed}/--no-{dashed}", help=help_, show_default=False)
        return _keyword(name, bool, option)
    # One that is repeated is one list.
    type_: Any = list[str] if get_origin(field.annotation) is list else str
    if field.default not in (None, []):
        help_ += f" (default: {field.default})"
    if get_origin(field.annotation) is Literal:
        metavar = "|".join(get_args(field.annotation))
    elif int in types or float in types:
        metavar = "N"
    else:
        metavar = "PATH" if "Path" in str(field.annotation) else "TEXT"
    return _keyword(name, type_, typer.Option(f"--{dashed}", help=help_, metavar=metavar, show_default=False))


def _keyword(name: str, type_: Any, option: Any) -> inspect.Parameter:
    annotation = Annotated[type_ | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _with_settings(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Give `serve` an option for each setting that may stand in argv."""
    from supervisor.settings import Flags

    version = Annotated[bool, typer.Option("--version", help="show the version", show_default=False)]
    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(_option(name, field) for name, field in Flags.model_fields.items()),
        inspect.Parameter("version", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=version),
    ]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function


INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, as shells have it."""

COMMANDS = (check, notify, restart, token)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, or the supervisor until it is told to stop, and return the exit code.

    Args:
        argv: the arguments without the program's name; those of the process when None.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        _refuse_namesake()
        _refuse_secrets(arguments)
        is_command = bool(arguments) and arguments[0] in {command.__name__ for command in COMMANDS}
        if is_command:
            handover.release_signals()
        for command in COMMANDS:
            app.command()(command)
        # Without them a command starts in a third of the time.
        app.callback(invoke_without_command=True)(_plain if is_command else _with_settings(serve))
        result = get_command(app).main(arguments, prog_name="bot-supervisor", standalone_mode=False)
        return int(result or 0)
    except typer.TyperException as wrong:
        print(f"bot-supervisor: {wrong.format_message().rstrip('.')}; see bot-supervisor --help", file=sys.stderr)
        return 2
    except errors.Refused as refused:
        print(f"bot-supervisor: {refused.detail}", file=sys.stderr)
        return refused.exit_code
    except typer.Abort:
        return INTERRUPTED


def _plain() -> None:
    """Run a command."""


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


def _refuse_secrets(argv: Sequence[str]) -> None:
    """Refuse what must not stand in argv, without repeating its value."""
    for argument in argv:
        name = argument.partition("=")[0]
        if name.startswith("-") and "token" in name and name != "--token-file":
            raise errors.SettingsRefused(
                "a token has no flag, since argv is shown to every user of the machine: use --token-file with a file"
                f" that bot-supervisor token makes, or {PREFIX}ADMIN_TOKEN and {PREFIX}READ_TOKEN"
            )
        if name == "--redis-url":
            raise errors.SettingsRefused(
                "redis_url has no flag, since it may have a password, and argv is shown to every user of the machine:"
                f" use the TOML file, or {PREFIX}REDIS_URL"
            )

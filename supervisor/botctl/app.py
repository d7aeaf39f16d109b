"""The commands, and what becomes of their errors."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from typer.main import get_command

from supervisor import client
from supervisor.botctl import commands, feeds, listings, terminal
from supervisor.botctl.exits import MEANING, Exit

app = typer.Typer(
    name="botctl",
    help="Look after a fleet of bots: see it, follow it, command it.",
    epilog="Exit codes: " + "; ".join(f"{code.value} {what}" for code, what in MEANING.items()) + "."
    " The supervisor is found at --url, else BOT_SUPERVISOR_URL, else http://127.0.0.1:8000; unix:/path is a socket."
    " A token comes from BOT_SUPERVISOR_TOKEN, or the file of mode 0600 that BOT_SUPERVISOR_TOKEN_FILE names.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    listings.ps,
    listings.top,
    commands.start,
    commands.stop,
    commands.restart,
    feeds.logs,
    listings.history,
    listings.runs,
    listings.show,
    feeds.events,
    listings.crashes,
    listings.kinds,
    feeds.wait,
    commands.delete,
    commands.signal,
):
    app.command()(command)


def run(arguments: Sequence[str]) -> int:
    """Run a command; its exit code. Raises KeyboardInterrupt and BrokenPipeError alone."""
    try:
        return int(get_command(app).main(list(arguments), prog_name="botctl", standalone_mode=False) or Exit.WELL)
    except typer.TyperException as wrong:
        terminal.complain(wrong.format_message())
        return Exit.USAGE
    except ValueError as wrong:
        terminal.complain(wrong)
        return Exit.USAGE
    except client.Unreachable as wrong:
        terminal.complain(wrong)
        return Exit.NO_SERVER
    except client.Problem as wrong:
        terminal.complain(wrong)
        return Exit.REFUSED

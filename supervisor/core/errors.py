"""Every error that the supervisor tells a person or a program about.

    SupervisorError
    ├── Refused                 the program cannot start: one line, an exit code
    │   ├── SettingsRefused
    │   ├── DataDirectoryBusy
    │   ├── LedgerRefused
    │   └── NotReplaced
    └── Problem                 a call cannot be done: RFC 9457, an HTTP status
        ├── UnknownBot, UnknownRun, UnknownKind
        ├── NameTaken, NoProcess, BadParams, KindGone
        ├── CredentialHeld, BudgetSpent
        ├── NotReloaded
        ├── StillAlive
        ├── SpawnFailed
        └── Unavailable
            ├── LedgerUnavailable
            └── ShuttingDown

The docstring's first line is the title of the problem, and the default message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class SupervisorError(Exception):
    """Something went wrong."""

    @classmethod
    def title(cls) -> str:
        """The first line of the docstring, without its full stop."""
        return (cls.__doc__ or cls.__name__).partition("\n")[0].rstrip(".")

    def __init__(self, detail: str = "") -> None:
        self.detail = detail or self.title()
        super().__init__(self.detail)


class Refused(SupervisorError):
    """The supervisor cannot start."""

    exit_code: ClassVar[int] = 1


class SettingsRefused(Refused):
    """A setting is wrong."""

    exit_code = 2


class DataDirectoryBusy(Refused):
    """Another supervisor works in this data directory."""

    exit_code = 3


class LedgerRefused(Refused):
    """The ledger cannot be used."""

    exit_code = 4


class NotReplaced(Refused):
    """The supervisor was not replaced by a new one."""


class Problem(SupervisorError):
    """The call cannot be done."""

    status: ClassVar[int] = 400
    kind: ClassVar[str] = "problem"
    """The last part of the problem's `type`, for machines."""

    def __init__(
        self,
        detail: str = "",
        *,
        bot_id: int | None = None,
        retry_after_s: int | None = None,
        errors: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(detail)
        self.bot_id = bot_id
        self.retry_after_s = retry_after_s
        self.errors = tuple(errors)


class UnknownBot(Problem):
    """There is no such bot."""

    status = 404
    kind = "unknown-bot"


class UnknownRun(Problem):
    """There is no such run."""

    status = 404
    kind = "unknown-run"


class UnknownKind(Problem):
    """There is no such kind."""

    status = 422
    kind = "unknown-kind"


class KindGone(Problem):
    """The settings no longer have the kind of the bot."""

    status = 409
    kind = "kind-gone"


class BadParams(Problem):
    """The parameters do not fit the kind."""

    status = 422
    kind = "bad-params"


class NameTaken(Problem):
    """Another bot has this name."""

    status = 409
    kind = "name-taken"


class CredentialHeld(Problem):
    """Another bot runs with this credential."""

    status = 409
    kind = "credential-held"


class BudgetSpent(Problem):
    """The start budget is used up.

    `until`: when the next start is possible, in microseconds since the epoch, UTC.
    """

    status = 409
    kind = "budget-spent"

    def __init__(self, detail: str = "", *, until: int = 0, bot_id: int | None = None) -> None:
        super().__init__(detail, bot_id=bot_id)
        self.until = until


class NotReloaded(Problem):
    """Nothing was changed."""

    status = 422
    kind = "not-reloaded"


class NoProcess(Problem):
    """The bot has no process."""

    status = 409
    kind = "no-process"


class StillAlive(Problem):
    """The process would not die in time."""

    status = 504
    kind = "still-alive"


class SpawnFailed(Problem):
    """The process could not be made.

    `permanent`: trying again will not help before somebody changes something.
    """

    status = 503
    kind = "spawn-failed"

    def __init__(self, detail: str = "", *, permanent: bool = False, bot_id: int | None = None) -> None:
        super().__init__(detail, bot_id=bot_id, retry_after_s=None if permanent else 1)
        self.permanent = permanent


class Unavailable(Problem):
    """Not now."""

    status = 503
    kind = "unavailable"


class LedgerUnavailable(Unavailable):
    """The ledger cannot be written now."""

    kind = "ledger-unavailable"


class ShuttingDown(Unavailable):
    """The supervisor is shutting down."""

    kind = "shutting-down"

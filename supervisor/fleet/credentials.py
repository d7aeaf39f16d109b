"""What bots log in with: named by a template over their parameters, and held by one bot at a time where asked for."""

from __future__ import annotations

from supervisor.core import errors
from supervisor.core.model import Params


def name(template: str, params: Params) -> str:
    """The credential of a bot, such as "telegram:alice" of "telegram:{account}".

    Raises SpawnFailed where the template names what the parameters do not have: the kind is to be mended.
    """
    try:
        return template.format_map({parameter: str(value) for parameter, value in params.items()})
    except (LookupError, ValueError, AttributeError) as error:
        raise errors.SpawnFailed(
            f"cannot name the credential {template!r} of its kind: there is no parameter {error}", permanent=True
        ) from None


class Claims:
    """Which bot holds which exclusive credential: from before its start until nothing of it runs or will run."""

    def __init__(self) -> None:
        self._holders: dict[str, int | None] = {}

    def take(self, credential: str, bot_id: int | None) -> None:
        """Held by this bot from now on; `None` stands for one that is being made. Raises CredentialHeld."""
        holder = self._holders.get(credential, bot_id)
        if holder != bot_id or (holder is None and credential in self._holders):
            who = f"bot {holder}" if holder is not None else "a bot that is being made"
            raise errors.CredentialHeld(f"{credential} is held by {who}", bot_id=holder)
        self._holders[credential] = bot_id

    def give(self, credential: str, bot_id: int) -> None:
        """What a bot held that was being made is now this one's."""
        self._holders[credential] = bot_id

    def release(self, credential: str, bot_id: int | None) -> None:
        """Free again, if this bot held it."""
        if credential in self._holders and self._holders[credential] == bot_id:
            del self._holders[credential]

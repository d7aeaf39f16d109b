"""`bot-supervisor notify`: sends a test notice to each webhook of the settings, and says what each answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from supervisor import event_loop, settings
from supervisor.core import errors
from supervisor.core.model import now_us
from supervisor.notices import bodies
from supervisor.notices.notice import Notice, Occurrence
from supervisor.settings.webhooks import Topic, Webhook


def notify(config: str | None) -> int:
    """Print a line for each webhook; 0 if all took the notice, else 1. Raises SettingsRefused."""
    # Nobody listens, so no token is asked for.
    flags = {"trusted_network": True} if config is None else {"trusted_network": True, "config": config}
    webhooks = settings.read(flags).webhooks
    if not webhooks:
        raise errors.SettingsRefused("the settings have no [[webhooks]]; name their file with --config")
    with asyncio.Runner(loop_factory=event_loop.Loop) as runner:
        return 0 if runner.run(_all_told(webhooks)) else 1


async def _all_told(webhooks: Sequence[Webhook]) -> bool:
    # It takes 80 ms and 5 MB, and every start of the program comes by here.
    from supervisor.notices import sender

    sends = sender.Sender().send
    answers = await asyncio.gather(
        *(sends(webhook, bodies.encoded(webhook, _test_notice(webhook)), sender.new_id()) for webhook in webhooks)
    )
    for number, (webhook, answer) in enumerate(zip(webhooks, answers, strict=True), 1):
        print(f"webhook {number} ({webhook.host}, {webhook.format}): {'ok' if answer.ok else 'failed'}: {answer.told}")
    return all(answer.ok for answer in answers)


def _test_notice(webhook: Webhook) -> Notice:
    topic = min(webhook.on, key=list(Topic).index)
    occurrence = Occurrence(
        topics=(topic,),
        at=now_us(),
        bot_id=0,
        kind="test",
        name=None,
        labels={},
        run_id=None,
        cause=None,
        fingerprint=None,
        message="this is a test of bot-supervisor notify; nothing has happened",
        reason="this is a test",
    )
    notice = Notice(topic=topic, first=occurrence, due=0)
    notice.add(occurrence)
    return notice

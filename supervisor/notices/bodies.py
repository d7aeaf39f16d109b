"""What is sent, in the form that each receiver understands. Pure.

What bots say is shown as code: so nobody is pinged by it, and nothing in it becomes a link or changes how the rest
looks, whatever it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from supervisor import logs
from supervisor.core import model, timestamps
from supervisor.notices.notice import Notice
from supervisor.settings.webhooks import Format, Topic, Webhook

_NAMED = 3
_MAX_WORDS = 500
"""So that no message is too long for its receiver: Discord takes 2,000 characters, Telegram 4,096."""

_VERBS = {
    Topic.CRASHED: "crashed",
    Topic.FAILED: "failed",
    Topic.RECOVERED: "recovered",
    Topic.HEARTBEAT: "missed a heartbeat",
    Topic.LOST: "was lost",
    Topic.OOM: "ran out of memory",
}


@dataclass(frozen=True, slots=True)
class Words:
    """A part of a text that somebody else has written."""

    text: str


def encoded(webhook: Webhook, notice: Notice) -> bytes:
    """The body of the request, JSON."""
    match webhook.format:
        case Format.JSON:
            body = _json(notice)
        case Format.SLACK:
            body = {"text": slack(parts(notice)), "unfurl_links": False}
        case Format.DISCORD:
            # 4: no previews.
            body = {"content": discord(parts(notice)), "allowed_mentions": {"parse": []}, "flags": 4}
        case Format.TELEGRAM:
            body = {
                "chat_id": webhook.chat_id,
                **telegram(parts(notice)),
                "link_preview_options": {"is_disabled": True},
            }
    return json.dumps(body, separators=(",", ":")).encode()


def _json(notice: Notice) -> dict[str, Any]:
    first = notice.first
    bots = [
        {"bot_id": o.bot_id, "name": o.name, "reason": model.storable(o.reason), "run_id": o.run_id}
        for o in notice.shown.values()
    ]
    data = {
        "kind": first.kind,
        "cause": first.cause,
        "fingerprint": first.fingerprint,
        "message": model.storable(first.message),
        "count": notice.count,
        "first_at": timestamps.rfc3339(first.at),
        "last_at": timestamps.rfc3339(notice.last_at),
        "bot_count": len(notice.bot_ids),
        "bots": bots,
        "lost": notice.lost,
    }
    return {"type": f"bot.{notice.topic}", "timestamp": timestamps.rfc3339(notice.last_at), "data": data}


def parts(notice: Notice) -> Sequence[str | Words]:
    """The notice as a sentence for people."""
    first, bots, count = notice.first, len(notice.bot_ids), notice.count
    told: list[str | Words] = []
    if bots == 1:
        told.append(f"bot {first.bot_id} ")
        if first.name is not None:
            told += [Words(first.name), " "]
        told.append(f"of kind {first.kind} {_VERBS[notice.topic]}")
    else:
        verb = _VERBS[notice.topic].replace("was ", "were ")
        told.append(f"{bots} bots of kind {first.kind} {verb}")
    if count > bots:
        told.append(f", {count} times in all")
    if first.message:
        told += [": ", Words(first.message)]
    if bots > 1:
        named = list(notice.shown)[:_NAMED]
        rest = f" and {bots - len(named)} more" if bots > len(named) else ""
        told.append(f" (bots {', '.join(map(str, named))}{rest})")
    if notice.lost:
        told.append(f"; {notice.lost} earlier occurrences could not be told")
    return told


def plain(told: Sequence[str | Words]) -> str:
    """For a terminal or a log."""
    return "".join(part if isinstance(part, str) else _shown(part) for part in told)


def slack(told: Sequence[str | Words]) -> str:
    """In Slack's mrkdwn."""
    return _in_backticks(told).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def discord(told: Sequence[str | Words]) -> str:
    """In Discord's Markdown."""
    return _in_backticks(told)


def _in_backticks(told: Sequence[str | Words]) -> str:
    return "".join(part if isinstance(part, str) else f"`{_shown(part).replace('`', chr(39))}`" for part in told)


def telegram(told: Sequence[str | Words]) -> dict[str, Any]:
    """As plain text, with which part of it is code, in UTF-16 units."""
    written, entities = "", []
    for part in told:
        shown = part if isinstance(part, str) else _shown(part)
        if isinstance(part, Words):
            entities.append({"type": "code", "offset": _units(written), "length": _units(shown)})
        written += shown
    return {"text": written, "entities": entities}


def _units(words: str) -> int:
    return len(words.encode("utf-16-le")) // 2


def _shown(words: Words) -> str:
    """One line, not too long, and not empty, with nothing in it that cannot be seen."""
    safe = logs.safe(model.storable(words.text[:_MAX_WORDS]).encode()).decode().replace("\n", " ").strip()
    return f"{safe[: _MAX_WORDS - 1]}…" if len(safe) > _MAX_WORDS or len(words.text) > _MAX_WORDS else safe or "-"

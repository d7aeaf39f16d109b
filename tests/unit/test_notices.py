"""What is worth a notice, what is joined to one, and what each receiver is sent. No process, no clock."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import pytest

from supervisor import settings
from supervisor.core.model import Bot, Cause, Event, Goal, LastExit, RestartPolicy, State
from supervisor.notices import bodies, notice, sender
from supervisor.notices.health import Change, Health
from supervisor.notices.notice import Notices, Occurrence, topic_for
from supervisor.settings import webhooks
from supervisor.settings.webhooks import Topic, Webhook


def webhook(**fields: Any) -> Webhook:
    return Webhook.model_validate({"url": "https://example.org/secret", **fields})


def occurrence(bot_id: int = 1, **fields: Any) -> Occurrence:
    values: dict[str, Any] = {
        "topics": (Topic.CRASHED,),
        "at": 1_000_000,
        "bot_id": bot_id,
        "kind": "trader",
        "name": None,
        "labels": {},
        "run_id": bot_id + 100,
        "cause": "crashed",
        "fingerprint": "0b1d",
        "message": "ValueError: no such town",
        "reason": "crashed with exit code 1",
    }
    return Occurrence(**{**values, **fields})


def told(*occurrences: Occurrence, topic: Topic = Topic.CRASHED) -> notice.Notice:
    """The notice of these occurrences."""
    notices = Notices(group_s=0, again_s=0)
    for one in occurrences:
        notices.add(topic, one, 0)
    taken = notices.take(0)
    assert taken is not None
    return taken


# ---- what is worth a notice


class Life:
    """The events of one bot, one a second."""

    def __init__(self, *before: Bot) -> None:
        self.health = Health(before, recovered_after_s=10)
        self.now = 0.0
        self._last: LastExit | None = before[0].last_exit if before else None

    def goes_on(self, state: State, cause: Cause | None = None) -> Change | None:
        """The bot's next state; with a cause, a run of it has ended before."""
        self.now += 1
        if cause is not None:
            self._last = end(cause, int(self.now))
        event = Event(event_id=1, at=0, bot_id=1, run_id=None, state=state, goal=Goal.UP, reason="so it goes")
        return self.health.see(event, self._last, self.now)

    def topics(self, state: State, cause: Cause | None = None) -> tuple[Topic, ...]:
        change = self.goes_on(state, cause)
        return change.topics if change else ()


def end(cause: Cause, at: int) -> LastExit:
    return LastExit(exit_code=1, signal=None, cause=cause, at=at)


def bot(state: State, last_exit: LastExit | None) -> Bot:
    return Bot(
        bot_id=1, kind="trader", params={}, name=None, labels={}, restart=RestartPolicy(), grace_s=1, goal=Goal.UP,
        state=state, reason="", restarts=0, created_at=0, last_exit=last_exit,
    )  # fmt: skip


def test_each_end_is_told_once() -> None:
    life = Life()
    assert life.topics(State.STARTING) == ()
    assert life.topics(State.BACKOFF, Cause.CRASHED) == (Topic.CRASHED,)
    assert life.topics(State.STARTING) == ()
    assert life.topics(State.RUNNING) == ()
    assert life.topics(State.BACKOFF, Cause.OOM) == (Topic.OOM,)
    assert life.topics(State.STARTING) == ()
    assert life.topics(State.FAILED, Cause.HEARTBEAT) == (Topic.FAILED, Topic.HEARTBEAT)
    assert life.topics(State.STARTING) == ()
    assert life.topics(State.FAILED) == (Topic.FAILED,)


def test_what_was_asked_for_is_no_news() -> None:
    life = Life()
    assert life.topics(State.STARTING) == ()
    assert life.topics(State.STARTING, Cause.RESTARTED) == ()
    assert life.topics(State.EXITED, Cause.EXITED) == ()
    assert life.topics(State.STARTING) == ()
    assert life.topics(State.STOPPED, Cause.STOPPED) == ()


def test_what_an_earlier_supervisor_has_told() -> None:
    old = end(Cause.CRASHED, 0)
    assert Life(bot(State.RUNNING, old)).topics(State.RUNNING) == ()
    assert Life(bot(State.RUNNING, old)).topics(State.STARTING, Cause.LOST) == (Topic.LOST,)
    assert Life(bot(State.RUNNING, None)).topics(State.STARTING, Cause.LOST) == (Topic.LOST,)
    life = Life()
    life._last = old  # of a bot that had settled, and is started by hand
    assert life.topics(State.STARTING) == ()


def test_recovered_is_who_stays_up() -> None:
    life = Life(bot(State.BACKOFF, end(Cause.CRASHED, 0)))
    life.goes_on(State.RUNNING)
    assert life.health.due() == 11
    assert life.health.recovered(10.9) == []
    life.goes_on(State.BACKOFF, Cause.CRASHED)
    assert life.health.due() is None
    life.goes_on(State.STARTING)
    life.goes_on(State.RUNNING)
    [change] = life.health.recovered(life.now + 10)
    assert (change.topics, change.event.bot_id) == ((Topic.RECOVERED,), 1)
    life.goes_on(State.STARTING, Cause.RESTARTED)
    life.goes_on(State.RUNNING)
    assert life.health.due() is None


def test_a_scheduled_bot_recovers_by_a_run_that_ends_well() -> None:
    life = Life(bot(State.SCHEDULED, end(Cause.CRASHED, 0)))
    assert life.topics(State.STARTING) == ()
    assert life.topics(State.SCHEDULED, Cause.CRASHED) == (Topic.CRASHED,)
    life.goes_on(State.RUNNING)
    assert life.topics(State.SCHEDULED, Cause.EXITED) == (Topic.RECOVERED,)
    assert life.health.due() is None
    life.goes_on(State.RUNNING)
    assert life.health.due() is None
    assert life.topics(State.SCHEDULED, Cause.EXITED) == ()


def test_nobody_recovers_who_was_stopped() -> None:
    life = Life(bot(State.BACKOFF, end(Cause.CRASHED, 0)))
    life.goes_on(State.STOPPED)
    life.goes_on(State.STARTING)
    life.goes_on(State.RUNNING)
    assert life.health.due() is None


# ---- what is joined


def test_the_same_within_the_window_is_one_notice() -> None:
    notices = Notices(group_s=5, again_s=300)
    for bot_id in range(300):
        notices.add(Topic.CRASHED, occurrence(bot_id), bot_id / 100)
    notices.add(Topic.CRASHED, occurrence(7, fingerprint="another"), 4)
    assert notices.due() == 5
    assert notices.take(4.9) is None
    first = notices.take(5)
    assert first is not None
    assert (first.count, len(first.bot_ids), len(first.shown)) == (300, 300, notice.SHOWN)
    assert notices.take(5) is None
    assert notices.due() == 9


def test_a_loop_is_told_again_later_and_with_its_count() -> None:
    notices = Notices(group_s=5, again_s=300)
    notices.add(Topic.CRASHED, occurrence(1), 0)
    assert notices.take(5) is not None
    for second in range(6, 200):
        notices.add(Topic.CRASHED, occurrence(1), second)
    assert notices.due() == 305
    # Another bot is news.
    notices.add(Topic.CRASHED, occurrence(2), 200)
    assert notices.due() == 205
    again = notices.take(205)
    assert again is not None
    assert (again.count, again.bot_ids) == (195, {1, 2})
    notices.add(Topic.CRASHED, occurrence(1), 600)
    assert notices.due() == 605


def test_memory_is_bounded() -> None:
    notices = Notices(group_s=5, again_s=300)
    for number in range(notice.MAX_GROUPS + 10):
        notices.add(Topic.CRASHED, occurrence(fingerprint=str(number)), 0)
    assert (notices.lost, notices.waiting) == (10, notice.MAX_GROUPS)
    first = notices.take(5)
    assert first is not None
    assert (first.lost, notices.lost) == (10, 0)
    for bot_id in range(notice.MAX_TOLD + 10):
        notices.add(Topic.FAILED, occurrence(bot_id), 0)
    while notices.take(5):
        pass
    assert len(notices._told) == notice.MAX_TOLD


def test_who_wants_to_hear_of_it() -> None:
    both = occurrence(topics=(Topic.FAILED, Topic.OOM), labels={"team": "a", "tier": "1"})
    assert topic_for(webhook(), both) is Topic.FAILED
    assert topic_for(webhook(on=["oom", "lost"]), both) is Topic.OOM
    assert topic_for(webhook(on=["recovered"]), both) is None
    assert topic_for(webhook(kinds=["trader"], labels={"team": "a"}), both) is Topic.FAILED
    assert topic_for(webhook(labels={"team": "b"}), both) is None
    assert topic_for(webhook(kinds=["counter"]), both) is None


# ---- what is sent


def test_the_text() -> None:
    def text(*occurrences: Occurrence, topic: Topic = Topic.CRASHED) -> str:
        return bodies.plain(bodies.parts(told(*occurrences, topic=topic)))

    assert text(occurrence(7)) == "bot 7 of kind trader crashed: ValueError: no such town"
    assert text(occurrence(7, name="btc", message=""), topic=Topic.LOST) == "bot 7 btc of kind trader was lost"
    many = text(*(occurrence(bot_id) for bot_id in range(1, 301)))
    assert many == "300 bots of kind trader crashed: ValueError: no such town (bots 1, 2, 3 and 297 more)"
    assert text(*[occurrence(1)] * 4, occurrence(2), topic=Topic.OOM) == (
        "2 bots of kind trader ran out of memory, 5 times in all: ValueError: no such town (bots 1, 2)"
    )
    lost = told(occurrence(7))
    lost.lost = 3
    assert bodies.plain(bodies.parts(lost)).endswith("; 3 earlier occurrences could not be told")


def test_the_body_for_programs() -> None:
    body = json.loads(bodies.encoded(webhook(), told(occurrence(1, name="btc"), occurrence(2, message="\ud800"))))
    assert body == {
        "type": "bot.crashed",
        "timestamp": "1970-01-01T00:00:01.000000Z",
        "data": {
            "kind": "trader",
            "cause": "crashed",
            "fingerprint": "0b1d",
            "message": "ValueError: no such town",
            "count": 2,
            "first_at": "1970-01-01T00:00:01.000000Z",
            "last_at": "1970-01-01T00:00:01.000000Z",
            "bot_count": 2,
            "bots": [
                {"bot_id": 1, "name": "btc", "reason": "crashed with exit code 1", "run_id": 101},
                {"bot_id": 2, "name": None, "reason": "crashed with exit code 1", "run_id": 102},
            ],
            "lost": 0,
        },
    }


WILD = "@everyone <!channel> <@U1> `code` *bold* https://evil.example \x1b[2J\u202e \ud800\U0001f916 &amp; [a](b)"


def test_what_bots_say_pings_nobody_and_links_nowhere() -> None:
    wild = told(occurrence(1, name="`@here`", message=WILD))
    slack = json.loads(bodies.encoded(webhook(format="slack"), wild))
    assert "<" not in slack["text"]
    assert slack["text"].count("`") == 4  # around the name and around the message
    before, name, between, message, after = slack["text"].split("`")
    assert (before, between, after) == ("bot 1 ", " of kind trader crashed: ", "")
    assert name == "'@here'"
    assert "&lt;!channel&gt; " in message
    assert "&amp;amp;" in message

    discord = json.loads(bodies.encoded(webhook(format="discord"), wild))
    assert discord["allowed_mentions"] == {"parse": []}
    assert discord["content"].count("`") == 4
    assert "\\x1b[2J\\u202e" in discord["content"]

    telegram = json.loads(bodies.encoded(webhook(format="telegram", chat_id=-100), wild))
    assert telegram["chat_id"] == -100
    units = telegram["text"].encode("utf-16-le")
    codes = [
        units[2 * entity["offset"] : 2 * (entity["offset"] + entity["length"])].decode("utf-16-le")
        for entity in telegram["entities"]
    ]
    assert [code.split()[0] for code in codes] == ["`@here`", "@everyone"]
    assert telegram["text"].endswith(codes[1])
    assert {entity["type"] for entity in telegram["entities"]} == {"code"}


@pytest.mark.parametrize("letter", ["x", "\x1b", "\U0001f916", "&", "`", "\ud800"])
def test_no_text_is_too_long(letter: str) -> None:
    long = told(*(occurrence(10**15 + n, name=letter * 10_000, message=letter * 100_000) for n in range(30)))
    assert len(json.loads(bodies.encoded(webhook(format="discord"), long))["content"].encode("utf-16-le")) <= 2 * 2000
    telegram = json.loads(bodies.encoded(webhook(format="telegram", chat_id="@bots"), long))
    assert len(telegram["text"].encode("utf-16-le")) <= 2 * 4096


def test_the_signature() -> None:
    key = b"0123456789abcdef"
    for secret, used in (("whsec_" + base64.b64encode(key).decode(), key), ("a secret", b"a secret")):
        headers = sender.signed(webhook(secret=secret), b'{"a":1}', "msg_1")
        signed = f"msg_1.{headers['webhook-timestamp']}.".encode() + b'{"a":1}'
        expected = base64.b64encode(hmac.digest(used, signed, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
    assert set(sender.signed(webhook(), b"", "msg_1")) == {"webhook-id", "webhook-timestamp"}


# ---- settings


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "ftp://example.org"},
        {"url": "https://"},
        {"url": "https://example.org:99999/"},
        {"url": "https://example.org/ü"},
        {"url": "env:NO_SUCH_VARIABLE"},
        {"url": "file:/nowhere/at/all"},
        {"url": f"secret:{'0' * 32}"},
        {"on": []},
        {"on": ["ended"]},
        {"secret": ""},
        {"secret": "whsec_?"},
        {"format": "telegram"},
        {"format": "slack", "chat_id": "1"},
        {"group_s": -1},
        {"colour": "red"},
    ],
)
def test_webhooks_that_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        webhook(**fields)


def test_urls_and_secrets_by_reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("HOOK", "https://example.org:8443/from-the-environment")
    (tmp_path / "key").write_text("from a file\n")
    made = webhook(url="env:HOOK", secret=f"file:{tmp_path}/key")
    assert made.url.get_secret_value() == "https://example.org:8443/from-the-environment"
    assert (made.key, made.host) == (b"from a file", "example.org")
    assert "from" not in repr(made)
    assert set(webhooks.Topic) == made.on


# ---- docs/notices.md

DOCS = (Path(__file__).parents[2] / "docs" / "notices.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS, re.S)


def test_the_page_names_all_that_can_be_set() -> None:
    def named(heading: str) -> set[str]:
        table = DOCS.partition(heading)[2].partition("\n\n")[0]
        return {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"\w+", row)}

    assert named("| field | default |") == set(Webhook.model_fields)
    assert named("| `on` | when |") == set(Topic)


def test_the_examples_can_be_used(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    (tmp_path / "secret").write_text("https://discord.example/secret")
    config.write_text(re.sub(r"file:/etc/bots/[\w-]+", f"file:{tmp_path}/secret", "\n".join(reversed(blocks("toml")))))
    read = settings.read({"config": str(config)})
    assert [hook.format for hook in read.webhooks] == ["json", "telegram", "discord", "slack"]
    assert read.redis_url is not None


def test_a_body_is_as_the_page_says() -> None:
    [shown] = map(json.loads, blocks("json"))
    sent = json.loads(bodies.encoded(webhook(), told(occurrence())))
    assert [list(shown), list(shown["data"])] == [list(sent), list(sent["data"])]
    assert list(shown["data"]["bots"][0]) == list(sent["data"]["bots"][0])


def test_a_signature_is_verified_as_the_page_says() -> None:
    names: dict[str, Any] = {"Mapping": Mapping, "base64": base64, "hmac": hmac, "time": time}
    [code] = blocks("python")
    exec(code, names)
    headers = sender.signed(webhook(secret="key"), b"body", "msg_1")
    assert names["is_ours"](headers, b"body", b"key")
    assert not names["is_ours"](headers, b"another", b"key")
    assert not names["is_ours"]({**headers, "webhook-timestamp": "1"}, b"body", b"key")

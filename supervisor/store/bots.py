"""What the ledger does with bots, each in few statements, on the connection that it is given."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any

from peewee import SQL, IntegrityError, SqliteDatabase, fn

from supervisor.core import errors, model, terms
from supervisor.store import tables
from supervisor.store.tables import Bot, Json

_REMEMBERED = Bot.forgotten_at.is_null()


def insert(
    db: SqliteDatabase, new: model.NewBot, idempotency: model.Idempotency | None = None, number: int = 0
) -> model.Bot:
    """Make a bot, with a process wanted and none yet; of those with the same key that with this number, from 0 on.
    Raises `NameTaken`."""
    key = idempotency.key if idempotency else None
    bot = model.Bot(
        bot_id=0,
        kind=new.kind,
        params=new.params,
        name=new.name,
        labels=new.labels,
        restart=new.restart,
        grace_s=new.grace_s,
        limits=new.limits,
        schedule=new.schedule,
        overrides=new.overrides,
        unchecked=new.unchecked,
        goal=model.Goal.UP,
        state=model.State.STARTING,
        reason="asked to start",
        restarts=0,
        created_at=model.now_us(),
    )
    row = {
        "kind": bot.kind,
        "params": bot.params,
        "name": bot.name,
        "labels": bot.labels,
        "restart": dataclasses.asdict(bot.restart),
        "grace_s": bot.grace_s,
        "goal": bot.goal,
        "state": bot.state,
        "reason": bot.reason,
        "restarts": bot.restarts,
        "created_at": bot.created_at,
        "idempotency_key": f"{key} {number}" if key and number else key,
        "idempotency_digest": idempotency.digest if idempotency else None,
        "limits": dataclasses.asdict(bot.limits),
        "schedule": bot.schedule and dataclasses.asdict(bot.schedule),
        "overrides": bot.overrides,
        "unchecked": bot.unchecked,
    }
    try:
        bot_id = tables.insert(db, Bot, row)
    except IntegrityError as error:
        if "bot.name" not in str(error):
            raise
        raise errors.NameTaken(f"another bot has the name {new.name!r}") from error
    return dataclasses.replace(bot, bot_id=bot_id)


def count_restarts(db: SqliteDatabase, bot_id: int, restarts: int) -> None:
    tables.update(db, Bot, bot_id, {"restarts": restarts})


def set_terms(db: SqliteDatabase, bot: model.Bot) -> None:
    """Write what holds for a bot from now on."""
    row = {
        "restart": dataclasses.asdict(bot.restart),
        "grace_s": bot.grace_s,
        "limits": dataclasses.asdict(bot.limits),
        "schedule": bot.schedule and dataclasses.asdict(bot.schedule),
    }
    tables.update(db, Bot, bot.bot_id, row)


def set_params(db: SqliteDatabase, bot_id: int, params: model.Params) -> None:
    """The parameters have been checked. Runs that had those from before are shown with them too."""
    db.execute_sql(
        "UPDATE run SET params = ?2 WHERE bot_id = ?1 AND params = (SELECT params FROM bot WHERE bot_id = ?1)",
        (bot_id, Json.encode(params)),
    )
    tables.update(db, Bot, bot_id, {"params": params, "unchecked": False})


def set_overrides(db: SqliteDatabase, overrides: Mapping[int, model.Overrides]) -> None:
    for bot_id, own in overrides.items():
        tables.update(db, Bot, bot_id, {"overrides": own})


def without_overrides(db: SqliteDatabase) -> list[model.Bot]:
    """The bots of which an earlier version did not say which settings are their own."""
    return _values(db, _REMEMBERED & Bot.overrides.is_null())


def unchecked(db: SqliteDatabase) -> list[model.Bot]:
    """The bots whose parameters were not checked."""
    return _values(db, _REMEMBERED & (Bot.unchecked == 1))


def forget(db: SqliteDatabase, bot_id: int, at: int, *, free_key: bool) -> None:
    tables.update(db, Bot, bot_id, {"forgotten_at": at, **({"idempotency_key": None} if free_key else {})})


def get(db: SqliteDatabase, bot_id: int) -> model.Bot | None:
    return next(iter(_values(db, (Bot.bot_id == bot_id) & _REMEMBERED)), None)


def params_with_secrets(db: SqliteDatabase) -> list[model.Params]:
    # Not Peewee's `contains`: it writes what is looked for as JSON, in quotes, and so finds nothing.
    found = db.execute(Bot.select(Bot.params).where(_REMEMBERED & SQL("instr(params, 'secret:')")))
    return [json.loads(params) for (params,) in found]


def of_key(db: SqliteDatabase, idempotency: model.Idempotency) -> list[model.Bot]:
    """The bots that were made with the key. Raises `KeyReused` if that was with another request."""
    # A key has no space in it: all with one behind it are the others of the same call.
    others = Bot.idempotency_key.between(f"{idempotency.key} ", f"{idempotency.key} :")
    its = (Bot.idempotency_key == idempotency.key) | others
    found = sorted(_values(db, its), key=lambda bot: bot.bot_id)
    if found and idempotency.digest is not None:
        others = Bot.idempotency_digest != idempotency.digest
        if db.execute(Bot.select(Bot.bot_id).where(its & others).limit(1)).fetchone():
            made = f"bot {found[0].bot_id}" if len(found) == 1 else f"{len(found)} bots"
            raise errors.KeyReused(
                "cannot make what is asked for: the Idempotency-Key came with another request before, "
                f"which made {made}; take a new key for each request"
            )
    return found


def listed(db: SqliteDatabase, query: model.BotQuery, exclude: Collection[int]) -> list[model.Bot]:
    """The bots of a page, and one more if there is one more."""
    wanted = _REMEMBERED & Bot.state.in_(list(query.states)) & (Bot.bot_id > query.after)
    if query.bot_ids is not None:
        wanted &= _among(query.bot_ids)
    if query.kind is not None:
        wanted &= Bot.kind == query.kind
    if query.name is not None:
        wanted &= Bot.name == query.name
    for key, value in query.labels.items():
        # Not json_extract: its path has no way to write every key.
        label = "EXISTS (SELECT 1 FROM json_each(labels) AS label WHERE label.key = ? AND label.value = ?)"
        wanted &= SQL(label, (model.storable(key), model.storable(value)))
    return _values(db, wanted & ~_among(exclude), limit=query.limit + 1)


def count(
    db: SqliteDatabase, states: Collection[model.State], exclude: Collection[int]
) -> dict[tuple[str, model.State], int]:
    """How many bots of each kind are in each of these states, where there are any."""
    wanted = _REMEMBERED & Bot.state.in_(list(states)) & ~_among(exclude)
    rows = db.execute(Bot.select(Bot.kind, Bot.state, fn.COUNT(Bot.bot_id)).where(wanted).group_by(Bot.kind, Bot.state))
    return {(kind, model.State(state)): number for kind, state, number in rows}


def to_settle(db: SqliteDatabase) -> list[model.Bot]:
    """The bots that a start of the supervisor has to do something for: they are to run, or did when it ended."""
    return _values(db, _REMEMBERED & ((Bot.goal == model.Goal.UP) | Bot.state.in_(list(model.ACTIVE))))


def _among(bot_ids: Collection[int]) -> Any:
    # One value, because a statement cannot have as many as there may be bots.
    return SQL("bot_id IN (SELECT value FROM json_each(?))", (json.dumps(list(bot_ids)),))


def _values(db: SqliteDatabase, condition: Any, *, limit: int | None = None) -> list[model.Bot]:
    return [_value(row) for row in db.execute(Bot.select().where(condition).order_by(Bot.bot_id).limit(limit))]


def _value(row: tuple[Any, ...]) -> model.Bot:
    """The value of a row with all the columns of the table."""
    bot_id, kind, params, name, labels, restart, grace_s, goal, state, reason, restarts, created_at, *more = row
    last_exit, _, _, limits, schedule, overrides, _, unchecked = more
    end = None if last_exit is None else json.loads(last_exit)
    return model.Bot(
        bot_id=bot_id,
        kind=kind,
        params=json.loads(params),
        name=name,
        labels=json.loads(labels),
        restart=terms.policy(json.loads(restart), model.RestartPolicy()),
        grace_s=grace_s,
        goal=model.Goal(goal),
        state=model.State(state),
        reason=reason,
        restarts=restarts,
        created_at=created_at,
        last_exit=end and model.LastExit(**{**end, "cause": model.Cause(end["cause"])}),
        limits=terms.limits(json.loads(limits or "{}"), model.Limits()),
        schedule=None if schedule is None else terms.schedule(json.loads(schedule)),
        overrides=json.loads(overrides or "{}"),
        unchecked=bool(unchecked),
    )

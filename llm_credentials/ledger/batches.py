"""Writes any number of reservations and settlements in one transaction.

A batch costs little more than one write: each statement takes all rows at once, and a budget's counter is updated once
for all of a user's waiting calls.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from django.db import DatabaseError, InterfaceError, OperationalError

from llm_credentials.ledger import budgets, statements
from llm_credentials.ledger.budgets import Limit, e8
from llm_credentials.ledger.entries import LOST, Entry, Reservation, Settlement, State
from llm_credentials.ledger.statements import Column, Statement, Unlike
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.providers import RequestRejected
from llm_credentials.wall import open_for

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

ROWS_MAX = 200
"""Per batch: a statement takes a limited number of values."""
FULL_FOR_S = 5.0


@open_for("the ledger writes for all who wait")
def write(reservations: Sequence[Reservation], settlements: Sequence[Settlement], *, hopes: bool = True) -> int:
    """Write the batch durably and return how many rows were settled; each reservation's ``refusal`` is set.

    Settling a row that is already closed changes nothing. ``hopes``: assume that all rows are open and everything fits,
    which takes a single step. Raises DatabaseError; nothing is written then.
    """
    try:
        if hopes:
            return _write_as_hoped(reservations, settlements)
    except Unlike:
        pass
    try:
        return _write(reservations, settlements)
    except (OperationalError, InterfaceError):
        raise
    except (Unlike, DatabaseError, ValueError, TypeError):
        pass  # one of them is an exception: already settled, its user deleted, or text that the database cannot store
    settled = sum(_write_one((), (each,)) for each in settlements)
    for each in reservations:
        _write_one((each,), ())
    return settled


def _write_as_hoped(reservations: Sequence[Reservation], settlements: Sequence[Settlement]) -> int:
    """Write the batch in one step. Raises Unlike if a row is closed or a budget is full."""
    try:
        statements.write(lambda: hoped(reservations, settlements), lambda: _at_once(reservations, settlements))
    except (OperationalError, InterfaceError):
        raise
    except (DatabaseError, ValueError, TypeError):
        raise Unlike from None
    for each in reservations:
        each.refusal = None
    return len(settlements)


def hoped(reservations: Sequence[Reservation], settlements: Sequence[Settlement]) -> list[statements.Expected]:
    """The statements for a batch with all rows open and all calls admitted. Raises Unlike if that is unlikely."""
    moves = _moves(settlements)
    wishes = _wishes(reservations)
    rows = [each for each in settlements if each.reservation is not None]
    if _are_full(wishes):
        raise Unlike
    expected: list[statements.Expected] = [(_settle(rows), len(rows))] if rows else []
    expected += [(use, None) for use in _uses(settlements)]
    for counter_id in sorted(moves.keys() | wishes.keys()):
        if asked := wishes.get(counter_id):
            expected.append((budgets.take(counter_id, asked.limits, asked.worst_e8, moves.get(counter_id, 0)), 1))
        else:
            expected.append((budgets.move(counter_id, moves[counter_id]), None))
    if reservations:
        expected.append((_insert(reservations), None))
    return expected


@open_for("the ledger writes for all who wait")
def message(
    connection: Connection[Any], reservations: Sequence[Reservation], settlements: Sequence[Settlement]
) -> bytes:
    """The message with which PostgreSQL writes a batch of open rows and admitted calls in one trip. Raises Unlike."""
    try:
        return statements.message(connection, _at_once(reservations, settlements))
    except (ValueError, TypeError):
        raise Unlike from None


def _at_once(reservations: Sequence[Reservation], settlements: Sequence[Settlement]) -> Statement:
    """The same as one call of a PostgreSQL function, which keeps its plans: planning takes longer than executing."""
    moves, wishes = _moves(settlements), _wishes(reservations)
    if _are_full(wishes):
        raise Unlike
    moved: list[tuple[Any, ...]] = []
    for counter_id in sorted(moves.keys() | wishes.keys()):
        before_e8 = moves.get(counter_id, 0)
        if asked := wishes.get(counter_id):
            moved.append((counter_id, before_e8, asked.worst_e8, *budgets.bounds(asked.limits)))
        else:
            moved.append((counter_id, before_e8, None, None, None))
    used = [(model._meta.db_table, pk, count, at) for (pk, model), (count, at) in _used(settlements)]
    return _WRITE, [
        statements.objects(_SETTLED_NAMES, _settled_rows(each for each in settlements if each.reservation is not None)),
        statements.objects(_USED_NAMES, used),
        statements.objects(_MOVED_NAMES, moved),
        statements.objects(_INSERTED_NAMES, _inserted_rows(reservations)),
    ]


def _write(reservations: Sequence[Reservation], settlements: Sequence[Settlement]) -> int:
    """Write step by step, refusing calls that do not fit. Raises Unlike when a row cannot be settled."""
    moves, wishes = _moves(settlements), _wishes(reservations)
    rows = [each for each in settlements if each.reservation is not None]
    with statements.transaction() as execute:
        if rows and execute.run(_settle(rows)) != [len(rows)]:
            raise Unlike
        execute.run(*_uses(settlements))
        used: dict[str, int] = {}
        for counter_id in sorted(moves.keys() | wishes.keys()):
            if asked := wishes.get(counter_id):
                limit, entry = asked.newest
                used[counter_id] = budgets.use(execute, limit, entry.user_id, entry.at, moves.get(counter_id, 0))
            else:
                execute.run(budgets.move(counter_id, moves[counter_id]))
        before = dict(used)
        admitted = [each for each in reservations if _fits(each, used)]
        execute.run(*(budgets.move(name, used[name] - before[name]) for name in used if used[name] != before[name]))
        if admitted:
            execute.run(_insert(admitted))
    return len(settlements)


def _write_one(reservations: Sequence[Reservation], settlements: Sequence[Settlement]) -> int:
    try:
        return _write(reservations, settlements)
    except Unlike:
        return 0
    except (OperationalError, InterfaceError):
        raise
    except (DatabaseError, ValueError, TypeError) as problem:
        log.error("ledger_row_impossible", error=type(problem).__name__)
        for each in reservations:
            each.refusal = RequestRejected(
                "This call cannot be written down: its account is gone or a name is no text."
            )
        return 0


# Rows

_INSERTED: Sequence[Column] = (
    *(("id", "uuid"), ("call_id", "uuid"), ("user_id", "bigint"), ("task", "varchar"), ("provider", "varchar")),
    *(("model", "varchar"), ("credential_id", "uuid"), ("key_owner", "varchar"), ("token_id", "uuid")),
    *(
        ("state", "varchar"),
        ("input_tokens", "bigint"),
        ("reserved_usd", "numeric"),
        ("price_source", "varchar"),
        ("outcome", "varchar"),
    ),
    ("at", "timestamptz"),
)
_SETTLED: Sequence[Column] = (
    *(("id", "uuid"), ("state", "varchar"), ("input_tokens", "bigint"), ("output_tokens", "bigint")),
    *(("cache_read_tokens", "bigint"), ("cache_write_tokens", "bigint"), ("reasoning_tokens", "bigint")),
    *(("cost_usd", "numeric"), ("price_source", "varchar"), ("latency_ms", "integer"), ("ttft_ms", "integer")),
    ("outcome", "varchar"),
)
_USED: Sequence[Column] = (("table_name", "text"), ("id", "uuid"), ("count", "integer"), ("at", "timestamptz"))
_MOVED: Sequence[Column] = (
    *(("id", "varchar"), ("before", "bigint"), ("asked", "bigint"), ("newest", "bigint"), ("most", "bigint")),
)
_INSERTED_NAMES, _SETTLED_NAMES, _USED_NAMES, _MOVED_NAMES = (
    tuple(name for name, _ in columns) for columns in (_INSERTED, _SETTLED, _USED, _MOVED)
)
_WRITE = "SELECT keyswitch_ledger_write(%s::json, %s::json, %s::json, %s::json)"
"""A function created by a migration."""
_INSERT = f"INSERT INTO llm_usage_records ({', '.join(name for name, _ in _INSERTED)})"
_INSERT_EACH = f"{_INSERT} VALUES ({', '.join(f'?{number}' for number in range(1, len(_INSERTED) + 1))})"
_INSERT_TOGETHER = f"{_INSERT} SELECT * FROM {{}}"  # noqa: S608 (our own names)
_OPEN = f"(t.state = '{State.RESERVED}' OR (t.state = '{State.ESTIMATED}' AND t.outcome = '{LOST}'))"


def _update(value: str) -> str:
    changed = (f"{name} = {value}{number}" for number, (name, _) in enumerate(_SETTLED, start=1) if number > 1)
    return f"UPDATE llm_usage_records AS t SET {', '.join(changed)}"  # noqa: S608 (our own names)


_UPDATE_EACH = f"{_update('?')} WHERE t.id = ?1 AND {_OPEN}"
_UPDATE_TOGETHER = f"{_update('v.column')} FROM {{}} WHERE t.id = v.column1 AND {_OPEN}"


def _insert(reservations: Iterable[Reservation]) -> Statement:
    return statements.rows(_INSERTED, _inserted_rows(reservations), each=_INSERT_EACH, together=_INSERT_TOGETHER)


def _inserted_rows(reservations: Iterable[Reservation]) -> Iterator[tuple[Any, ...]]:
    for each in reservations:
        entry, worst = each.entry, each.worst
        of_whom = (entry.id, entry.call_id, entry.user_id, entry.task, entry.provider, entry.model)
        key = (entry.credential_id, entry.key_owner, entry.token_id)
        yield (*of_whom, *key, _RESERVED, each.prompt_tokens, worst.usd, worst.source, "", entry.at)


def _settle(settlements: Iterable[Settlement]) -> Statement:
    """Updates each row that is still open."""
    return statements.rows(_SETTLED, _settled_rows(settlements), each=_UPDATE_EACH, together=_UPDATE_TOGETHER)


def _settled_rows(settlements: Iterable[Settlement]) -> Iterator[tuple[Any, ...]]:
    for each in settlements:
        assert each.reservation is not None
        outcome, usage = each.outcome, each.outcome.usage
        tokens = (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens)
        came_to = (usage.reasoning_tokens, outcome.cost_usd, outcome.price.source)
        how = (outcome.latency_ms, outcome.ttft_ms, outcome.outcome)
        yield (each.reservation.entry.id, outcome.state.value, *tokens, *came_to, *how)


_RESERVED = State.RESERVED.value


def _uses(settlements: Iterable[Settlement]) -> Iterator[Statement]:
    """Statements that update the keys' usage counters."""
    for (pk, model), (count, at) in _used(settlements):
        yield _use_sql(model), [count, statements.value(at), statements.value(pk)]


def _used(settlements: Iterable[Settlement]) -> list[tuple[tuple[UUID, type[LLMCredential]], tuple[int, datetime]]]:
    """Each key, how often it was used and when last; in one global order, so that processes cannot deadlock."""
    uses: dict[tuple[UUID, type[LLMCredential]], tuple[int, datetime]] = {}
    for each in settlements:
        if each.key is not None:
            place = each.key[1], each.key[0]
            count, at = uses.get(place, (0, each.at))
            uses[place] = count + 1, max(at, each.at)
    return sorted(uses.items(), key=lambda use: (use[0][0], use[0][1]._meta.db_table))


@lru_cache(maxsize=8)
def _use_sql(model: type[LLMCredential]) -> str:
    table, pk = model._meta.db_table, model._meta.pk.column
    return f"UPDATE {table} SET request_count = request_count + %s, last_used_at = %s WHERE {pk} = %s"  # noqa: S608


# Budgets


def _moves(settlements: Iterable[Settlement]) -> dict[str, int]:
    """The change of each budget counter: what was spent less what was reserved."""
    moves: dict[str, int] = defaultdict(int)
    for each in settlements:
        if (reserved := each.reservation) is not None:
            moved_e8 = e8(each.outcome.cost_usd) - e8(reserved.worst.usd)
            for limit in reserved.limits:
                moves[limit.counter_id(reserved.entry.user_id, reserved.entry.at)] += moved_e8
    return moves


@dataclass(slots=True)
class _Wish:
    """What a batch asks of one budget."""

    limits: list[Limit]
    worst_e8: int
    newest: tuple[Limit, Entry]


def _wishes(reservations: Iterable[Reservation]) -> dict[str, _Wish]:
    wishes: dict[str, _Wish] = {}
    for each in reservations:
        for limit in each.limits:
            counter_id = limit.counter_id(each.entry.user_id, each.entry.at)
            wish = wishes.get(counter_id)
            if wish is None:
                wishes[counter_id] = _Wish([limit], e8(each.worst.usd), (limit, each.entry))
                continue
            wish.limits.append(limit)
            wish.worst_e8 += e8(each.worst.usd)
            if limit.set_micros > wish.newest[0].set_micros:
                wish.newest = limit, each.entry
    return wishes


def _fits(asked: Reservation, used: dict[str, int]) -> bool:
    """Whether all its budgets have room; if so, it is counted."""
    entry, worst_usd = asked.entry, asked.worst.usd
    counters = [(limit, limit.counter_id(entry.user_id, entry.at)) for limit in asked.limits]
    for limit, counter_id in counters:
        if refusal := limit.refusal(used[counter_id], worst_usd):
            asked.refusal = refusal
            _full[counter_id] = time.monotonic() + FULL_FOR_S
            return False
    for _, counter_id in counters:
        used[counter_id] += e8(worst_usd)
    return True


_full: dict[str, float] = {}
"""Counters that were full lately → when to try them again, on the monotonic clock."""


def _are_full(counter_ids: Iterable[str]) -> bool:
    """Whether to skip the one-step write: a failed one is done twice and leaves a line in the server's log."""
    if not _full:
        return False
    now = time.monotonic()
    for counter_id in [counter_id for counter_id, until in _full.items() if until <= now]:
        del _full[counter_id]
    return any(counter_id in _full for counter_id in counter_ids)

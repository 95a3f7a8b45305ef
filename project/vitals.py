"""State of the site's parts, for staff: database, Valkey, workers, scheduler, queues, and destinations or keys on
pause.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias, cast

import redis
from celery import current_app
from django.db import connection
from django.db.models import Count, Min, Q
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from agents.models import OPEN_RUN_STATES, AgentRun, RunState
from llm_credentials import canary, keyring
from llm_credentials.live import listener
from llm_credentials.models import ConnectionTest, UsageRecord
from llm_credentials.providers import label_of
from llm_credentials.routing import health as marks
from project import health

Meaning: TypeAlias = Literal["valid", "attention", "broken", "idle"]

DEEP: Final = 100
"""From this many waiting jobs on, a queue deserves attention."""
LEFT_OPEN_AFTER: Final = timedelta(minutes=5)
"""A ledger reservation older than this should have been swept."""
FAILED_WITHIN: Final = timedelta(days=1)
_PRIORITIES: Final = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""Suffixes that Celery's Redis transport appends to a queue's name for each priority."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of the site, as a line."""

    name: str
    meaning: Meaning
    status: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    name: str
    waiting: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    name: str
    seen: datetime
    alive: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Resting:
    """A destination or key that is not used for a while: it failed, or the provider asked to slow down."""

    title: str
    provider: str
    seconds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Server:
    """State read from Valkey, once."""

    took_ms: float
    version: str
    memory: str
    workers: tuple[Worker, ...]
    clock: datetime | None
    queues: tuple[Queue, ...]
    taken: int
    """Taken by a worker and not finished."""
    resting: Mapping[str, float]
    """Target → remaining seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vitals:
    at: datetime
    parts: tuple[Part, ...]
    queues: tuple[Queue, ...] = ()
    taken: int = 0
    workers: tuple[Worker, ...] = ()
    destinations: tuple[Resting, ...] = ()
    cooling_keys: int = 0
    """Keys of all owners that a provider asked to slow down."""
    failed_runs: int = 0
    """Failed runs within ``FAILED_WITHIN``."""
    valkey_answers: bool = True

    @property
    def troubles(self) -> list[Part]:
        return [part for part in self.parts if part.meaning in ("attention", "broken")]


def take(*, brief: bool = False) -> Vitals:
    """The current state. Waits at most ``health.PROBE_LIMIT_S`` for a Valkey that is away.

    ``brief``: without parts that are never a problem if a page can be shown at all.
    """
    server = _ask_server()
    runs, failed = _runs()
    whole = [] if brief else [_database()]
    parts = [*whole, _keys(), *_of_server(server), *([] if brief else [_listener(), _tests()]), runs, _reservations()]
    if server is None:
        return Vitals(at=timezone.now(), parts=tuple(parts), failed_runs=failed, valkey_answers=False)
    resting = sorted(server.resting.items(), key=lambda item: -item[1])
    destinations = [_resting(name, left) for name, left in resting if name[:3] == "to:"]
    return Vitals(
        at=timezone.now(),
        parts=tuple(parts),
        queues=server.queues,
        taken=server.taken,
        workers=server.workers,
        destinations=tuple(destinations),
        cooling_keys=len(resting) - len(destinations),
        failed_runs=failed,
    )


# State of Valkey, and what is stored in it


def _ask_server() -> _Server | None:
    names = sorted(current_app.amqp.queues)
    now = time.time()
    try:
        with health.valkey(decode_responses=True) as client, client.pipeline(transaction=False) as pipe:
            pipe.info()
            pipe.zrange(health.WORKERS, 0, -1, withscores=True)
            pipe.get(health.CLOCK)
            pipe.hlen("unacked")
            pipe.zrangebyscore(marks.RESTING, now, "+inf", withscores=True)
            for name in names:
                for priority in _PRIORITIES:
                    pipe.llen(name + priority)
            began = time.monotonic()
            info, workers, clock, taken, resting, *lengths = pipe.execute()
            took_ms = (time.monotonic() - began) * 1000
    except (redis.RedisError, OSError):
        return None
    step = len(_PRIORITIES)
    waiting = [sum(lengths[place * step : (place + 1) * step]) for place in range(len(names))]
    return _Server(
        took_ms=took_ms,
        version=str(info.get("valkey_version") or info.get("redis_version", "")),
        memory=str(info.get("used_memory_human", "")),
        workers=tuple(_worker(name, seen, now) for name, seen in sorted(workers)),
        clock=datetime.fromtimestamp(float(clock), UTC) if clock else None,
        queues=tuple(Queue(name=name, waiting=count) for name, count in zip(names, waiting, strict=True)),
        taken=taken,
        resting={name: until - now for name, until in resting},
    )


def _worker(name: str, seen: float, now: float) -> Worker:
    alive = now - seen < health.WORKER_SEEN_WITHIN_S
    return Worker(name=name, seen=datetime.fromtimestamp(seen, UTC), alive=alive)


def _of_server(server: _Server | None) -> list[Part]:
    if server is None:
        unknown = _("Not known while Valkey is away.")
        away = _("Pages and calls go on; jobs, key tests and live updates wait. Start it, or look at REDIS_URL.")
        return [
            Part(name="Valkey", meaning="broken", status=_("Does not answer"), detail=away),
            *(Part(name=name, meaning="idle", status=_("Unknown"), detail=unknown) for name in _behind_valkey()),
        ]
    answered = _("%(version)s, %(memory)s in use, answered in %(ms).1f ms")
    words = answered % {"version": server.version, "memory": server.memory, "ms": server.took_ms}
    return [
        Part(name="Valkey", meaning="valid", status=_("Answers"), detail=words),
        _workers(server),
        _clock(server),
        _queues(server),
    ]


def _behind_valkey() -> tuple[str, str, str]:
    return _("Workers"), _("Clock"), _("Queues")


def _workers(server: _Server) -> Part:
    name = _behind_valkey()[0]
    alive = sum(worker.alive for worker in server.workers)
    if alive:
        status = ngettext("%(count)d at work", "%(count)d at work", alive) % {"count": alive}
        return Part(name=name, meaning="valid", status=status)
    detail = _("Jobs and key tests wait until one is started: make run, or celery -A project worker.")
    return Part(name=name, meaning="broken", status=_("None seen"), detail=detail)


def _clock(server: _Server) -> Part:
    name = _behind_valkey()[1]
    if server.clock is None or timezone.now() - server.clock > timedelta(seconds=health.CLOCK_SEEN_WITHIN_S):
        detail = _("Nothing is swept, rolled up or watched until one worker is started with --beat.")
        return Part(name=name, meaning="broken", status=_("Has stopped"), detail=detail)
    return Part(name=name, meaning="valid", status=_("Ticks"))


def _queues(server: _Server) -> Part:
    waiting = sum(queue.waiting for queue in server.queues)
    counts = ngettext("%(count)d job waits", "%(count)d jobs wait", waiting) % {"count": waiting}
    deep = _("More come than the workers finish, or none works on them: start another worker.")
    meaning: Meaning = "attention" if waiting >= DEEP else "valid"
    return Part(name=_behind_valkey()[2], meaning=meaning, status=counts, detail=deep if waiting >= DEEP else "")


def _resting(target: str, seconds: float) -> Resting:
    """Describes ``to:<provider>|<address>``."""
    slug, _bar, address = target.removeprefix("to:").partition("|")
    title = f"{label_of(slug)} · {address}" if address else label_of(slug)
    return Resting(title=title, provider=slug, seconds=round(seconds))


# State of this process and the database


def _database() -> Part:
    name = _("Database")
    engine = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}.get(connection.vendor, connection.vendor)
    began = time.monotonic()
    state = health.database_state()
    took = {"engine": engine, "ms": (time.monotonic() - began) * 1000}
    if state == "ok":
        detail = _("%(engine)s, answered in %(ms).1f ms") % took
        return Part(name=name, meaning="valid", status=_("Answers"), detail=detail)
    return Part(name=name, meaning="broken", status=engine, detail=state)


def _keys() -> Part:
    name = _("Encryption keys")
    try:
        lost, ring = canary.examine(), keyring.ring()
    except keyring.KeyringError as error:
        return Part(name=name, meaning="broken", status=_("Not usable"), detail=f"{error} {error.hint}")
    if lost:
        detail = _("Not the keys that rows were sealed with: %(ids)s.") % {"ids": ", ".join(sorted(lost))}
        return Part(name=name, meaning="broken", status=_("Wrong"), detail=f"{detail} {canary.LOST_HINT}")
    old = len(ring.ids) - 1
    status = _("In order")
    if not old:
        return Part(name=name, meaning="valid", status=status)
    words = ngettext("%(count)d old key is still on the ring.", "%(count)d old keys are still on the ring.", old)
    return Part(name=name, meaning="valid", status=status, detail=words % {"count": old})


def _listener() -> Part:
    """Of the process that serves this request; others have their own."""
    name = _("Listener of this process")
    match listener.standing():
        case "listening":
            return Part(name=name, meaning="valid", status=_("Hears of changes"))
        case "asleep":
            detail = _("Nothing is remembered here just now, so there is nothing to hear of.")
            return Part(name=name, meaning="idle", status=_("Asleep"), detail=detail)
        case "behind":
            detail = _("Everything is read from the database until it can look again.")
            return Part(name=name, meaning="attention", status=_("Behind"), detail=detail)


def _runs() -> tuple[Part, int]:
    """With the number of recently failed runs."""
    lately = Q(state=RunState.FAILED, heartbeat_at__gte=timezone.now() - FAILED_WITHIN)
    found = AgentRun.objects.filter(Q(state__in=OPEN_RUN_STATES) | lately).values("state").order_by("state")
    rows = {row["state"]: row for row in found.annotate(rows=Count("pk"), oldest=Min("created_at"))}
    counts = {state: rows[state]["rows"] if state in rows else 0 for state in (*OPEN_RUN_STATES, RunState.FAILED)}
    status = _("%(running)d running, %(queued)d waiting") % {
        "running": counts[RunState.RUNNING],
        "queued": counts[RunState.QUEUED],
    }
    oldest = rows[RunState.QUEUED]["oldest"] if RunState.QUEUED in rows else None
    late = oldest is not None and timezone.now() - cast("datetime", oldest) > LEFT_OPEN_AFTER
    detail = _("The oldest has waited for more than five minutes.") if late else ""
    part = Part(name=_("Agent runs"), meaning="attention" if late else "valid", status=status, detail=detail)
    return part, counts[RunState.FAILED]


def _tests() -> Part:
    waiting = ConnectionTest.objects.unfinished().count()
    status = ngettext("%(count)d under way", "%(count)d under way", waiting) % {"count": waiting}
    return Part(name=_("Key tests"), meaning="valid", status=status)


def _reservations() -> Part:
    left = UsageRecord.objects.reserved().filter(at__lt=timezone.now() - LEFT_OPEN_AFTER).count()
    if not left:
        return Part(name=_("Ledger"), meaning="valid", status=_("Closed up to now"))
    status = ngettext("%(count)d entry left open", "%(count)d entries left open", left) % {"count": left}
    detail = _("They count at their worst case until the sweep closes them; manage.py ledger_sweep does it at once.")
    return Part(name=_("Ledger"), meaning="attention", status=status, detail=detail)

"""Watches the answers that this process is writing, and ends those that were stopped.

A watch ends its work when the user asks for it, when the user may no longer see it (signed out, password changed,
account deactivated: ``llm_credentials.live.calls`` tells it), or when the row belongs to another process. The request
may reach any process: it is noted in the row, which is looked at every second, and published through Valkey, which
makes it immediate. Watched rows get their heartbeats here.

Each event loop has its own watchers; they look at all their rows at once, so a process asks the database as often for
one answer as for five hundred.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from django.conf import settings
from django.db import close_old_connections
from django.utils import timezone

from agents.models import HEARTBEAT_S, AgentRun, RunState, StoredMessage
from agents.models import MessageState as State
from llm_credentials.live import access
from llm_credentials.live.calls import Call, under_way
from llm_credentials.models import PersonalAccessToken
from llm_credentials.wall import open_for

logger = logging.getLogger(__name__)
T = TypeVar("T")

Reason: TypeAlias = access.Reason | Literal["asked", "lost"]
"""What the work rested on is gone; the user asked; the row belongs to somebody else now, or to nobody."""

POLL_S = 1.0
RECONNECT_S = 3.0
CHANNEL = "keyswitch:agents:stop"


class Interrupted(Exception):
    """The watched work was asked to end."""

    def __init__(self, withdrawn: str = "") -> None:
        super().__init__(withdrawn)
        self.withdrawn = withdrawn
        """In words, what the work rested on and is gone; empty if it ends for another reason."""


@dataclass(eq=False, kw_only=True)
class Watch:
    model: type[StoredMessage] | type[AgentRun]
    id: UUID
    claim: UUID
    user_id: int
    session_key: str | None = None
    """Of the browser that reads along; None for work that goes on without one."""
    token_id: UUID | None = None
    """Of the access token with which a program asked for it."""
    reason: Reason | None = None
    _scope: asyncio.Timeout | None = field(default=None, repr=False)

    async def next(self, events: AsyncGenerator[T, None]) -> T:
        """The next event. Raises StopAsyncIteration at their end, Interrupted as soon as the work is to end."""
        if self.reason is not None:
            raise self._interrupted()
        try:
            async with asyncio.timeout(None) as self._scope:
                return await anext(events)
        except TimeoutError:
            if self.reason is None:
                raise
            raise self._interrupted() from None
        finally:
            self._scope = None

    def _interrupted(self) -> Interrupted:
        match self.reason:
            case None | "asked" | "lost":
                return Interrupted()
            case _:
                return Interrupted(access.WORDS[self.reason])

    def end(self, reason: Reason) -> None:
        """On the watch's own loop."""
        if self.reason is None:
            self.reason = reason
            if self._scope is not None:
                self._scope.reschedule(0)


def usable_token(token_id: UUID | None, user_id: int) -> PersonalAccessToken | None:
    """The token on which the work rests; None where it rests on none. Raises Interrupted if it is gone."""
    if token_id is None:
        return None
    token = PersonalAccessToken.objects.usable().filter(pk=token_id, user_id=user_id).first()
    if token is None:
        raise Interrupted(access.WORDS["token"])
    return token


@asynccontextmanager
async def watching(watch: Watch) -> AsyncIterator[Watch]:
    watchers = _of_this_loop()
    watchers.add(watch)
    try:
        with under_way(
            Call(access.Right(watch.user_id, token_id=watch.token_id, session_key=watch.session_key), watch.end)
        ):
            yield watch
    finally:
        watchers.remove(watch)


def announce_stop(row_id: UUID) -> None:
    """Tell every process that this row's work is to end; its row already says so. Never raises."""
    with _lock:
        everywhere = list(_watchers.items())
    for loop, watchers in everywhere:
        with suppress(RuntimeError):  # a loop that has ended watches nothing
            loop.call_soon_threadsafe(watchers.end, row_id, "asked")
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=0.5, socket_timeout=0.5) as client:
            client.publish(CHANNEL, str(row_id))
    except (redis.RedisError, OSError):
        logger.warning("a stop could not be published; other processes will see it in the database")


class _Watchers:
    """The watches of one event loop, with the two tasks that look after them while there are any."""

    def __init__(self) -> None:
        self.watches: dict[UUID, Watch] = {}
        self.tasks: list[asyncio.Task[None]] = []

    def add(self, watch: Watch) -> None:
        self.watches[watch.id] = watch
        if not self.tasks:
            # Of no request: these outlive the one that happens to start them.
            context = contextvars.Context()
            self.tasks = [
                asyncio.create_task(self._poll(), context=context),
                asyncio.create_task(self._listen(), context=context),
            ]
            for task in self.tasks:
                _ending.add(task)
                task.add_done_callback(_ending.discard)

    def remove(self, watch: Watch) -> None:
        if self.watches.get(watch.id) is watch:
            del self.watches[watch.id]
        if not self.watches:
            for task in self.tasks:
                task.cancel()
            self.tasks = []

    def end(self, row_id: UUID, reason: Reason) -> None:
        if watch := self.watches.get(row_id):
            watch.end(reason)

    async def _poll(self) -> None:
        beat_in = HEARTBEAT_S
        while True:
            await asyncio.sleep(POLL_S)
            beat_in -= POLL_S
            try:
                ended = await asyncio.to_thread(_look, list(self.watches.values()), beat=beat_in <= 0)
            except Exception:
                logger.exception("the rows that are being written could not be looked at")
                continue
            if beat_in <= 0:
                beat_in = HEARTBEAT_S
            for row_id, reason in ended.items():
                self.end(row_id, reason)

    async def _listen(self) -> None:
        # The client's own code may swallow a cancellation, so this does not rely on being cancelled.
        while self._is_current():
            with suppress(redis.RedisError, OSError):
                async with (
                    redis.asyncio.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=2) as client,
                    client.pubsub(ignore_subscribe_messages=True) as pubsub,
                ):
                    await pubsub.subscribe(CHANNEL)
                    while self._is_current():
                        if message := await pubsub.get_message(timeout=POLL_S):
                            self._heard(message["data"])
            if self._is_current():
                await asyncio.sleep(RECONNECT_S)

    def _is_current(self) -> bool:
        return asyncio.current_task() in self.tasks

    def _heard(self, data: bytes) -> None:
        with suppress(ValueError):
            self.end(UUID(data.decode("ascii", "replace")), "asked")


_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Watchers] = WeakKeyDictionary()
_lock = threading.Lock()
_ending: set[asyncio.Task[None]] = set()
"""Cancelled tasks close their connections after nobody else knows them; loops hold tasks weakly."""


def _of_this_loop() -> _Watchers:
    loop = asyncio.get_running_loop()
    with _lock:
        return _watchers.setdefault(loop, _Watchers())


def _look(watches: list[Watch], *, beat: bool) -> dict[UUID, Reason]:
    """Which watches are to end, and why. On a thread of its own."""
    close_old_connections()
    try:
        with open_for("looking at all rows that are being written"):
            return _looked(watches, beat=beat)
    finally:
        close_old_connections()


def _looked(watches: list[Watch], *, beat: bool) -> dict[UUID, Reason]:
    ended: dict[UUID, Reason] = {}
    for model in (StoredMessage, AgentRun):
        ended |= _look_at_rows(model, [watch for watch in watches if watch.model is model], beat=beat)
    return ended


def _look_at_rows(model: type[Any], watches: list[Watch], *, beat: bool) -> dict[UUID, Reason]:
    if not watches:
        return {}
    wish = "stop_requested_at" if model is StoredMessage else "cancel_requested_at"
    busy = State.STREAMING if model is StoredMessage else RunState.RUNNING
    rows = model.objects.filter(pk__in=[watch.id for watch in watches])
    if beat:
        rows.filter(state=busy).update(heartbeat_at=timezone.now())
    found = {pk: (claim, state, wished) for pk, claim, state, wished in rows.values_list("pk", "claim", "state", wish)}
    ended: dict[UUID, Reason] = {}
    for watch in watches:
        claim, state, wished = found.get(watch.id, (None, None, None))
        if claim != watch.claim or state != busy:
            ended[watch.id] = "lost"
        elif wished is not None:
            ended[watch.id] = "asked"
    return ended

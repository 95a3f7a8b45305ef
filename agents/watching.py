"""Watches the answers that this process is writing, and ends those that were stopped.

A watch ends its work when the user asks for it, when the user may no longer see it (signed out, password changed,
account deactivated: reported by ``llm_credentials.live.calls``), or when the row belongs to another process. The stop
request may reach any process: it is stored in the row, which is polled every second, and published through Valkey,
which makes it immediate. Watches also send the heartbeats of their rows.

Each event loop has its own watchers. They check all their rows at once, so a process makes as many database queries for
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
"""Access was withdrawn; the user asked; the row now belongs to another process, or to none."""

POLL_S = 1.0
RECONNECT_S = 3.0
CHANNEL = "keyswitch:agents:stop"


class Interrupted(Exception):
    """The watched work was asked to end."""

    def __init__(self, withdrawn: str = "") -> None:
        super().__init__(withdrawn)
        self.withdrawn = withdrawn
        """Explains which access was withdrawn; empty if the work ends for another reason."""


@dataclass(eq=False, kw_only=True)
class Watch:
    model: type[StoredMessage] | type[AgentRun]
    id: UUID
    claim: UUID
    user_id: int
    session_key: str | None = None
    """Session of the browser that reads the stream; None for background work."""
    token_id: UUID | None = None
    """Of the access token that requested it."""
    reason: Reason | None = None
    _scope: asyncio.Timeout | None = field(default=None, repr=False)

    async def next(self, events: AsyncGenerator[T, None]) -> T:
        """The next event. Raises StopAsyncIteration at the end, Interrupted as soon as the work has to end."""
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
        """Call it on the watch's own loop."""
        if self.reason is None:
            self.reason = reason
            if self._scope is not None:
                self._scope.reschedule(0)


def usable_token(token_id: UUID | None, user_id: int) -> PersonalAccessToken | None:
    """The token that the work depends on; None if it depends on none. Raises Interrupted if it is gone."""
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
    """Tell every process that this row's work has to end; the row must already say so. Never raises."""
    with _lock:
        everywhere = list(_watchers.items())
    for loop, watchers in everywhere:
        with suppress(RuntimeError):  # the event loop is closed, and its watches with it
            loop.call_soon_threadsafe(watchers.end, row_id, "asked")
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=0.5, socket_timeout=0.5) as client:
            client.publish(CHANNEL, str(row_id))
    except (redis.RedisError, OSError):
        logger.warning("a stop could not be published; other processes will see it in the database")


class _Watchers:
    """The watches of one event loop, with two tasks that serve them while there are any."""

    def __init__(self) -> None:
        self.watches: dict[UUID, Watch] = {}
        self.tasks: list[asyncio.Task[None]] = []

    def add(self, watch: Watch) -> None:
        self.watches[watch.id] = watch
        if not self.tasks:
            # Outside any request's context: these tasks outlive the request that starts them.
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
        # The Valkey client may swallow a cancellation, so this does not rely on being cancelled.
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
"""Cancelled tasks that still close their connections; event loops hold tasks only weakly."""


def _of_this_loop() -> _Watchers:
    loop = asyncio.get_running_loop()
    with _lock:
        return _watchers.setdefault(loop, _Watchers())


def _look(watches: list[Watch], *, beat: bool) -> dict[UUID, Reason]:
    """Which watches have to end, and why. Runs in a thread."""
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

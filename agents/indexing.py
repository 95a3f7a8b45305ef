"""Background work of semantic search: embeds new messages and rebuilds an index.

A task ends when its time is up and is queued again. Vectors already made are kept, so the next task continues from
there, also after a worker was killed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from uuid import UUID

from asgiref.sync import async_to_sync
from celery import shared_task
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone
from kombu.exceptions import OperationalError

from agents import semantic_search
from agents.semantic_search import Near
from agents.vectors import TextVector
from llm_credentials import bridge, limits
from llm_credentials.embeddings import index_in_use, put_in_use
from llm_credentials.limits import LimitReached
from llm_credentials.models import EmbeddingIndex
from llm_credentials.providers import LLMError
from llm_credentials.wall import acting_for, open_for

if TYPE_CHECKING:
    from agents.models import StoredMessage

WORK_S: Final = 300.0
"""Then other tasks get their turn."""
SLICE_S: Final = 20.0
"""Between two heartbeats."""
AGAIN_AFTER_S: Final = 20
"""Minimum interval between two updates for one user's searches."""
DELETED_AT_ONCE: Final = 5_000
logger = logging.getLogger(__name__)


def begin(index: EmbeddingIndex) -> None:
    """Without a queue, the scheduler begins it."""
    with suppress(OperationalError, OSError):
        remake_index.apply_async(args=(str(index.pk),), retry=False)


def read_soon(user: User, index: EmbeddingIndex) -> None:
    """Have a worker embed this user's new messages; called when they search."""
    is_first = cache.add(f"reading-conversations:{user.pk}", 1, AGAIN_AFTER_S)
    if not is_first or not semantic_search.unread(user, index).exists():
        return
    with suppress(OperationalError, OSError):  # the next search tries again
        read_conversations.apply_async(args=(user.pk,), retry=False)


def found_near(user: User, query: str) -> list[Near]:
    """The user's conversations closest in meaning, best first; empty if that cannot be determined now."""
    index = index_in_use() if query else None
    if index is None:
        return []
    read_soon(user, index)
    try:
        limits.admit("chat", user)
        return async_to_sync(semantic_search.near)(user, query, index=index)
    except (LLMError, LimitReached, TimeoutError):
        return []


@shared_task(name="agents.read_conversations")
def read_conversations(user_id: int) -> None:
    """Embed messages of one user that have no vectors yet. Idempotent, also when run concurrently."""
    index = index_in_use()
    user = User.objects.filter(pk=user_id, is_active=True).first()
    if index is None or user is None:
        return
    with acting_for(user_id):
        if not _read(user, index, semantic_search.unread(user, index), WORK_S):
            read_conversations.apply_async(args=(user_id,), retry=False)


def _read(user: User, index: EmbeddingIndex, only: QuerySet[StoredMessage], seconds: float) -> bool:
    """Whether nothing is left to do; also true if no provider may be asked on this user's behalf."""

    async def work() -> bool:
        return await semantic_search.read_all(user, index, asyncio.get_running_loop().time() + seconds, only=only)

    try:
        return bridge.run(work)
    except LLMError as error:
        logger.info("conversations were not made searchable by meaning: %s", type(error).__name__)
        return True


@shared_task(name="agents.remake_index")
def remake_index(index_id: str) -> None:
    """Embed everything from the index in use into the new index, then switch to it."""
    index = EmbeddingIndex.objects.filter(pk=UUID(index_id), state=EmbeddingIndex.State.BUILDING).first()
    old = EmbeddingIndex.objects.filter(state=EmbeddingIndex.State.ACTIVE).first()
    if index is None or old is None or not index.claim():
        return
    with open_for("finding whose conversations have vectors"):
        said = TextVector.objects.filter(index=old, message__isnull=False)
        users = list(User.objects.filter(pk__in=said.values("user_id")).order_by("pk"))
    until = time.monotonic() + WORK_S
    for user in users:
        with acting_for(user.pk):
            while not _read(user, index, _left(user, old, index), SLICE_S):
                if not _alive(index) or time.monotonic() >= until:
                    _hand_on(index)
                    return
        if not _alive(index):
            return
    put_in_use(index)
    _remove_retired()


def _left(user: User, old: EmbeddingIndex, index: EmbeddingIndex) -> QuerySet[StoredMessage]:
    known = TextVector.objects.filter(index=old, message=OuterRef("pk"))
    return semantic_search.unread(user, index).filter(Exists(known))


def _alive(index: EmbeddingIndex) -> bool:
    """Send a heartbeat; returns whether the index is still wanted."""
    rows = EmbeddingIndex.objects.filter(pk=index.pk, state=EmbeddingIndex.State.BUILDING)
    return bool(rows.update(heartbeat_at=timezone.now()))


def _hand_on(index: EmbeddingIndex) -> None:
    if EmbeddingIndex.objects.filter(pk=index.pk).update(heartbeat_at=None):
        begin(index)


def _remove_retired() -> None:
    """Vectors of files are not rebuilt: a file gets new ones when it is next asked about."""
    for index in EmbeddingIndex.objects.filter(state=EmbeddingIndex.State.RETIRED):
        with open_for("removing the vectors of an index that was replaced"):
            rows = TextVector.objects.filter(index=index)
            while some := list(rows.values_list("pk", flat=True)[:DELETED_AT_ONCE]):
                TextVector.objects.filter(pk__in=some).delete()
            index.delete()


@shared_task(name="agents.tend_index")
def tend_index() -> None:
    """Periodic task: continue an index whose worker died, and remove leftovers of old indexes."""
    for index in EmbeddingIndex.objects.filter(state=EmbeddingIndex.State.BUILDING):
        begin(index)
    if EmbeddingIndex.objects.filter(state=EmbeddingIndex.State.RETIRED).exists():
        _remove_retired()

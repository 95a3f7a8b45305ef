"""Searches conversations by meaning, in addition to the search for words.

Only users who search get vectors: their messages are embedded in the background after their first search, and new ones
after later searches. For anybody else nothing is sent or spent. Without embeddings in the site's settings, or without a
key that both the user and staff allow for it, search uses words alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from agents.database import in_database
from agents.models import OPEN_MESSAGE_STATES, Conversation, StoredMessage
from agents.text_search import AROUND_CHARS, Snippet, words_of
from agents.vectors import TextVector, nearest, pieces_of, rows_for
from llm_credentials.embeddings import embed_texts
from llm_credentials.models import EmbeddingIndex
from llm_credentials.providers import RequestRejected

if TYPE_CHECKING:
    from django.contrib.auth.models import User

MOST: Final = 5
"""Conversations shown in addition to those found by words."""
LEAST_SCORE: Final = 0.2
NEAR_THE_BEST: Final = 0.5
"""A score far below the best one means little, whatever the model."""
WAIT_S: Final = 4.0
MESSAGES_AT_ONCE: Final = 32
NOTHING: Final = "-"
MESSAGE_PIECES: Final = 8
"""Per message: its beginning says what it is about."""


@dataclass(frozen=True, slots=True)
class Near:
    conversation: Conversation
    snippet: Snippet


async def near(user: User, query: str, *, index: EmbeddingIndex) -> list[Near]:
    """The user's conversations closest in meaning. Raises LLMError, TimeoutError."""
    words = " ".join(words_of(query))
    vectors = TextVector.objects.for_user(user).filter(index=index, message__isnull=False)
    if not words or not await in_database(vectors.exists):
        return []
    async with asyncio.timeout(WAIT_S):
        (asked,) = await embed_texts(user, [words], index=index)
    return await in_database(_found, user, vectors, asked)


def _found(user: User, vectors: QuerySet[TextVector], asked: bytes) -> list[Near]:
    hits = nearest(vectors, asked, most=10 * MOST)
    least = max(LEAST_SCORE, NEAR_THE_BEST * hits[0].score) if hits else 0.0
    wanted = {hit.message_id: hit for hit in reversed(hits) if hit.score >= least and hit.message_id}
    messages = StoredMessage.objects.for_user(user).filter(pk__in=wanted).select_related("conversation")
    best: dict[UUID, Near] = {}
    for message in sorted(messages, key=lambda row: -wanted[row.pk].score):
        if message.conversation_id not in best:
            piece = _piece(message, wanted[message.pk].piece)
            best[message.conversation_id] = Near(message.conversation, Snippet(piece, "", ""))
    return [*best.values()]


def _piece(message: StoredMessage, number: int) -> str:
    pieces = pieces_of(message.text)
    words = " ".join(pieces[number].split()) if number < len(pieces) else ""
    return words if len(words) <= 2 * AROUND_CHARS else f"{words[: 2 * AROUND_CHARS]}…"


# Embedding


def unread(user: User, index: EmbeddingIndex) -> QuerySet[StoredMessage]:
    """Messages of the user's conversations without vectors in this index, newest first."""
    made = TextVector.objects.filter(index=index, message=OuterRef("pk"))
    said = StoredMessage.objects.for_user(user).exclude(state__in=OPEN_MESSAGE_STATES).exclude(search_text="")
    return said.filter(~Exists(made), role__in=("user", "assistant")).order_by("-created_at")


async def read_messages(user: User, messages: Sequence[StoredMessage], index: EmbeddingIndex) -> int:
    """Embed the messages; returns how many got vectors. Raises LLMError."""
    texts = {message.pk: pieces_of(message.text)[:MESSAGE_PIECES] or [NOTHING] for message in messages}
    packed = await _embedded(user, list(texts.values()), index)
    rows: list[TextVector] = []
    taken = 0
    for message_id, pieces in texts.items():
        rows += rows_for(user.pk, index, packed[taken : taken + len(pieces)], message_id=message_id)
        taken += len(pieces)
    return await in_database(_keep, rows)


async def _embedded(user: User, texts: Sequence[list[str]], index: EmbeddingIndex) -> list[bytes]:
    """A refused text, for example one with a key in it, gets the vector of ``NOTHING``, so that it does not block the
    others.
    """
    try:
        return await embed_texts(user, [piece for pieces in texts for piece in pieces], index=index)
    except RequestRejected:
        if len(texts) == 1:
            return await embed_texts(user, [NOTHING for _piece in texts[0]], index=index)
    return [packed for pieces in texts for packed in await _embedded(user, [pieces], index)]


def _keep(rows: list[TextVector]) -> int:
    """Only for messages that still exist; another worker may have stored the same vectors first."""
    with transaction.atomic():
        wanted = {row.message_id for row in rows if row.message_id}
        there = StoredMessage.objects.filter(pk__in=wanted).select_for_update()
        alive = set(there.values_list("pk", flat=True))
        TextVector.objects.bulk_create([row for row in rows if row.message_id in alive], ignore_conflicts=True)
    return len(alive)


async def read_all(user: User, index: EmbeddingIndex, until: float, *, only: QuerySet[StoredMessage]) -> bool:
    """Embed the messages of ``only`` that lack vectors, until ``until`` on the loop's clock. Returns whether all are
    done.

    Raises LLMError. Vectors already made are kept, so the work can continue at any time.
    """
    while True:
        messages = await in_database(list, only[:MESSAGES_AT_ONCE])
        if not messages:
            return True
        if asyncio.get_running_loop().time() >= until:
            return False
        if not await read_messages(user, messages, index):
            return True  # all were deleted meanwhile

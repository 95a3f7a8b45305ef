"""Embedding vectors of user texts: of messages for search, of long files for questions about them.

``pieces_of`` must always split a text in the same way, because a piece is identified by its number alone. Nearest
neighbours are found in two passes without a library: first the sign bits of all vectors of one user are compared, then
the best few vectors exactly. This takes 0.08 s of CPU for 20,000 pieces of 1,536 numbers (each 8 KB on disk). For users
with more than MAX_COMPARED only the newest are searched; beyond that a vector index in the database is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from operator import mul
from typing import TYPE_CHECKING, Final, Self
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.db import models

from llm_credentials.embeddings import Holder, holds, unpack
from llm_credentials.models import EmbeddingIndex
from llm_credentials.wall import open_for

if TYPE_CHECKING:
    from django.contrib.auth.models import User

PIECE_CHARS: Final = 1_600
OVERLAP_CHARS: Final = 160
MAX_PIECES: Final = 200
"""Per text; the rest is ignored."""
MAX_COMPARED: Final = 50_000
EXACTLY: Final = 200
_GOOD_ENDS: Final = ("\n\n", "\n", ". ", " ")


class TextVectorQuerySet(models.QuerySet["TextVector"]):
    def for_user(self, user: User | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.is_authenticated else self.none()


class TextVector(models.Model):
    """The vector of one piece of a message or of a file."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    index = models.ForeignKey(EmbeddingIndex, on_delete=models.CASCADE, related_name="+")
    message = models.ForeignKey(
        "agents.StoredMessage", null=True, blank=True, on_delete=models.CASCADE, related_name="vectors"
    )
    attachment = models.ForeignKey(
        "agents.Attachment", null=True, blank=True, on_delete=models.CASCADE, related_name="vectors"
    )
    piece = models.PositiveSmallIntegerField()
    signs = models.BinaryField()
    """One bit per number of the vector: whether it is above zero."""
    vector = models.BinaryField()
    """Normalised to length 1; float32, little-endian."""

    objects = TextVectorQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["user", "index", "-id"])]
        constraints = [
            models.UniqueConstraint(
                fields=["message", "index", "piece"],
                condition=models.Q(message__isnull=False),
                name="piece_of_message_once",
            ),
            models.UniqueConstraint(
                fields=["attachment", "index", "piece"],
                condition=models.Q(attachment__isnull=False),
                name="piece_of_file_once",
            ),
            models.CheckConstraint(
                condition=models.Q(message__isnull=False) ^ models.Q(attachment__isnull=False),
                name="vector_of_message_or_file",
            ),
        ]

    def __str__(self) -> str:
        return f"Vector {self.pk}"


@dataclass(frozen=True, slots=True)
class Hit:
    score: float
    """1: the same direction; 0: nothing in common."""
    message_id: UUID | None
    attachment_id: UUID | None
    piece: int


def pieces_of(text: str) -> list[str]:
    """Overlapping pieces, cut at the end of a paragraph, line, sentence or word."""
    return list(_pieces(text.strip()))[:MAX_PIECES]


def _pieces(text: str) -> Iterator[str]:
    begin = 0
    while begin < len(text):
        end = begin + PIECE_CHARS
        if end < len(text):
            for mark in _GOOD_ENDS:
                at = text.rfind(mark, begin + PIECE_CHARS // 2, end)
                if at > 0:
                    end = at + len(mark)
                    break
        piece = text[begin:end].strip()
        if piece:
            yield piece
        if end >= len(text):
            return
        begin = max(begin + 1, end - OVERLAP_CHARS)


def signs_of(packed: bytes) -> bytes:
    bits = 0
    numbers = unpack(packed)
    for value in numbers:
        bits = bits << 1 | (value > 0)
    return bits.to_bytes((len(numbers) + 7) // 8, "big")


def nearest(vectors: models.QuerySet[TextVector], asked: bytes, *, most: int) -> list[Hit]:
    """The nearest of these vectors, best first; all must belong to one index and one user."""
    wanted = int.from_bytes(signs_of(asked), "big")
    rows = vectors.order_by("-pk").values_list("pk", "signs")[:MAX_COMPARED]
    apart = (((int.from_bytes(signs, "big") ^ wanted).bit_count(), pk) for pk, signs in rows.iterator())
    best = [pk for _apart, pk in nsmallest(max(EXACTLY, most), apart)]
    question = unpack(asked)
    found = [
        Hit(sum(map(mul, question, unpack(bytes(packed)))), message_id, attachment_id, piece)
        for packed, message_id, attachment_id, piece in TextVector.objects.filter(pk__in=best).values_list(
            "vector", "message_id", "attachment_id", "piece"
        )
    ]
    return sorted(found, key=lambda hit: -hit.score)[:most]


def register() -> None:
    holds(Holder(count=_count, begin=_begin))


def _count(index: EmbeddingIndex) -> int:
    with open_for("counting vectors"):
        return TextVector.objects.filter(index=index).count()


def _begin(index: EmbeddingIndex) -> None:
    from agents import indexing  # only senders and workers import jobs

    indexing.begin(index)


def rows_for(
    user_id: int,
    index: EmbeddingIndex,
    packed: Sequence[bytes],
    *,
    message_id: UUID | None = None,
    attachment_id: UUID | None = None,
) -> list[TextVector]:
    """Unsaved rows, one per piece in order."""
    return [
        TextVector(
            user_id=user_id,
            index=index,
            message_id=message_id,
            attachment_id=attachment_id,
            piece=number,
            signs=signs_of(each),
            vector=each,
        )
        for number, each in enumerate(packed)
    ]

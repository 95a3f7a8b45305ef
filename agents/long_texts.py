"""Texts too long for a model: it sees the beginning and asks for the passages it needs.

Passages are found by embeddings where they are configured and the user's or the site's keys allow it; otherwise, or if
that fails, by words.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from agents import file_kinds
from agents.database import in_database
from agents.web import reading
from llm_credentials.providers import LLMError

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from agents.tables.files import GivenFile
    from llm_credentials.models import EmbeddingIndex

WHOLE_CHARS: Final = 8_000
"""Texts up to this length are shown whole; of longer ones, the beginning as below."""
BEGINNING_CHARS: Final = 1_200
PASSAGES: Final = 6
MAX_CHARS: Final = 300_000
_WORD: Final = re.compile(r"\w{2,}")
logger = logging.getLogger(__name__)


@dataclass
class _Text:
    name: str
    text: str
    pieces: list[str]
    attachment_id: UUID | None
    """None for a text that is not stored, whose vectors are not kept."""


class LongTexts:
    """The long texts of one turn."""

    def __init__(self, user: User, *, token: Any = None, run_budget: Any = None) -> None:
        self._user, self._token, self._run_budget = user, token, run_budget
        self._texts: list[_Text] = []

    def __bool__(self) -> bool:
        return bool(self._texts)

    def take(self, files: Mapping[str, GivenFile]) -> dict[str, str]:
        """Read the files; returns file → reason for those that failed. Blocks."""
        from agents.vectors import pieces_of  # its models are not ready when agents are listed

        problems = {}
        for name, file in files.items():
            text = _text_of(file)
            if text:
                known = getattr(file, "pk", None)
                self._texts.append(_Text(name, text, pieces_of(text[:MAX_CHARS]), known))
            else:
                problems[name] = "its text could not be read: it is locked, broken, or made of pictures"
        return problems

    def for_prompt(self) -> str:
        room = WHOLE_CHARS
        shown = []
        for each in self._texts:
            if len(each.text) <= room:
                room -= len(each.text)
                shown.append(f"The text “{each.name}”:\n\n{each.text}\n\n(end of “{each.name}”)")
            else:
                size = f"{len(each.text):,} characters in {len(each.pieces)} passages"
                beginning = each.text[:BEGINNING_CHARS]
                shown.append(f"The text “{each.name}” is long ({size}; ask with look_up). It begins:\n\n{beginning}…")
        return "\n\n".join(shown)

    async def look_up(self, question: str) -> str:
        passages = [(each, number) for each in self._texts for number in range(len(each.pieces))]
        scores = await self._by_meaning(question)
        if scores is None:
            scores = by_words(question, [each.pieces[number] for each, number in passages])
        best = sorted(range(len(passages)), key=lambda at: -scores[at])[:PASSAGES]
        found = [
            f"“{each.name}”, passage {number + 1} of {len(each.pieces)}:\n{each.pieces[number]}"
            for each, number in (passages[at] for at in sorted(best) if scores[at] > 0)
        ]
        return "\n\n".join(found) or "Nothing fits. Ask in other words."

    async def _by_meaning(self, question: str) -> list[float] | None:
        """A score per passage; None if embeddings are not available."""
        from llm_credentials.embeddings import embed_texts, index_in_use, similarity

        if not self._user.is_authenticated or self._user._state.adding:
            return None
        index = await in_database(index_in_use)
        if index is None:
            return None
        how = {"index": index, "token": self._token, "run_budget": self._run_budget}
        try:
            (asked,) = await embed_texts(self._user, [question], **how)
            vectors = [vector for each in self._texts for vector in await self._vectors(each, index)]
        except LLMError as error:
            logger.info("a text was searched by words: %s", type(error).__name__)
            return None
        return [similarity(asked, vector) for vector in vectors]

    async def _vectors(self, text: _Text, index: EmbeddingIndex) -> Sequence[bytes]:
        """The vectors stored with the file; created on the first question."""
        from llm_credentials.embeddings import embed_texts

        kept = await in_database(_kept, text, index)
        if len(kept) == len(text.pieces):
            return kept
        made = await embed_texts(self._user, text.pieces, index=index, token=self._token, run_budget=self._run_budget)
        if text.attachment_id is not None:
            await in_database(_keep, self._user.pk, text.attachment_id, index, made)
        return made


def _text_of(file: GivenFile) -> str:
    if file.media_type == file_kinds.PDF:
        found = reading.extract("pdf", file.data)
        return str(found["text"]).strip() if found else ""
    return (file_kinds.decoded(file.data) or "").strip()


def _kept(text: _Text, index: EmbeddingIndex) -> list[bytes]:
    from agents.vectors import TextVector

    if text.attachment_id is None:
        return []
    rows = TextVector.objects.filter(index=index, attachment_id=text.attachment_id).order_by("piece")
    return [bytes(row) for row in rows.values_list("vector", flat=True)]


def _keep(user_id: int, attachment_id: UUID, index: EmbeddingIndex, packed: Sequence[bytes]) -> None:
    """Unless the file was removed meanwhile."""
    from django.db import transaction

    from agents.attachments import Attachment
    from agents.vectors import TextVector, rows_for

    with transaction.atomic():
        if Attachment.objects.select_for_update().filter(pk=attachment_id).only("pk").exists():
            rows = rows_for(user_id, index, packed, attachment_id=attachment_id)
            TextVector.objects.bulk_create(rows, ignore_conflicts=True)


def by_words(question: str, passages: Sequence[str]) -> list[float]:
    """A score per passage: how many of the question's words it has, rarer words counting more."""
    words = set(_WORD.findall(question.casefold()))
    counted = [Counter(_WORD.findall(passage.casefold())) for passage in passages]
    rarity = {
        word: math.log(1 + len(passages) / among) for word in words if (among := sum(word in one for one in counted))
    }
    return [sum(weight * math.sqrt(one[word]) for word, weight in rarity.items()) for one in counted]

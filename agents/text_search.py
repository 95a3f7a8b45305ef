"""Searches a user's own conversations for words, the same way on both databases.

Each message has a lower-case copy of its text (``search_text``), because databases differ in which letters they
consider equal. All words must be in one message, or in the title.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from django.db.models import Exists, OuterRef, Q

from agents.models import Conversation, StoredMessage
from agents.texts import one_line

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from agents.models import ConversationQuerySet

MAX_WORDS: Final = 8
MAX_WORD_CHARS: Final = 100
AROUND_CHARS: Final = 60


@dataclass(frozen=True)
class Snippet:
    """Excerpt of a message around the first word found."""

    before: str
    found: str
    after: str


def words_of(query: str) -> list[str]:
    plain = query.replace("\x00", " ").encode("utf-8", "replace").decode()
    return [word[:MAX_WORD_CHARS] for word in plain.casefold().split()[:MAX_WORDS]]


def conversations_with(user: User, query: str) -> ConversationQuerySet:
    """The user's conversations, newest message first; all of them if the query has no words."""
    found = Conversation.objects.for_user(user).recent_first()
    words = words_of(query)
    if not words:
        return found
    in_title = Q(*(Q(title__icontains=word) for word in words))
    said = StoredMessage.objects.filter(_all_in(words), conversation=OuterRef("pk"))
    return found.filter(in_title | Exists(said))


def snippets(conversations: Iterable[Conversation], query: str) -> dict[UUID, Snippet]:
    """By conversation: the match in its oldest matching message."""
    words = words_of(query)
    if not words:
        return {}
    rows = StoredMessage.objects.filter(_all_in(words), conversation__in=[each.pk for each in conversations])
    found: dict[UUID, Snippet] = {}
    for row in rows.in_order():
        if row.conversation_id not in found:
            found[row.conversation_id] = _snippet(row.text, words[0])
    return found


def _all_in(words: Iterable[str]) -> Q:
    return Q(*(Q(search_text__contains=word) for word in words))


def _snippet(text: str, word: str) -> Snippet:
    plain = one_line(text)
    at = plain.casefold().find(word)
    if at < 0 or len(plain.casefold()) != len(plain):
        return Snippet(before=plain[: 2 * AROUND_CHARS], found="", after="")
    begin, end = max(0, at - AROUND_CHARS), at + len(word)
    before = ("…" if begin else "") + plain[begin:at]
    after = plain[end : end + AROUND_CHARS] + ("…" if end + AROUND_CHARS < len(plain) else "")
    return Snippet(before=before, found=plain[at:end], after=after)

"""Versions of a question: which follows which, and how to return to an earlier one.

An edited question stays beside the new one: both follow the same question (``StoredMessage.follows``). Returning to a
version restores what followed it, up to its newest end, with the answers chosen there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Mod
from django.utils.translation import gettext as _

from agents.models import Conversation, StoredMessage
from agents.services import TURN, quiet_conversation

if TYPE_CHECKING:
    from django.contrib.auth.models import User

NOTHING: Final = -1
"""What the first question follows."""


@dataclass(frozen=True)
class Asked:
    """A question's place in the conversation."""

    id: UUID
    position: int
    follows: int
    """Position of the question before it, or ``NOTHING``."""
    is_aside: bool
    chosen: int


@dataclass(frozen=True)
class Versions:
    """Versions of one question, for the switch beside it."""

    number: int
    count: int
    follows: int
    previous: UUID | None
    next: UUID | None


def asked_in(conversation: Conversation) -> list[Asked]:
    """Every question of the conversation, in order of asking. One query, without their texts."""
    found: list[Asked] = []
    columns = ("pk", "position", "follows", "is_aside", "chosen")
    rows = conversation.messages.filter(role="user").order_by("position").values_list(*columns)
    for pk, position, follows, is_aside, chosen in rows:
        before = found[-1].position if found else NOTHING
        found.append(Asked(pk, position, before if follows is None else follows, is_aside, chosen))
    return found


def versions_of(asked: Iterable[Asked]) -> dict[int, Versions]:
    """By position of the question, for questions with several versions."""
    kin: dict[int, list[Asked]] = {}
    for one in asked:
        kin.setdefault(one.follows, []).append(one)
    return {
        one.position: Versions(
            number=place + 1,
            count=len(several),
            follows=follows,
            previous=several[place - 1].id if place else None,
            next=several[place + 1].id if place + 1 < len(several) else None,
        )
        for follows, several in kin.items()
        if len(several) > 1
        for place, one in enumerate(several)
    }


def version_choose(*, user: User, message_id: UUID) -> StoredMessage:
    """Continue with this version of a question and what followed it; the other one is set aside.

    Raises ConversationBusy while an answer is open, ValidationError if the message is not a question.
    """
    found = StoredMessage.objects.for_user(user).get(pk=message_id)
    if found.role != "user":
        raise ValidationError({"message": [_("This is no question.")]})
    with transaction.atomic():
        conversation = quiet_conversation(user, found.conversation_id)
        asked = asked_in(conversation)
        wanted = _way_through(asked, found.position)
        there = {one.position for one in asked if not one.is_aside}
        turns_set_aside(conversation, there - wanted)
        _bring_back(conversation, [one for one in asked if one.position in wanted - there])
        changed = there ^ wanted
        if conversation.summary_until is not None and changed and min(changed) < conversation.summary_until:
            # The summary covers messages set aside, or lacks restored ones.
            Conversation.objects.filter(pk=conversation.pk).update(summary="", summary_until=None)
        conversation.save(update_fields=["updated_at"])
    found.refresh_from_db()
    return found


def turns_set_aside(conversation: Conversation, begins: Collection[int]) -> None:
    """Set these turns (positions of their questions) aside, and record which answer each had chosen."""
    rows = turn_rows(conversation, begins)
    chosen = rows.filter(role="assistant", is_aside=False, variant__gt=0).values_list("begin", "variant")
    for begin, variant in set(chosen):
        conversation.messages.filter(position=begin).update(chosen=variant)
    rows.update(is_aside=True)


def _bring_back(conversation: Conversation, turns: Iterable[Asked]) -> None:
    for chosen, several in groupby(sorted(turns, key=lambda one: one.chosen), key=lambda one: one.chosen):
        rows = turn_rows(conversation, [one.position for one in several])
        rows.filter(Q(position=F("begin")) | Q(variant=chosen)).update(is_aside=False)


def turn_rows(conversation: Conversation, begins: Collection[int]) -> Any:
    """Every message of the turns that begin at these positions."""
    return conversation.messages.annotate(begin=F("position") - Mod(F("position"), TURN)).filter(begin__in=begins)


def _way_through(asked: Iterable[Asked], position: int) -> set[int]:
    """Positions of the questions that lead here, and of the newest branch that continues from here."""
    by_position: Mapping[int, Asked] = {one.position: one for one in asked}
    way = set()
    here = position
    while here != NOTHING:
        way.add(here)
        here = by_position[here].follows
    newest = {one.follows: one.position for one in by_position.values()}
    here = position
    while here in newest:
        here = newest[here]
        way.add(here)
    return way

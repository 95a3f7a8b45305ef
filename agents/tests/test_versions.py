"""Going back to a version of a question that was set aside: what followed it comes along, and nothing else."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError

from agents import branching, services
from agents.models import Conversation, StoredMessage
from agents.services import ConversationBusy
from agents.tests.test_branching import beside, ended, said
from agents.turns import conversation_turns
from agents.versions import NOTHING, asked_in, version_choose, versions_of
from llm_credentials.wall import open_for

fill = import_module("agents.migrations.0009_versions").fill

pytestmark = pytest.mark.django_db


@pytest.fixture
def conversation(alice: User) -> Conversation:
    return services.conversation_start(user=alice, agent="conversation")


def say(user: User, conversation: Conversation, text: str) -> StoredMessage:
    """The question, answered by its own first letter."""
    turn = services.message_send(user=user, conversation_id=conversation.pk, text=text)
    ended(turn.answer, text[0].upper())
    return turn.question


def change(user: User, question: StoredMessage, text: str) -> StoredMessage:
    turn = branching.question_edit(user=user, message_id=question.pk, text=text)
    ended(turn.answer, text[0].upper())
    return turn.question


def test_versions_come_back_with_what_followed_them(alice: User, conversation: Conversation) -> None:
    first = say(alice, conversation, "a")
    second = say(alice, conversation, "b")
    say(alice, conversation, "c")
    changed = change(alice, second, "d")
    say(alice, conversation, "e")
    other = change(alice, first, "f")
    assert said(conversation) == ["f", "F"]
    version_choose(user=alice, message_id=second.pk)
    assert said(conversation) == ["a", "A", "b", "B", "c", "C"]
    version_choose(user=alice, message_id=other.pk)
    version_choose(user=alice, message_id=first.pk)
    assert said(conversation) == ["a", "A", "d", "D", "e", "E"], "up to its newest end"
    found = versions_of(asked_in(conversation))
    assert {(one.number, one.count) for one in found.values()} == {(1, 2), (2, 2)}
    assert (found[second.position].next, found[changed.position].previous) == (changed.pk, second.pk)
    turns, is_cut = conversation_turns(conversation, 2)
    assert ([turn.begin for turn in turns], is_cut) == ([changed.position, changed.position + services.TURN], True)


def test_conversation_goes_on_from_the_version_that_came_back(alice: User, conversation: Conversation) -> None:
    question = say(alice, conversation, "a")
    change(alice, question, "b")
    version_choose(user=alice, message_id=question.pk)
    later = say(alice, conversation, "c")
    assert later.follows == question.position
    assert said(conversation) == ["a", "A", "c", "C"]
    third = change(alice, later, "d")
    assert versions_of(asked_in(conversation))[third.position].previous == later.pk


def test_answer_that_was_chosen_comes_back_chosen(alice: User, conversation: Conversation) -> None:
    question = say(alice, conversation, "a")
    other = ended(beside(alice, conversation.messages.get(role="assistant")), "Better.")
    branching.answer_choose(user=alice, message_id=other.pk)
    change(alice, question, "b")
    version_choose(user=alice, message_id=question.pk)
    assert said(conversation) == ["a", "Better."]
    assert not conversation.messages.get(pk=other.pk).is_aside


def test_only_the_last_turn_of_what_goes_on_can_change(alice: User, conversation: Conversation) -> None:
    question = say(alice, conversation, "a")
    change(alice, question, "b")
    aside = conversation.messages.get(position=services.TURN - 1)
    with pytest.raises(ValidationError):
        beside(alice, aside)
    version_choose(user=alice, message_id=question.pk)
    assert beside(alice, aside).variant == 1


def test_summary_that_tells_of_another_version_is_forgotten(alice: User, conversation: Conversation) -> None:
    question = say(alice, conversation, "a")
    change(alice, question, "b")
    Conversation.objects.filter(pk=conversation.pk).update(summary="b.", summary_until=2 * services.TURN)
    version_choose(user=alice, message_id=question.pk)
    conversation.refresh_from_db()
    assert (conversation.summary, conversation.summary_until) == ("", None)


def test_what_cannot_be_gone_back_to_is_refused(alice: User, bob: User, conversation: Conversation) -> None:
    question = say(alice, conversation, "a")
    with pytest.raises(StoredMessage.DoesNotExist):
        version_choose(user=bob, message_id=question.pk)
    with pytest.raises(ValidationError):
        version_choose(user=alice, message_id=conversation.messages.get(role="assistant").pk)
    services.message_send(user=alice, conversation_id=conversation.pk, text="b")
    with pytest.raises(ConversationBusy):
        version_choose(user=alice, message_id=question.pk)


def test_questions_changed_before_versions_were_known_find_their_place(
    alice: User, bob: User, conversation: Conversation
) -> None:
    """As rows stood before the migration: what was set aside, and nothing of what it followed."""
    first = say(alice, conversation, "a")
    second = say(alice, conversation, "b")
    say(alice, conversation, "c")
    changed = change(alice, second, "d")
    say(alice, conversation, "e")
    began = services.conversation_start(user=bob, agent="conversation")
    opening = say(bob, began, "a")
    other_opening = change(bob, opening, "b")
    untouched = services.conversation_start(user=bob, agent="conversation")
    say(bob, untouched, "a")
    say(bob, untouched, "b")
    with open_for("the questions of both, as a migration sees them"):
        StoredMessage.objects.update(follows=None)
        fill(apps, None)
        filled = StoredMessage.objects.exclude(follows=None).values_list("pk", "follows")
        assert dict(filled) == {changed.pk: first.position, other_opening.pk: NOTHING}
    versions = versions_of(asked_in(conversation))
    assert (versions[changed.position].previous, versions[second.position].next) == (second.pk, changed.pk)
    assert (versions[changed.position].count, len(versions)) == (2, 2)
    version_choose(user=alice, message_id=second.pk)
    assert said(conversation) == ["a", "A", "b", "B", "c", "C"]
    version_choose(user=alice, message_id=changed.pk)
    assert said(conversation) == ["a", "A", "d", "D", "e", "E"]
    version_choose(user=bob, message_id=opening.pk)
    assert said(began) == ["a", "A"]


def test_question_changed_twice_before_versions_were_known_loses_none(alice: User, conversation: Conversation) -> None:
    """Which one the middle version replaced was not noted then: each still leads somewhere, and back."""
    say(alice, conversation, "a")
    second = say(alice, conversation, "b")
    middle = change(alice, second, "c")
    newest = change(alice, middle, "d")
    StoredMessage.objects.update(follows=None)
    with open_for("all questions, as a migration sees them"):
        fill(apps, None)
    assert said(conversation) == ["a", "A", "d", "D"]
    version_choose(user=alice, message_id=middle.pk)
    assert said(conversation)[-2:] == ["c", "C"]
    version_choose(user=alice, message_id=newest.pk)
    assert said(conversation) == ["a", "A", "d", "D"]

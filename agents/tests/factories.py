"""Rows for tests."""

from __future__ import annotations

import factory
from django.contrib.auth.models import User
from django.utils import timezone

from agents.models import AgentRun, Conversation, StoredMessage
from llm_credentials.providers import TextPart


class UserFactory(factory.django.DjangoModelFactory[User]):
    class Meta:
        model = User

    username = factory.Sequence(lambda number: f"user{number}")


class ConversationFactory(factory.django.DjangoModelFactory[Conversation]):
    class Meta:
        model = Conversation

    user = factory.SubFactory(UserFactory)
    agent = "conversation"
    title = "A conversation"


class StoredMessageFactory(factory.django.DjangoModelFactory[StoredMessage]):
    class Meta:
        model = StoredMessage

    conversation = factory.SubFactory(ConversationFactory)
    position = factory.Sequence(lambda number: number * 1000)
    role = "user"
    parts = (TextPart(text="Hello"),)


class AgentRunFactory(factory.django.DjangoModelFactory[AgentRun]):
    class Meta:
        model = AgentRun

    user = factory.SubFactory(UserFactory)
    agent = "conversation"
    input = "Write a haiku."
    enqueued_at = factory.LazyFunction(timezone.now)

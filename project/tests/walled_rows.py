"""Rows of two users behind the wall."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import models

from agents import attachments
from agents.attachments import Attachment
from agents.models import AgentRun, Conversation, StoredMessage
from agents.tests.factories import AgentRunFactory, ConversationFactory, StoredMessageFactory
from agents.vectors import TextVector
from llm_credentials.embeddings import pack
from llm_credentials.models import (
    ConnectionTest,
    EmbeddingIndex,
    LLMSettings,
    PersonalAccessToken,
    TaskOverride,
    UsageRecord,
    UserAllowance,
    UserCredential,
)
from llm_credentials.tests.factories import (
    ConnectionTestFactory,
    LLMSettingsFactory,
    TokenFactory,
    UsageRecordFactory,
    UserCredentialFactory,
)

on_postgresql = pytest.mark.skipif(
    "connection.vendor != 'postgresql'", reason="only PostgreSQL holds rows apart by itself"
)
MODELS: tuple[type[models.Model], ...] = (
    UserCredential,
    LLMSettings,
    TaskOverride,
    UsageRecord,
    UserAllowance,
    PersonalAccessToken,
    ConnectionTest,
    Conversation,
    StoredMessage,
    AgentRun,
    Attachment,
    TextVector,
)


@pytest.fixture
def alices(alice: User) -> dict[type[models.Model], Any]:
    """One row of each kind."""
    conversation = ConversationFactory(user=alice, title="Alice's plans")
    said = StoredMessageFactory(conversation=conversation)
    index = EmbeddingIndex.objects.create(provider="sandbox", model="sandbox-embed")
    return {
        UserCredential: UserCredentialFactory(user=alice, name="alices-own"),
        LLMSettings: LLMSettingsFactory(user=alice, default_provider="anthropic"),
        TaskOverride: TaskOverride.objects.create(user=alice, task="mail"),
        UsageRecord: UsageRecordFactory(user=alice),
        UserAllowance: UserAllowance.objects.create(user=alice, daily_usd=5),
        PersonalAccessToken: TokenFactory(user=alice, name="alices-token"),
        ConnectionTest: ConnectionTestFactory(user=alice),
        Conversation: conversation,
        StoredMessage: said,
        AgentRun: AgentRunFactory(user=alice, input="Alice's task"),
        Attachment: attachments.store_bytes(alice, "notes.txt", b"Alice's notes"),
        TextVector: TextVector.objects.create(
            user=alice, index=index, message=said, piece=0, signs=b"1", vector=pack([1.0])
        ),
    }

"""Rows for tests. Credentials hold a really sealed key: pass ``key="…"`` for a certain one, ``key=None`` for none."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import factory
from django.contrib.auth import get_user_model

from llm_credentials import services
from llm_credentials.models import (
    ConnectionTest,
    LLMSettings,
    PersonalAccessToken,
    SystemCredential,
    UsageRecord,
    UserCredential,
)


class UserFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = get_user_model()
        skip_postgeneration_save = True

    username = factory.Sequence(lambda number: f"user{number}")
    email = factory.LazyAttribute(lambda user: f"{user.username}@example.com")
    password = factory.django.Password("a-long-password")


class _KeyHolderFactory(factory.django.DjangoModelFactory):
    class Meta:
        abstract = True

    class Params:
        key = factory.Sequence(lambda number: f"sk-test-{number:04d}-0123456789abcdef")

    provider = "openai"

    @classmethod
    def _adjust_kwargs(cls, **kwargs: Any) -> dict[str, Any]:
        return kwargs

    @classmethod
    def _build(cls, model_class: Any, *args: Any, **kwargs: Any) -> Any:
        key = kwargs.pop("_key")
        row = model_class(*args, **kwargs)
        if key is not None:
            row.seal(key)
        return row

    @classmethod
    def _create(cls, model_class: Any, *args: Any, **kwargs: Any) -> Any:
        row = cls._build(model_class, *args, **kwargs)
        row.save(force_insert=True)
        return row

    _key = factory.SelfAttribute("key")


class UserCredentialFactory(_KeyHolderFactory):
    class Meta:
        model = UserCredential

    user = factory.SubFactory(UserFactory)


class SystemCredentialFactory(_KeyHolderFactory):
    class Meta:
        model = SystemCredential


class ConnectionTestFactory(_KeyHolderFactory):
    class Meta:
        model = ConnectionTest

    user = factory.SubFactory(UserFactory)


class LLMSettingsFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = LLMSettings

    user = factory.SubFactory(UserFactory)


class TokenFactory(factory.django.DjangoModelFactory):
    """The token itself is on the row as ``secret``, of which the database knows nothing."""

    class Meta:
        model = PersonalAccessToken

    user = factory.SubFactory(UserFactory)

    @classmethod
    def _create(cls, model_class: Any, *args: Any, **kwargs: Any) -> Any:
        token, secret = services.token_create(**kwargs)
        token.secret = secret
        return token


class UsageRecordFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = UsageRecord

    user = factory.SubFactory(UserFactory)
    provider = "openai"
    model = "gpt-test"
    state = UsageRecord.State.SETTLED
    input_tokens = 100
    output_tokens = 20
    cost_usd = Decimal("0.000123")
    price_source = "genai-prices"
    latency_ms = 300
    outcome = "ok"

"""A program that calls the gateway, with keys at the sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from django.contrib.auth.models import User

from llm_credentials import services
from llm_credentials.ledger import writer
from llm_credentials.models import UsageRecord, UserCredential
from llm_credentials.tests.factories import UserCredentialFactory

KEY = "sbx-good-0123456789"
ASK: Any = [{"role": "user", "content": "What is 17 * 23?"}]


def a_key_of(user: User, sandbox_url: str, provider: str = "openai", **values: Any) -> UserCredential:
    address = f"{sandbox_url}/v1" if provider == "openai" else sandbox_url
    given = {"key": KEY, "model": "sandbox-vision", "base_url": address, **values}
    made: UserCredential = UserCredentialFactory(user=user, provider=provider, **given)
    return made


def the_record() -> UsageRecord:
    """The one attempt that was made."""
    writer.flush()
    return UsageRecord.objects.get()


@pytest.fixture
def site(live_site: str, sandbox_url: str) -> str:
    return live_site


@pytest.fixture
def token(alice: User) -> str:
    return services.token_create(user=alice, scopes=["gateway"])[1]


@pytest.fixture
def chat(site: str, token: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{site}/v1", api_key=token, max_retries=0) as client:
        yield client


@pytest.fixture
def raw(site: str, token: str) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    with httpx2.Client(base_url=site, headers=headers, trust_env=False) as client:
        yield client

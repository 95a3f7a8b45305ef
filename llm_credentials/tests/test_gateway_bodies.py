"""Bodies as odd programs send them, and answers as strict ones want them."""

from __future__ import annotations

import json

import pytest
from django.contrib.auth.models import User

from llm_credentials import services
from llm_credentials.ledger import writer
from llm_credentials.models import UsageRecord
from llm_credentials.tests.asking import ask_gateway
from llm_credentials.tests.factories import UserCredentialFactory

PLAIN = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "What is 17 * 23?"}]}).encode()


@pytest.mark.parametrize(
    ("raw", "kind", "status", "code"),
    [
        (b"\xef\xbb\xbf" + PLAIN, "application/json", 200, None),
        (PLAIN, "application/json; charset=utf-8", 200, None),
        (PLAIN.decode().encode("utf-16"), "application/json", 400, "invalid_json"),
        (b"\xef\xbb\xbf", "application/json", 400, "invalid_json"),
        (b"", "application/json", 400, "invalid_json"),
        (PLAIN, "text/plain", 415, "unsupported_media_type"),
        (PLAIN, "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_body_is_read_or_refused_for_what_it_is(
    alice: User, sandbox_url: str, raw: bytes, kind: str, status: int, code: str | None
) -> None:
    UserCredentialFactory(
        user=alice, provider="openai", key="sbx-good-0123456789", model="sandbox-chat", base_url=f"{sandbox_url}/v1"
    )
    token = services.token_create(user=alice, scopes=["gateway"])[1]
    headers = {"authorization": f"Bearer {token}", "content-type": kind}
    answer = ask_gateway("POST", "/v1/chat/completions", raw=raw, **headers)
    assert (answer.status_code, answer.json().get("error", {}).get("code")) == (status, code)


@pytest.mark.django_db(transaction=True)
def test_embeddings_that_nobody_counted_have_the_count_of_the_ledger(alice: User, sandbox_url: str) -> None:
    UserCredentialFactory(
        user=alice, provider="gemini", key="sbx-good-0123456789", model="sandbox-chat", base_url=sandbox_url
    )
    token = services.token_create(user=alice, scopes=["gateway"])[1]
    body = {"model": "gemini/sandbox-embed", "input": ["one two three", "four"]}
    usage = ask_gateway("POST", "/v1/embeddings", body, authorization=f"Bearer {token}").json()["usage"]
    writer.flush()
    row = UsageRecord.objects.get()
    assert (row.state, row.input_tokens) == ("estimated", usage["prompt_tokens"])
    assert usage["prompt_tokens"] == usage["total_tokens"] > 0

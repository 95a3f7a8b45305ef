"""How large a request may be: told, counted, and answered in words."""

from __future__ import annotations

import http.client
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from project.bodies import LimitedBodies


async def served(limit: int, *pieces: bytes, told: bytes | None = None, answers: bool = True) -> tuple[list[Any], int]:
    """(what was sent back, bytes that the application got)."""
    got = 0
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal got
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            got += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if told is None else [(b"content-length", told)]
    await LimitedBodies(application, limit)({"type": "http", "headers": headers}, receive, send)
    return sent, got


async def test_body_within_the_limit_passes() -> None:
    sent, got = await served(10, b"12345", b"67890", told=b"10")
    assert (sent[0]["status"], got) == (200, 10)


@pytest.mark.parametrize("told", [b"11", b"99999999999"])
async def test_body_that_says_it_is_too_large_is_not_read(told: bytes) -> None:
    sent, got = await served(10, b"12345", b"67890", b"1", told=told)
    assert (sent[0]["status"], got) == (413, 0)
    assert b"too large" in sent[1]["body"]


@pytest.mark.parametrize("told", [None, b"5", b"-1", b"nonsense", b"9" * 100])
async def test_body_that_says_nothing_true_is_counted(told: bytes | None) -> None:
    sent, got = await served(10, b"12345", b"67890", b"1", b"2" * 1000, told=told)
    assert sent[0]["status"] == 413
    assert got == 10


async def test_other_traffic_passes_untouched() -> None:
    seen = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await LimitedBodies(application, 1)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]


@pytest.mark.parametrize("chunked", [True, False])
def test_huge_upload_ends_with_413(live_site: str, settings: Any, chunked: bool) -> None:
    connection = http.client.HTTPConnection(urlsplit(live_site).netloc, timeout=20)
    size = settings.MAX_REQUEST_BYTES + 1_000_000
    headers = {"Content-Type": "application/json"} | ({} if chunked else {"Content-Length": str(size)})
    pieces = (b"x" * 100_000 for _ in range(size // 100_000))
    with suppress(BrokenPipeError, ConnectionResetError):  # the answer may come before all was sent
        connection.request("POST", "/api/user/llm-credentials", pieces, headers, encode_chunked=chunked)
    response = connection.getresponse()
    assert response.status == 413
    assert b"body_too_large" in response.read()
    connection.close()


def test_form_past_djangos_limit_is_413_in_words(alice: User, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    client = Client()
    client.force_login(alice)
    response = client.post(reverse("llm_credentials:credential-save", args=["openai"]), {"model": "x" * 2000})
    assert response.status_code == 413
    assert "too large" in response.text


def test_form_of_too_many_fields_is_400(client: Client, db: None, settings: Any) -> None:
    body = "&".join(f"f{number}=1" for number in range(settings.DATA_UPLOAD_MAX_NUMBER_FIELDS + 1))
    response = client.post("/accounts/login/", body, content_type="application/x-www-form-urlencoded")
    assert response.status_code == 400

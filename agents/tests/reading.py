"""Pages as their readers see them."""

from __future__ import annotations

from typing import Any

from django.test import Client

from agents import services
from agents.models import MessageState, StoredMessage
from llm_credentials.providers import LLMMessage

HTMX: dict[str, Any] = {"headers": {"HX-Request": "true"}}


def page(browser: Client, url: str, status: int = 200, **how: Any) -> str:
    response = browser.get(url, **how)
    assert response.status_code == status
    return response.content.decode()


def finished(answer: StoredMessage, *messages: LLMMessage, **ending: Any) -> None:
    claim = services.message_claim(answer.pk)
    assert claim is not None
    ending.setdefault("state", MessageState.COMPLETE)
    assert services.message_finish(answer.pk, claim, messages=messages or (LLMMessage.assistant("Hi."),), **ending)

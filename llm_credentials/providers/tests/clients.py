"""What tests of every provider's client share."""

from __future__ import annotations

from typing import Any

from llm_credentials.providers import LLMMessage
from llm_credentials.providers.registry import all_specs

KEY = "sk-canary-0123456789abcdef"
HELLO = [LLMMessage.user("Hello")]
SLUGS = [spec.slug for spec in all_specs() if not spec.site_address_setting]
CHAT = {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}


def chunk(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}

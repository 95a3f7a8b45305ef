"""Asking the sandbox on every wire."""

from __future__ import annotations

import json
import re
from typing import Any

from llm_credentials.providers.sandbox.tests.conftest import Door

WIRES = ["chat", "messages", "generate"]
END = {"chat": "data: [DONE]", "messages": "message_stop", "generate": '"finishReason"'}


async def read(door: Door, wire: str, fault: str, *, stream: bool = False, **extra: Any) -> tuple[Any, bytes]:
    """The response and its whole body."""
    async with door.post(wire, f"sandbox-chat~fault={fault}", stream=stream, **extra) as response:
        return response, await response.read()


def data_of(raw: bytes) -> list[Any]:
    """The JSON of every event."""
    lines = re.split(r"\r\n|\n|\r", raw.decode())
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]

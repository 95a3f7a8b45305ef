"""Serialises a run that waits for its user, with everything needed to continue. Django-free."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from agents.loop import Pending, Spent
from agents.parts import dump_parts, load_parts
from llm_credentials.providers import LLMMessage


@dataclass(frozen=True, kw_only=True)
class Pause:
    added: tuple[LLMMessage, ...]
    """Messages added by the loop; the last one has the calls."""
    spent: Spent
    output: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list)
    receipt: dict[str, Any] | None = None


def dump(pause: Pause) -> str:
    return json.dumps(
        {
            "added": [{"role": message.role, "parts": dump_parts(message.parts)} for message in pause.added],
            "spent": {
                "steps": pause.spent.steps,
                "tokens": pause.spent.tokens,
                "cost_usd": str(pause.spent.cost_usd),
            },
            "output": pause.output,
            "steps": pause.steps,
            "receipt": pause.receipt,
        }
    )


def load(text: str) -> Pause:
    """Raises ValueError, KeyError or TypeError for text that ``dump`` did not write."""
    data = json.loads(text)
    spent = data["spent"]
    return Pause(
        added=tuple(LLMMessage(role=each["role"], parts=load_parts(each["parts"])) for each in data["added"]),
        spent=Spent(steps=spent["steps"], tokens=spent["tokens"], cost_usd=Decimal(spent["cost_usd"])),
        output=data["output"],
        steps=data["steps"],
        receipt=data["receipt"],
    )


def asked(pending: Iterable[Pending]) -> list[dict[str, Any]]:
    """The calls as shown to the user."""
    return [
        {
            "id": each.call.id,
            "name": each.call.name,
            "arguments": _storable(each.call.arguments),
            "description": _storable(each.description),
            "access": each.access,
        }
        for each in pending
    ]


def _storable(value: Any) -> Any:
    """JSON without what PostgreSQL's jsonb rejects: NUL characters and lone surrogates."""
    text = json.dumps(value, default=str).replace("\\u0000", "\\ufffd")
    return json.loads(text.encode("utf-8", "replace").decode(), object_hook=_clean)


def _clean(found: dict[str, Any]) -> dict[str, Any]:
    return {_whole(key): _whole(value) for key, value in found.items()}


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return [_whole(each) for each in value] if isinstance(value, list) else value


def approvals(pending: Sequence[Mapping[str, Any]], *, begun_before: bool) -> dict[str, bool | None]:
    """The user's decisions; a yes becomes ``None`` if an earlier attempt may have made the call."""
    return {call["id"]: (None if begun_before else True) if call["answer"] else False for call in pending}

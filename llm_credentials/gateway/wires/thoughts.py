"""Finds reasoning in a conversation of either format, and removes what other models wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

TEXTS: Final = ("reasoning_content", "reasoning")
"""Fields of a turn in the chat format in which providers put reasoning beside the text."""
FIELDS: Final = (*TEXTS, "reasoning_details")
IsOwn = Callable[[str], bool]


def marks_in(messages: Sequence[Any]) -> Iterator[str]:
    """The signature of each reasoning block, or its content if that is encrypted or unsigned; empty without either."""
    for message in _turns(messages):
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            if (mark := _mark(block)) is not None:
                yield mark
        if any(message.get(name) for name in FIELDS):
            yield _beside(message)


def only_own(data: Mapping[str, Any], is_own: IsOwn) -> dict[str, Any]:
    """The request with only the reasoning for whose marks ``is_own`` holds; the rest of each turn is kept."""
    messages = data["messages"]
    kept = [without for message in messages if (without := _only_own(message, is_own)) is not None]
    body = {**data, "messages": kept}
    thinking = data.get("thinking")
    if isinstance(thinking, Mapping) and thinking.get("type") == "enabled" and _begins_otherwise(kept):
        # With thinking enabled, a turn with pending tool calls must begin with a thinking block.
        del body["thinking"]
    return body


def _turns(messages: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    for message in messages:
        if isinstance(message, Mapping) and message.get("role") == "assistant":
            yield message


def _mark(block: Any) -> str | None:
    match block:
        case {"type": "thinking"}:
            mark = block.get("signature")
        case {"type": "redacted_thinking"}:
            mark = block.get("data")
        case _:
            return None
    return mark if isinstance(mark, str) else ""


def _beside(message: Mapping[str, Any]) -> str:
    """The reasoning beside a turn's text."""
    return spoken(message) or detailed(message.get("reasoning_details"))


def spoken(turn: Mapping[str, Any]) -> str:
    """The reasoning text of a turn or delta; some providers send it in both fields."""
    for name in TEXTS:
        text = turn.get(name)
        if text and isinstance(text, str):
            return text
    return ""


def detailed(items: Any) -> str:
    """The content of these reasoning details: texts, summaries, or encrypted data."""
    pieces = [
        next((piece for name in ("text", "summary", "data") if isinstance(piece := item.get(name), str)), "")
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, Mapping)
    ]
    return "".join(pieces)


def _only_own(message: Any, is_own: IsOwn) -> Any:
    """None for a turn that only had others' reasoning."""
    if not isinstance(message, Mapping) or message.get("role") != "assistant":
        return message
    content = message.get("content")
    if isinstance(content, list):
        kept = [block for block in content if (mark := _mark(block)) is None or (mark and is_own(mark))]
        if not kept and content:
            return None
        message = message if len(kept) == len(content) else {**message, "content": kept}
    if any(message.get(name) for name in FIELDS) and not is_own(_beside(message)):
        message = {name: value for name, value in message.items() if name not in FIELDS}
    return message


def _begins_otherwise(messages: Sequence[Any]) -> bool:
    """Whether the last turn called tools, has their results, and does not begin with reasoning."""
    last = next(_turns(messages[::-1]), None)
    content = last.get("content") if last else None
    if not isinstance(content, list) or not content or messages[-1] is last:
        return False
    calls = any(isinstance(block, Mapping) and block.get("type") == "tool_use" for block in content)
    return calls and _mark(content[0]) is None

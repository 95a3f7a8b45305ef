"""Validates a request to a model as a whole before anything is sent. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llm_credentials.providers.errors import RequestRejected
from llm_credentials.providers.messages import Call, Embedded, LLMMessage, LLMResponse, TextPart, ToolDefinition
from llm_credentials.providers.schema import restore_text

if TYPE_CHECKING:
    from llm_credentials.providers.client import LLMClient

DEFAULT_TIMEOUT_S = 120.0
"""Deadline for the whole call if the caller gives none; for a stream, until its end."""


def seconds(timeout_s: float | None) -> float:
    if timeout_s is None:
        return DEFAULT_TIMEOUT_S
    if not _within(timeout_s, 0, 24 * 3600) or timeout_s == 0:
        raise RequestRejected("timeout_s is a number of seconds above 0.")
    return timeout_s


def embedding_faults(model: str, texts: Embedded, dimensions: int | None) -> Iterator[str]:
    if fault := model_id_fault(model):
        yield fault
    if isinstance(texts, str) or not texts or any(not text for text in texts):
        yield "Give a list of texts, none of them empty."
    elif not (all(isinstance(text, str) for text in texts) or all(map(_is_tokens, texts))):
        yield "Give texts, or the tokens of each as whole numbers."
    if dimensions is not None and not (type(dimensions) is int and 0 < dimensions <= 100_000):
        yield "dimensions is a whole number above 0."


def _is_tokens(given: object) -> bool:
    return isinstance(given, list | tuple) and all(type(token) is int and token >= 0 for token in given)


def make_call(
    client: LLMClient,
    messages: Sequence[LLMMessage],
    *,
    tools: Sequence[ToolDefinition] | None,
    tool_choice: str | None,
    response_schema: Mapping[str, Any] | None,
    model: str | None,
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    stop: Sequence[str] | None,
    seed: int | None,
) -> Call:
    """The validated request. Raises RequestRejected, naming the argument, before anything is sent."""
    name = model or client.model
    for text in _faults(name, messages, tools or (), tool_choice, max_tokens, temperature, top_p, stop or ()):
        raise RequestRejected(text, provider=client.provider)
    return Call(
        model=name,
        messages=tuple(messages),
        tools=tuple(tools or ()),
        tool_choice=tool_choice,
        response_schema=response_schema,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        seed=seed,
    )


def _faults(
    model: str,
    messages: Sequence[LLMMessage],
    tools: Sequence[ToolDefinition],
    tool_choice: str | None,
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    stop: Sequence[str],
) -> Iterator[str]:
    if fault := model_id_fault(model):
        yield fault
    if not messages:
        yield "There is no message to send."
    if max_tokens is not None and not (type(max_tokens) is int and 0 < max_tokens < 10_000_000):
        yield "max_tokens is a whole number between 1 and 9,999,999."
    if temperature is not None and not _within(temperature, 0, 2):
        yield "temperature is a number between 0 and 2."
    if top_p is not None and not _within(top_p, 0, 1):
        yield "top_p is a number between 0 and 1."
    if not isinstance(stop, str) and len(stop) > 16:
        yield "At most 16 stop sequences."
    if tool_choice not in (None, "auto", "none") and not tools:
        yield "tool_choice asks for a tool, and none is given."
    if tool_choice not in (None, "auto", "none", "required") and all(tool.name != tool_choice for tool in tools):
        yield "tool_choice names a tool that is not given."


def _within(value: object, low: float, high: float) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
    )


MODEL_ID_MAX = 200
_MODEL_ID_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/@+~=,")


def model_id_fault(model: str) -> str | None:
    """Why this cannot be a model id; None if it can. Ids become part of URLs, so only a fixed alphabet is allowed."""
    if not model:
        return "Name a model."
    if len(model) > MODEL_ID_MAX:
        return f"A model id has at most {MODEL_ID_MAX} characters."
    return _fault_of_short_id(model)


@lru_cache(maxsize=2048)
def _fault_of_short_id(model: str) -> str | None:
    if not _MODEL_ID_ALPHABET.issuperset(model):
        return "A model id has letters, digits and - _ . : / @ + ~ = , only."
    if any(piece[:1] in ("", ".", "-") for piece in model.split("/")):
        return "A model id is no path."
    return None


def restored(response: LLMResponse, call: Call) -> LLMResponse:
    """Without the nulls that stand for absent properties where a strict mode requires every property."""
    if call.response_schema is None or response.finish_reason != "stop":
        return response
    given = response.text
    text = restore_text(given, call.response_schema)
    if text is given:
        return response
    others = tuple(part for part in response.message.parts if not isinstance(part, TextPart))
    return replace(response, message=LLMMessage(role="assistant", parts=(*others, TextPart(text=text))))

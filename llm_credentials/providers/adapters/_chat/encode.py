"""Encodes our types into the wire format."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import orjson

from llm_credentials.providers.adapters._chat.dialect import PLAIN_IDS, REASONING, Dialect
from llm_credentials.providers.errors import UnsupportedContent
from llm_credentials.providers.messages import (
    Call,
    ImagePart,
    LLMMessage,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolDefinition,
    ToolResult,
)
from llm_credentials.providers.schema import compile_schema
from llm_credentials.providers.spec import ProviderSpec
from llm_credentials.providers.wire import WireIds, after_results, own_details, said_by

IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
ANSWER_TOOL = "final_answer"


def encode_call(call: Call, spec: ProviderSpec, dialect: Dialect, *, stream: bool) -> dict[str, Any]:
    facts = spec.model_facts(call.model)
    fixed = dialect.samples_fixed(call.model, facts)
    body: dict[str, Any] = {"model": call.model, "messages": encode_messages(call, spec, dialect)}
    if call.max_tokens is not None:
        body["max_completion_tokens" if fixed else dialect.max_tokens] = call.max_tokens
    if not fixed and call.temperature is not None:
        body["temperature"] = min(call.temperature, dialect.max_temperature)
    if not fixed and call.top_p is not None:
        body["top_p"] = call.top_p
    if call.stop:
        body["stop"] = list(call.stop)
    if call.seed is not None:
        body[dialect.seed] = call.seed
    if call.tools:
        body["tools"] = [encode_tool(tool, dialect) for tool in call.tools]
        if call.tool_choice is not None:
            body["tool_choice"] = encode_tool_choice(call.tool_choice, dialect)
    if call.response_schema is not None:
        _add_schema(body, call, dialect)
    if stream:
        body["stream"] = True
        if dialect.stream_usage:
            body["stream_options"] = {"include_usage": True}
    return body


def adapt_body(body: dict[str, Any], spec: ProviderSpec, dialect: Dialect, *, stream: bool) -> dict[str, Any]:
    """Adapts a client's request of this wire format to this provider's names; in place.

    Raises UnsupportedContent.
    """
    model = body["model"]
    if body.get("n") not in (None, 1) and not dialect.several_answers:
        raise UnsupportedContent("This provider gives one answer: more of them (n) cannot be asked for.")
    fixed = dialect.samples_fixed(model, spec.model_facts(model))
    limit = body.pop("max_completion_tokens", None) or body.pop("max_tokens", None)
    body.pop("max_tokens", None)
    if limit is not None:
        body["max_completion_tokens" if fixed else dialect.max_tokens] = limit
    if fixed:
        body.pop("temperature", None)
        body.pop("top_p", None)
    if stream and dialect.stream_usage:
        options = body.get("stream_options")
        body["stream_options"] = {**(options if isinstance(options, Mapping) else {}), "include_usage": True}
    else:
        body.pop("stream_options", None)
    for name in (*dialect.drops, *_of_no_tools(body)):
        body.pop(name, None)
    if dialect.seed != "seed" and "seed" in body:
        body[dialect.seed] = body.pop("seed")
    if body.get("tool_choice") in ("required", "any"):  # some clients say «any»
        body["tool_choice"] = dialect.required_tool
    if isinstance(messages := body.get("messages"), list):
        ids = WireIds(dialect.ids) if dialect.ids is not PLAIN_IDS else None
        adapted = [_adapt_message(message, dialect, ids) for message in messages]
        body["messages"] = answered(adapted) if dialect.results_answered else adapted
    return body


def _of_no_tools(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Parameters that providers reject without tools; a required tool choice is kept, for them to reject."""
    if body.get("tools"):
        return ()
    is_idle = body.get("tool_choice") in (None, "auto", "none")
    return ("tools", "parallel_tool_calls", *(("tool_choice",) if is_idle else ()))


def _adapt_message(message: Any, dialect: Dialect, ids: WireIds | None) -> Any:
    """``ids``: for a provider that restricts tool ids; earlier turns may be another provider's."""
    match message:
        case {"role": "developer"} if not dialect.developer:
            return {**message, "role": "system"}
        case {"role": "tool", "tool_call_id": str(call_id)} if ids is not None:
            return {**message, "tool_call_id": ids.result(call_id)}
        case {"role": "assistant"}:
            refused = [name for name in REASONING if name in message and name not in dialect.reasoning_taken]
            if refused:
                message = {name: value for name, value in message.items() if name not in refused}
            if dialect.reasoning_field and message.get("tool_calls"):
                message = {dialect.reasoning_field: "", **message}
            if ids is not None and isinstance(calls := message.get("tool_calls"), list):
                message = {**message, "tool_calls": [_adapt_call(call, ids) for call in calls]}
    return message


def _adapt_call(call: Any, ids: WireIds) -> Any:
    match call:
        case {"id": str(given)}:
            return {**call, "id": ids.call(given)}
    return call


# Messages


def encode_messages(call: Call, spec: ProviderSpec, dialect: Dialect) -> list[dict[str, Any]]:
    facts = spec.model_facts(call.model)
    sees = "vision" in (facts.capabilities if facts else spec.capabilities)
    ids = WireIds(dialect.ids)
    encoded: list[dict[str, Any]] = []
    for message in after_results(call.messages):
        match message.role:
            case "system":
                encoded.append({"role": "system", "content": _text(message)})
            case "user":
                encoded.append({"role": "user", "content": _user_content(message, dialect, sees=sees)})
            case "assistant":
                encoded.append(_assistant(message, call.model, spec.slug, dialect, ids))
            case "tool":
                encoded += (_result(part, dialect, ids) for part in message.parts)
            case _:
                assert_never(message.role)
    return answered(encoded) if dialect.results_answered else encoded


def answered(messages: Sequence[Any]) -> list[Any]:
    """Inserts an assistant message wherever the user follows tool results directly."""
    kept: list[Any] = []
    for message in messages:
        match message, kept[-1:]:
            case {"role": "user"}, [{"role": "tool"}]:
                kept.append({"role": "assistant", "content": "OK."})
        kept.append(message)
    return kept


def _text(message: LLMMessage) -> str:
    for part in message.parts:
        if not isinstance(part, TextPart):
            raise _misplaced(part, message)
    return message.text


def _user_content(message: LLMMessage, dialect: Dialect, *, sees: bool) -> str | list[dict[str, Any]]:
    if all(isinstance(part, TextPart) for part in message.parts):
        return message.text
    content: list[dict[str, Any]] = []
    for part in message.parts:
        match part:
            case TextPart():
                if part.text:
                    content.append({"type": "text", "text": part.text})
            case ImagePart():
                if not sees:
                    raise UnsupportedContent("This model does not take images.")
                content.append({"type": "image_url", "image_url": {"url": _image_url(part, dialect)}})
            case _:
                raise _misplaced(part, message)
    return content


def _image_url(part: ImagePart, dialect: Dialect) -> str:
    if part.data is not None:
        if part.media_type not in IMAGE_TYPES:
            raise UnsupportedContent("Images are taken as PNG, JPEG, GIF or WebP.")
        return f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"
    url = part.url or ""
    if url.startswith("data:"):
        return url
    if not url.startswith(("https://", "http://")):
        raise UnsupportedContent("The address of an image begins with https://.")
    if not dialect.image_urls:
        raise UnsupportedContent("This provider takes images as data only, not by their address.")
    return url


def _assistant(message: LLMMessage, model: str, slug: str, dialect: Dialect, ids: WireIds) -> dict[str, Any]:
    """Encodes an assistant message. Reasoning is returned only to the model that wrote it: beside the tool calls that
    it led to, or as content parts if it arrived that way.
    """
    encoded: dict[str, Any] = {"role": "assistant", "content": message.text or None}
    calls = message.tool_calls
    thoughts: list[dict[str, Any]] = []
    for part in message.parts:
        match part:
            case TextPart() | ToolCall():
                continue
            case ReasoningPart():
                own = own_details(part.details, slug, model)
                if own is None:
                    continue
                if own.get("field") == "content":
                    thoughts.append({"type": "thinking", "thinking": [{"type": "text", "text": part.text}]})
                elif calls:
                    _add_reasoning(encoded, part.text, own)
            case _:
                raise _misplaced(part, message)
    if thoughts:
        encoded["content"] = [*thoughts, *([{"type": "text", "text": message.text}] if message.text else [])]
    if calls:
        encoded["tool_calls"] = [_tool_call(call, slug, dialect, ids) for call in calls]
        if dialect.reasoning_field:
            encoded.setdefault(dialect.reasoning_field, "")
    elif encoded["content"] is None:
        encoded["content"] = ""
    return encoded


def _add_reasoning(encoded: dict[str, Any], text: str, own: Mapping[str, Any]) -> None:
    field = own.get("field")
    if isinstance(field, str) and text:
        encoded[field] = encoded.get(field, "") + text
    if more := own.get("reasoning_details"):
        encoded["reasoning_details"] = [*encoded.get("reasoning_details", []), *more]


def _tool_call(call: ToolCall, slug: str, dialect: Dialect, ids: WireIds) -> dict[str, Any]:
    if call.invalid_arguments is not None and dialect.raw_arguments:
        arguments = call.invalid_arguments
    else:
        arguments = orjson.dumps(call.arguments).decode()
    own = call.details.get(slug)
    return {
        "id": ids.call(call.id),
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
        **(own if isinstance(own, Mapping) else {}),
    }


def _result(part: Part, dialect: Dialect, ids: WireIds) -> dict[str, Any]:
    if not isinstance(part, ToolResult):
        raise UnsupportedContent("A tool message holds results of tools only.")
    encoded = {
        "role": "tool",
        "tool_call_id": ids.result(part.call_id),
        # The format has no error flag: the text must say it.
        "content": f"Error: {said_by(part)}" if part.is_error else said_by(part),
    }
    if dialect.named_results:
        encoded["name"] = part.name
    return encoded


def _misplaced(part: Part, message: LLMMessage) -> UnsupportedContent:
    return UnsupportedContent(f"A message of the {message.role} cannot hold a {type(part).__name__}.")


# Tools and schemas


def encode_tool(tool: ToolDefinition, dialect: Dialect) -> dict[str, Any]:
    if not _TOOL_NAME.fullmatch(tool.name):
        raise UnsupportedContent("A tool's name has 1 to 64 letters, digits, - and _ here.")
    parameters = compile_schema(tool.parameters, "chat_object")
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def encode_tool_choice(choice: str, dialect: Dialect) -> str | dict[str, Any]:
    if choice in ("auto", "none"):
        return choice
    if choice == "required":
        return dialect.required_tool
    return {"type": "function", "function": {"name": choice}}


def answer_tool(call: Call, dialect: Dialect) -> str | None:
    """The name of the tool that returns the answer, if one is used."""
    if call.response_schema is None or dialect.takes_schema(call.model) != "tool":
        return None
    taken = {tool.name for tool in call.tools}
    return next(name for name in (ANSWER_TOOL, *(f"{ANSWER_TOOL}_{n}" for n in range(2, 99))) if name not in taken)


def _add_schema(body: dict[str, Any], call: Call, dialect: Dialect) -> None:
    schema = call.response_schema or {}
    match dialect.takes_schema(call.model):
        case "tool":
            name = answer_tool(call, dialect)
            function = {
                "name": name,
                "description": "Gives the final answer.",
                "parameters": compile_schema(schema, "chat_object"),
            }
            body["tools"] = [*body.get("tools", ()), {"type": "function", "function": function}]
            body["tool_choice"] = (
                dialect.required_tool if call.tools else {"type": "function", "function": {"name": name}}
            )
        case "json_object":
            said = orjson.dumps(compile_schema(schema, "chat_object")).decode()
            text = f"Answer with one JSON value that fits this JSON Schema:\n{said}"
            body["response_format"] = {"type": "json_object"}
            body["messages"] = [{"role": "system", "content": text}, *body["messages"]]
        case _:
            body["response_format"] = {"type": "json_schema", "json_schema": _json_schema(schema, call.model, dialect)}


def _json_schema(schema: Mapping[str, Any], model: str, dialect: Dialect) -> dict[str, Any]:
    """In strict mode if that does not change what is accepted."""
    if strict := dialect.strict_dialect(model):
        with contextlib.suppress(UnsupportedContent):
            return {"name": "answer", "schema": compile_schema(schema, strict), "strict": True}
    return {"name": "answer", "schema": compile_schema(schema, dialect.loose_schema), "strict": False}

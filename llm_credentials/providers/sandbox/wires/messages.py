"""Anthropic's messages."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any

import orjson

from llm_credentials.providers.sandbox.asks import JSON, Ask, Frames, Image, Refused, Reply, Tool, ToolResult
from llm_credentials.providers.sandbox.failures import Failure
from llm_credentials.providers.sandbox.wires.base import (
    IMAGE_TOKENS,
    MESSAGE_TOKENS,
    Stamp,
    argument_pieces,
    as_list,
    as_object,
    as_text,
    base64_image,
    check_share,
    data_url_image,
    stop_words,
    text_tokens,
    tools_weight,
    whole_number,
)

_TOOL_NAME = re.compile(r"^[a-zA-Z0-9_-]{1,128}$")
_FINISH = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
    "unknown": "sandbox_unknown",
}
MIN_BUDGET_TOKENS = 1_024


class MessagesWire:
    name = "messages"

    def read(self, body: JSON, model: str, stream: bool | None) -> Ask:
        ask = read_prompt(body)
        ask.stream = body.get("stream") is True
        ask.max_tokens = whole_number(body, "max_tokens")
        if ask.max_tokens is None:
            raise Refused("400", "max_tokens: Field required", param="max_tokens")
        check_share(body, "temperature", 1)
        check_share(body, "top_p", 1)
        ask.stop = stop_words(body.get("stop_sequences"), "stop_sequences", 100)
        _read_thinking(body, ask)
        return ask

    def whole(self, ask: Ask, reply: Reply, stamp: Stamp) -> JSON:
        content: list[JSON] = []
        if reply.reasoning:
            thought = "".join(reply.reasoning)
            content.append({"type": "thinking", "thinking": thought, "signature": signature(thought, ask.model)})
        if reply.pieces:
            content.append({"type": "text", "text": reply.text})
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": orjson.loads(call.arguments)}
            if _is_object(call.arguments)
            else {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
            for call in reply.calls
        ]
        return {
            "id": stamp.id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": ask.model,
            "content": content,
            "stop_reason": _FINISH[reply.finish],
            "stop_sequence": reply.stop_sequence,
            "usage": usage(reply),
        }

    def frames(self, ask: Ask, reply: Reply, stamp: Stamp) -> Frames:
        counted = usage(reply)
        message = self.whole(ask, Reply(), stamp) | {"stop_reason": None, "usage": counted | {"output_tokens": 1}}
        head = [frame("message_start", {"message": message})]
        content: list[bytes] = []
        for index, part in enumerate(_blocks(reply, ask.model)):
            content += block_frames(index, *part)
        if content:
            head += [content.pop(0), b'event: ping\ndata: {"type": "ping"}\n\n']
        delta = {"stop_reason": _FINISH[reply.finish], "stop_sequence": reply.stop_sequence}
        tail = [frame("message_delta", {"delta": delta, "usage": counted}), frame("message_stop", {})]
        return Frames(head, content, tail, [0])

    def failure(self, failure: Failure, stamp: Stamp) -> tuple[int, JSON]:
        return failure.messages_status or failure.status, {
            "type": "error",
            "error": {"type": failure.messages_type, "message": failure.messages_message or failure.message},
            "request_id": stamp.id("req_"),
        }

    def failure_frame(self, failure: Failure, stamp: Stamp) -> bytes:
        return b"event: error\ndata: " + orjson.dumps(self.failure(failure, stamp)[1]) + b"\n\n"

    def request_id(self, stamp: Stamp) -> tuple[str, str] | None:
        return "request-id", stamp.id("req_")


def frame(event: str, values: JSON) -> bytes:
    return b"event: %s\ndata: " % event.encode() + orjson.dumps({"type": event, **values}) + b"\n\n"


def signature(thought: str, model: str) -> str:
    """Proves that a thinking block is this model's own."""
    signed = f"{model}\n{thought}".encode("utf-8", "surrogatepass")
    return "sbx-sig-" + blake2b(signed, digest_size=24).hexdigest()


def usage(reply: Reply) -> JSON:
    counted = reply.usage
    return {
        "input_tokens": counted.prompt_tokens - counted.cached_tokens - counted.cache_write_tokens,
        "cache_creation_input_tokens": counted.cache_write_tokens,
        "cache_read_input_tokens": counted.cached_tokens,
        "output_tokens": counted.output_tokens,
        "output_tokens_details": {"thinking_tokens": counted.reasoning_tokens},
        "service_tier": "standard",
    }


def _blocks(reply: Reply, model: str) -> list[tuple[JSON, list[JSON]]]:
    """Each block of an answer: its opening and its deltas."""
    blocks: list[tuple[JSON, list[JSON]]] = []
    if reply.reasoning:
        deltas: list[JSON] = [{"type": "thinking_delta", "thinking": piece} for piece in reply.reasoning]
        deltas.append({"type": "signature_delta", "signature": signature("".join(reply.reasoning), model)})
        blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, deltas))
    if reply.pieces:
        blocks.append(({"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in reply.pieces]))
    for call in reply.calls:
        pieces = ["", *argument_pieces(call.arguments)]
        opening: JSON = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        blocks.append((opening, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]))
    return blocks


def block_frames(index: int, opening: JSON, deltas: list[JSON]) -> list[bytes]:
    before = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":' % index
    return [
        frame("content_block_start", {"index": index, "content_block": opening}),
        *[before + orjson.dumps(delta) + b"}\n\n" for delta in deltas],
        frame("content_block_stop", {"index": index}),
    ]


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(orjson.loads(arguments), dict)
    except orjson.JSONDecodeError:
        return False


def read_prompt(body: JSON) -> Ask:
    """Everything that counts as prompt; `count_tokens` requests have the same fields."""
    ask = Ask(model=as_text(body.get("model"), "model"))
    _read_tools(body, ask)
    ask.prefix.append(tools_weight(body.get("tools")))
    if any(tool.get("cache_control") for tool in body.get("tools") or ()):
        ask.cache_upto = 1
    if (system := body.get("system")) is not None:
        ask.system = _read_system(system, ask)
        ask.prefix.append((hash(ask.system), text_tokens(ask.system)))
        if ask.cache_upto == -1:
            ask.cache_upto = len(ask.prefix)
    _read_messages(as_list(body.get("messages"), "messages"), ask)
    ask.prompt_tokens = 3 + sum(tokens for _, tokens in ask.prefix)
    wanted = body.get("output_format") or as_object(body.get("output_config") or {}, "output_config").get("format")
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        ask.schema = as_object(wanted.get("schema"), "output_config.format.schema")
    return ask


def _read_thinking(body: JSON, ask: Ask) -> None:
    if (thinking := body.get("thinking")) is None:
        return
    kind = as_object(thinking, "thinking").get("type")
    if kind not in ("enabled", "adaptive", "disabled"):
        raise Refused("400", "thinking.type is not known.", param="thinking.type")
    ask.thinking = kind != "disabled"
    if kind == "enabled":
        budget = whole_number(thinking, "budget_tokens", MIN_BUDGET_TOKENS)
        if budget is None or budget >= (ask.max_tokens or 0):
            raise Refused("400", "thinking.budget_tokens must be less than max_tokens.", param="thinking")
        _check_turn_of_calls(body["messages"])
    if ask.thinking and ask.choice not in ("auto", "none"):
        raise Refused("400", "Thinking may not be enabled when tool_choice forces tool use.", param="tool_choice")


def _check_turn_of_calls(messages: list[JSON]) -> None:
    """With a thinking budget, a turn whose calls were just answered must begin with a thinking block."""
    turn = messages[-2] if len(messages) > 1 else {}
    content = turn.get("content")
    if turn.get("role") != "assistant" or not isinstance(content, list) or not content:
        return
    calls = any(block.get("type") == "tool_use" for block in content)
    if calls and content[0].get("type") not in ("thinking", "redacted_thinking"):
        raise Refused("400", "The last turn of the assistant must begin with a thinking block.", param="messages")


def _read_tools(body: JSON, ask: Ask) -> None:
    for position, tool in enumerate(as_list(body.get("tools") or [], "tools")):
        where = f"tools.{position}"
        name = as_text(as_object(tool, where).get("name"), f"{where}.name")
        if not _TOOL_NAME.match(name):
            raise Refused("400", f"{where}.name may have letters, digits, _ and - only.", param=f"{where}.name")
        if tool.get("type") in (None, "custom"):
            schema = as_object(tool.get("input_schema"), f"{where}.input_schema")
            if schema.get("type") != "object":
                raise Refused("400", f"{where}.input_schema.type must be object.", param=where)
            ask.tools.append(Tool(name, str(tool.get("description") or ""), schema))
    if (choice := body.get("tool_choice")) is None:
        return
    kind = as_object(choice, "tool_choice").get("type")
    ask.parallel = choice.get("disable_parallel_tool_use") is not True
    ask.choice = {"auto": "auto", "none": "none", "any": "required"}.get(str(kind), str(choice.get("name")))
    if kind not in ("auto", "none", "any", "tool") or not ask.tools:
        raise Refused("400", "tool_choice is allowed with tools only: auto, any, tool or none.", param="tool_choice")
    if kind == "tool" and ask.choice not in {tool.name for tool in ask.tools}:
        raise Refused("400", "tool_choice names a tool that is not there.", param="tool_choice")


def _read_system(system: Any, ask: Ask) -> str:
    if isinstance(system, str):
        return system
    texts = []
    for position, block in enumerate(as_list(system, "system")):
        texts.append(as_text(as_object(block, f"system.{position}").get("text"), f"system.{position}.text"))
        if block.get("cache_control"):
            ask.cache_upto = -1  # replaced by the caller with the place after the system text
    return "\n\n".join(texts)


def _read_messages(messages: list[Any], ask: Ask) -> None:
    if not messages:
        raise Refused("400", "messages: at least one message is required", param="messages")
    names: dict[str, str] = {}
    waiting: set[str] = set()
    for position, message in enumerate(messages):
        where = f"messages.{position}"
        message = as_object(message, where)
        role = message.get("role")
        if role not in ("user", "assistant"):
            raise Refused("400", f"{where}.role must be user or assistant.", param=f"{where}.role")
        if position == 0 and role != "user":
            raise Refused("400", "The first message must be the user's.", param=where)
        content = message.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else as_list(content, where)
        if not blocks and position < len(messages) - 1:
            raise Refused("400", f"{where}.content must not be empty.", param=where)
        reader = _Turn(ask, names, waiting, where)
        for block in blocks:
            reader.read(as_object(block, where))
        reader.finish(role)
        if role == "user" and waiting:
            raise Refused("400", f"{where}: each tool_use must have a tool_result right after it.", param=where)
    if waiting:
        raise Refused("400", "The last tool_use has no tool_result.", param="messages")


class _Turn:
    """Parses the blocks of one message."""

    def __init__(self, ask: Ask, names: dict[str, str], waiting: set[str], where: str) -> None:
        self.ask, self.names, self.waiting, self.where = ask, names, waiting, where
        self.texts: list[str] = []
        self.images: list[Image] = []
        self.results: list[ToolResult] = []
        self.weight = MESSAGE_TOKENS
        self.cached = False

    def read(self, block: JSON) -> None:
        self.cached = self.cached or bool(block.get("cache_control"))
        match block.get("type"):
            case "text":
                text = as_text(block.get("text"), f"{self.where}.text")
                if not text:
                    raise Refused("400", f"{self.where}: text content blocks must be non-empty", param=self.where)
                self.texts.append(text)
            case "image":
                self.images.append(_image(as_object(block.get("source"), f"{self.where}.source"), self.where))
            case "tool_use":
                id = as_text(block.get("id"), f"{self.where}.id")
                self.names[id] = as_text(block.get("name"), f"{self.where}.name")
                as_object(block.get("input"), f"{self.where}.input")
                self.waiting.add(id)
                self.weight += text_tokens(str(block))
            case "tool_result":
                self.result(block)
            case "thinking":
                thought = as_text(block.get("thinking"), f"{self.where}.thinking")
                if block.get("signature") != signature(thought, self.ask.model):
                    raise Refused("400", f"{self.where}: invalid signature in thinking block", param=self.where)
            case "redacted_thinking":
                pass
            case _:
                raise Refused("400", f"{self.where}: this type of block is not known.", param=self.where)

    def result(self, block: JSON) -> None:
        id = as_text(block.get("tool_use_id"), f"{self.where}.tool_use_id")
        if id not in self.waiting:
            raise Refused("400", f"{self.where}: tool_result answers no tool_use before it.", param=self.where)
        self.waiting.discard(id)
        content = block.get("content") or ""
        if not isinstance(content, str):
            parts = [as_object(part, self.where) for part in as_list(content, self.where)]
            content = "\n".join(filter(None, (_shown(part, self.where) for part in parts)))
        self.results.append(ToolResult(self.names[id], content, block.get("is_error") is True))

    def finish(self, role: str) -> None:
        ask, text = self.ask, "\n".join(self.texts)
        ask.results = self.results
        ask.images = self.images
        ask.total_images += len(self.images)
        if role == "user" and (text or self.images or not self.results):
            ask.turns.append(text)
            ask.results = [] if text else ask.results
        tokens = self.weight + text_tokens(text) + IMAGE_TOKENS * len(self.images)
        tokens += sum(text_tokens(result.content) for result in self.results)
        ask.prefix.append((hash((role, text, *[result.content for result in self.results])), tokens))
        if self.cached:
            ask.cache_upto = len(ask.prefix)


def _shown(part: JSON, where: str) -> str:
    """The text of a part of a tool result; an image is described."""
    if part.get("type") == "image":
        image = _image(as_object(part.get("source"), f"{where}.source"), where)
        return f"an image ({image.media_type or 'of an unknown type'})"
    return str(part["text"]) if part.get("type") == "text" and "text" in part else ""


def _image(source: JSON, where: str) -> Image:
    match source.get("type"):
        case "base64":
            return base64_image(source.get("data"), source.get("media_type"), f"{where}.source.data")
        case "url":
            return data_url_image(as_text(source.get("url"), f"{where}.source.url"), f"{where}.source.url")
        case _:
            raise Refused("400", f"{where}.source.type is not known.", param=where)

"""Chat completions, as in OpenAI's and compatible APIs, including Azure's paths and additions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from llm_credentials.providers.sandbox.asks import JSON, Ask, Call, Frames, Refused, Reply, Tool, ToolResult
from llm_credentials.providers.sandbox.failures import Failure
from llm_credentials.providers.sandbox.wires.base import (
    IMAGE_TOKENS,
    MESSAGE_TOKENS,
    Stamp,
    argument_pieces,
    as_list,
    as_object,
    as_text,
    check_share,
    data_url_image,
    sse,
    stop_words,
    text_tokens,
    tools_weight,
    whole_number,
)

_TOOL_NAME = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
_TOOL_CHOICES = frozenset({"auto", "none", "required", "any"})
"""``any`` is some providers' word for ``required``."""
_FINISH = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "stop",
    "unknown": "sandbox_unknown",
}
_SAFE = {"hate": {"filtered": False, "severity": "safe"}, "violence": {"filtered": False, "severity": "safe"}}
DONE = b"data: [DONE]\n\n"
MOST_ANSWERS = 128


class ChatWire:
    def __init__(self, name: str = "chat", azure: bool = False) -> None:
        self.name = name
        self.azure = azure

    def read(self, body: JSON, model: str, stream: bool | None) -> Ask:
        ask = Ask(model=model or as_text(body.get("model"), "model"), stream=body.get("stream") is True)
        _read_parameters(body, ask)
        _read_tools(body, ask)
        _read_messages(as_list(body.get("messages"), "messages"), ask)
        weight, tokens = tools_weight(body.get("tools"))
        ask.prefix.insert(0, (weight, tokens))
        ask.prompt_tokens = 3 + sum(tokens for _, tokens in ask.prefix)
        return ask

    def whole(self, ask: Ask, reply: Reply, stamp: Stamp) -> JSON:
        choices = [self._choice(ask, reply, index) for index in range(ask.answers)]
        answer: JSON = {
            "id": stamp.id("chatcmpl-"),
            "object": "chat.completion",
            "created": stamp.created,
            "model": ask.model,
            "choices": choices,
            "usage": usage(reply),
            "system_fingerprint": "fp_sandbox",
        }
        if self.azure:
            answer["prompt_filter_results"] = [{"prompt_index": 0, "content_filter_results": _SAFE}]
        return answer

    def _choice(self, ask: Ask, reply: Reply, index: int) -> JSON:
        message: JSON = {"role": "assistant", "content": reply.text or None, "refusal": None}
        if reply.finish == "refusal":
            message["content"], message["refusal"] = None, reply.text
        if ask.thinking:
            message["reasoning_content"] = "".join(reply.reasoning)
        if reply.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in _calls_of(reply, index)
            ]
        choice = {"index": index, "message": message, "logprobs": None, "finish_reason": _FINISH[reply.finish]}
        return {**choice, "content_filter_results": _SAFE} if self.azure else choice

    def frames(self, ask: Ask, reply: Reply, stamp: Stamp) -> Frames:
        model = orjson.dumps(ask.model)
        start = (
            b'data: {"id":"%s","object":"chat.completion.chunk","created":%d,"model":%s,'
            b'"system_fingerprint":"fp_sandbox","choices":'
        ) % (stamp.id("chatcmpl-").encode(), stamp.created, model)
        deltas = [start + b'[{"index":%d,"delta":' % index for index in range(ask.answers)]
        no_usage = b',"usage":null' if ask.include_usage else b""
        after = b',"logprobs":null,"finish_reason":null}]' + no_usage + b"}\n\n"
        first: JSON = {"role": "assistant", "content": None if reply.calls else ""}
        if ask.thinking:
            first["reasoning_content"] = ""
        head = [delta + orjson.dumps(first) + after for delta in deltas]
        if self.azure:
            head.insert(0, sse(_azure_prompt_filter()))
        finish = b',"logprobs":null,"finish_reason":"%s"}]' % _FINISH[reply.finish].encode()
        tail = [delta + b"{}" + finish + no_usage + b"}\n\n" for delta in deltas]
        places = []
        if ask.include_usage:
            places.append(len(tail))
            tail.append(start + b'[],"usage":' + orjson.dumps(usage(reply)) + b"}\n\n")
        tail.append(DONE)
        # Choices are interleaved, as from providers that generate them concurrently.
        sides = [_deltas(reply, delta, after, index) for index, delta in enumerate(deltas)]
        return Frames(head, [frame for together in zip(*sides, strict=True) for frame in together], tail, places)

    def failure(self, failure: Failure, stamp: Stamp) -> tuple[int, JSON]:
        if self.azure and failure.status in (401, 404):
            code = "401" if failure.status == 401 else "DeploymentNotFound"
            return failure.status, {"error": {"code": code, "message": failure.message}}
        error = {
            "message": failure.message,
            "type": failure.chat_type,
            "param": failure.param or None,
            "code": failure.chat_code,
        }
        if self.azure and failure.chat_code == "content_filter":
            error["innererror"] = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": _SAFE}  # type: ignore[assignment]
        return failure.status, {"error": error}

    def failure_frame(self, failure: Failure, stamp: Stamp) -> bytes:
        return sse(self.failure(failure, stamp)[1])

    def request_id(self, stamp: Stamp) -> tuple[str, str] | None:
        return "x-request-id", stamp.id("req_")


def usage(reply: Reply) -> JSON:
    counted = reply.usage
    return {
        "prompt_tokens": counted.prompt_tokens,
        "completion_tokens": counted.output_tokens,
        "total_tokens": counted.prompt_tokens + counted.output_tokens,
        "prompt_tokens_details": {"cached_tokens": counted.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": counted.reasoning_tokens, "audio_tokens": 0},
    }


def _azure_prompt_filter() -> JSON:
    results = [{"prompt_index": 0, "content_filter_results": _SAFE}]
    return {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": results}


def _calls_of(reply: Reply, index: int) -> list[Call]:
    """The calls of one choice; all ids are unique."""
    return [replace(call, id=f"{call.id}{index}") for call in reply.calls] if index else reply.calls


def _deltas(reply: Reply, delta: bytes, after: bytes, choice: int) -> list[bytes]:
    dumps = orjson.dumps
    thought, said = delta + b'{"content":null,"reasoning_content":', delta + b'{"content":'
    if reply.finish == "refusal":
        said = delta + b'{"refusal":'
    after = b"}" + after
    frames = [thought + dumps(piece) + after for piece in reply.reasoning]
    frames += [said + dumps(piece) + after for piece in reply.pieces]
    for index, call in enumerate(_calls_of(reply, choice)):
        frames += call_deltas(index, call, lambda value: delta + b'{"tool_calls":[' + dumps(value) + b"]" + after)
    return frames


def call_deltas(index: int, call: Call, frame: Callable[[JSON], bytes]) -> list[bytes]:
    """One call as in a stream: its name first, then its arguments in pieces."""
    opening = {"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
    return [frame(opening)] + [
        frame({"index": index, "function": {"arguments": piece}}) for piece in argument_pieces(call.arguments)
    ]


def _read_parameters(body: JSON, ask: Ask) -> None:
    check_share(body, "temperature", 2)
    check_share(body, "top_p", 1)
    ask.answers = whole_number(body, "n") or 1
    if ask.answers > MOST_ANSWERS:
        raise Refused("400", f"n: the sandbox gives at most {MOST_ANSWERS} choices.", param="n")
    ask.max_tokens = whole_number(body, "max_completion_tokens") or whole_number(body, "max_tokens")
    ask.stop = stop_words(body.get("stop"), "stop", 4)
    options = body.get("stream_options")
    if options is not None and not ask.stream:
        raise Refused("400", "stream_options is allowed with stream only.", param="stream_options")
    ask.include_usage = isinstance(options, dict) and options.get("include_usage") is True
    ask.thinking = body.get("reasoning_effort") in ("low", "medium", "high", "xhigh", "max")
    wanted = body.get("response_format")
    if wanted is not None:
        kind = as_object(wanted, "response_format").get("type")
        if kind == "json_schema":
            named = as_object(wanted.get("json_schema"), "response_format.json_schema")
            ask.schema = as_object(named.get("schema"), "response_format.json_schema.schema")
        elif kind == "json_object":
            ask.schema = {}
        elif kind != "text":
            raise Refused("400", "response_format.type is not known.", param="response_format.type")


def _read_tools(body: JSON, ask: Ask) -> None:
    for position, tool in enumerate(as_list(body.get("tools") or [], "tools")):
        where = f"tools[{position}].function"
        function = as_object(as_object(tool, f"tools[{position}]").get("function"), where)
        name = as_text(function.get("name"), f"{where}.name")
        if not _TOOL_NAME.match(name):
            raise Refused("400", f"{where}.name may have letters, digits, _ and - only.", param=f"{where}.name")
        schema = as_object(function.get("parameters") or {}, f"{where}.parameters")
        ask.tools.append(Tool(name, str(function.get("description") or ""), schema))
    ask.parallel = body.get("parallel_tool_calls") is not False
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = as_object(choice.get("allowed_tools"), "tool_choice.allowed_tools")
        listed = as_list(allowed.get("tools"), "tool_choice.allowed_tools.tools")
        named = [as_object(each, "tool_choice.allowed_tools.tools").get("function") for each in listed]
        names = {as_object(each, "tool_choice.allowed_tools.tools").get("name") for each in named}
        ask.tools = [tool for tool in ask.tools if tool.name in names]
        choice = as_text(allowed.get("mode"), "tool_choice.allowed_tools.mode")
    if isinstance(choice, dict):
        choice = as_text(as_object(choice.get("function"), "tool_choice.function").get("name"), "tool_choice")
        if choice not in {tool.name for tool in ask.tools}:
            raise Refused("400", "tool_choice names a tool that is not there.", param="tool_choice")
    elif choice is not None and (as_text(choice, "tool_choice") not in _TOOL_CHOICES or not ask.tools):
        raise Refused("400", "tool_choice is allowed with tools only: auto, none or required.", param="tool_choice")
    elif choice == "any":
        choice = "required"
    ask.choice = choice or "auto"


def _read_messages(messages: list[Any], ask: Ask) -> None:
    if not messages:
        raise Refused("400", "messages must not be empty.", param="messages")
    names: dict[str, str] = {}
    waiting: set[str] = set()
    for position, message in enumerate(messages):
        where = f"messages[{position}]"
        message = as_object(message, where)
        role = message.get("role")
        if waiting and role != "tool":
            raise Refused("400", f"{where}: each tool call must be answered by a tool message.", param=where)
        text, images = _read_content(message.get("content"), ask, f"{where}.content")
        tokens = MESSAGE_TOKENS + text_tokens(text) + IMAGE_TOKENS * images
        if role in ("system", "developer"):
            ask.system = f"{ask.system}\n\n{text}" if ask.system else text
        elif role == "user":
            ask.turns.append(text)
            ask.results = []
        elif role == "assistant":
            ask.results = []
            waiting = _read_calls(message, names, where)
            tokens += sum(text_tokens(str(call)) for call in message.get("tool_calls") or ())
        elif role == "tool":
            id = as_text(message.get("tool_call_id"), f"{where}.tool_call_id")
            if id not in waiting:
                raise Refused("400", f"{where} answers no tool call before it.", param=where)
            waiting.discard(id)
            ask.results.append(ToolResult(names[id], text))
        else:
            raise Refused("400", f"{where}.role is not known.", param=f"{where}.role")
        ask.prefix.append((hash((role, text)), tokens))
    if waiting:
        raise Refused("400", "The last tool calls have no answer.", param="messages")


def _read_calls(message: JSON, names: dict[str, str], where: str) -> set[str]:
    ids = set()
    for call in as_list(message.get("tool_calls") or [], f"{where}.tool_calls"):
        function = as_object(as_object(call, f"{where}.tool_calls").get("function"), f"{where}.tool_calls.function")
        id = as_text(call.get("id"), f"{where}.tool_calls.id")
        as_text(function.get("arguments"), f"{where}.tool_calls.function.arguments")
        names[id] = as_text(function.get("name"), f"{where}.tool_calls.function.name")
        ids.add(id)
    return ids


def _read_content(content: Any, ask: Ask, where: str) -> tuple[str, int]:
    """A message's text and number of images; keeps the images of the last message that has any."""
    if isinstance(content, str):
        ask.images = []
        return content, 0
    if content is None:
        return "", 0
    texts, images = [], []
    for position, part in enumerate(as_list(content, where)):
        inside = f"{where}[{position}]"
        match as_object(part, inside).get("type"):
            case "text":
                texts.append(as_text(part.get("text"), f"{inside}.text"))
            case "refusal":
                texts.append(as_text(part.get("refusal"), f"{inside}.refusal"))
            case "image_url":
                url = as_object(part.get("image_url"), f"{inside}.image_url").get("url")
                images.append(data_url_image(as_text(url, f"{inside}.image_url.url"), f"{inside}.image_url.url"))
            case _:
                raise Refused("400", f"{inside}.type is not known.", param=f"{inside}.type")
    ask.images = images
    ask.total_images += len(images)
    return "\n".join(texts), len(images)

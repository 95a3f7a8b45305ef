"""Google's generateContent."""

from __future__ import annotations

import re
from base64 import b64encode, urlsafe_b64decode
from binascii import Error as Base64Error
from hashlib import blake2b
from typing import Any

import orjson

from llm_credentials.providers.sandbox.asks import JSON, Ask, Call, Frames, Image, Refused, Reply, Tool, ToolResult
from llm_credentials.providers.sandbox.failures import Failure
from llm_credentials.providers.sandbox.models import BY_ID
from llm_credentials.providers.sandbox.wires.base import (
    IMAGE_TOKENS,
    MESSAGE_TOKENS,
    Stamp,
    as_list,
    as_object,
    as_text,
    base64_image,
    check_share,
    sse,
    stop_words,
    text_tokens,
    tools_weight,
    whole_number,
)

_TOOL_NAME = re.compile(r"^[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}$")
_CAPITAL = re.compile(r"(?<!^)([A-Z])")
_FINISH = {
    "stop": "STOP",
    "stop_sequence": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "content_filter": "SAFETY",
    "refusal": "PROHIBITED_CONTENT",
    "unknown": "SANDBOX_UNKNOWN",
}
_MODES = {"AUTO": "auto", "VALIDATED": "auto", "MODE_UNSPECIFIED": "auto", "ANY": "required", "NONE": "none"}
# Values that Google documents for history written by another model.
_FOREIGN_SIGNATURES = {"skip_thought_signature_validator", "context_engineering_is_the_way_to_go"}
_QUOTA_METRIC = "generativelanguage.googleapis.com/generate_content_requests"
_SIGNED = b"sbx-sig:"


class GenerateWire:
    name = "generate"

    def read(self, body: JSON, model: str, stream: bool | None) -> Ask:
        ask = Ask(model=model, stream=bool(stream))
        config = as_object(pick(body, "generationConfig") or {}, "generationConfig")
        _read_config(config, ask)
        _read_tools(body, ask)
        ask.prefix.append(tools_weight(body.get("tools")))
        if (system := pick(body, "systemInstruction")) is not None:
            ask.system = _texts(as_object(system, "systemInstruction"))
            ask.prefix.append((hash(ask.system), text_tokens(ask.system)))
        _Reader(ask).read(as_list(body.get("contents"), "contents"))
        ask.prompt_tokens = 1 + sum(tokens for _, tokens in ask.prefix)
        return ask

    def whole(self, ask: Ask, reply: Reply, stamp: Stamp) -> JSON:
        parts: list[JSON] = []
        if reply.reasoning and ask.show_thinking:
            parts.append({"text": "".join(reply.reasoning), "thought": True})
        if reply.pieces:
            parts.append({"text": reply.text})
        parts += call_parts(reply.calls)
        if ask.thinking and reply.pieces:
            parts[-1]["thoughtSignature"] = signature("", reply.text)
        content: JSON = {"parts": parts, "role": "model"} if parts else {}
        candidate = {"content": content, "finishReason": _FINISH[reply.finish], "index": 0}
        return {"candidates": [candidate], "usageMetadata": usage(reply), **_signed_off(ask, stamp)}

    def frames(self, ask: Ask, reply: Reply, stamp: Stamp) -> Frames:
        rest = orjson.dumps(_signed_off(ask, stamp))[1:]
        counted = usage(reply)
        content: list[bytes] = []
        thoughts = 0
        for piece in reply.reasoning:
            thoughts += 1
            if ask.show_thinking:
                content.append(_chunk({"text": piece, "thought": True}, counted, 0, thoughts, rest))
        for number, piece in enumerate(reply.pieces, 1):
            content.append(_chunk({"text": piece}, counted, number, thoughts, rest))
        said = len(reply.pieces)
        for part in call_parts(reply.calls):
            said += 5
            content.append(_chunk(part, counted, said, thoughts, rest))
        last: JSON = {"text": ""}
        if ask.thinking and reply.pieces:
            last["thoughtSignature"] = signature("", reply.text)
        candidate = {"content": {"parts": [last], "role": "model"}, "finishReason": _FINISH[reply.finish], "index": 0}
        tail = sse({"candidates": [candidate], "usageMetadata": counted, **_signed_off(ask, stamp)})
        return Frames([], content, [tail], [0])

    def prompt_refused(self, ask: Ask, stamp: Stamp) -> JSON:
        """In this format a refused prompt is not an error but an answer without candidates."""
        return {
            "promptFeedback": {"blockReason": "SAFETY"},
            "usageMetadata": {"promptTokenCount": ask.prompt_tokens, "totalTokenCount": ask.prompt_tokens},
            **_signed_off(ask, stamp),
        }

    def failure(self, failure: Failure, stamp: Stamp) -> tuple[int, JSON]:
        status = failure.generate_http or failure.status
        error: JSON = {
            "code": status,
            "message": failure.generate_message or failure.message,
            "status": failure.generate_status,
        }
        details: list[JSON] = []
        if failure.reason:
            details.append(
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": failure.reason,
                    "domain": "googleapis.com",
                    "metadata": {"service": "generativelanguage.googleapis.com"},
                }
            )
        if failure.quota_id:
            violation = {"quotaMetric": _QUOTA_METRIC, "quotaId": failure.quota_id}
            details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]})
        if failure.retry_after:
            details.append(
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{failure.retry_after}s"}
            )
        if details:
            error["details"] = details
        return status, {"error": error}

    def failure_frame(self, failure: Failure, stamp: Stamp) -> bytes:
        return sse(self.failure(failure, stamp)[1])

    def request_id(self, stamp: Stamp) -> tuple[str, str] | None:
        return None


def pick(body: JSON, name: str) -> Any:
    """A field by its name in camel case or snake case: both are accepted."""
    return body[name] if name in body else body.get(_CAPITAL.sub(r"_\1", name).lower())


def signature(name: str, content: Any) -> str:
    """Proves that a call or text is the sandbox's own; opaque to others."""
    raw = name.encode() + orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return b64encode(_SIGNED + blake2b(raw, digest_size=25).digest()).decode()


def usage(reply: Reply) -> JSON:
    counted = reply.usage
    made: JSON = {
        "promptTokenCount": counted.prompt_tokens,
        "candidatesTokenCount": counted.output_tokens - counted.reasoning_tokens,
        "totalTokenCount": counted.prompt_tokens + counted.output_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": counted.prompt_tokens}],
    }
    if counted.reasoning_tokens:
        made["thoughtsTokenCount"] = counted.reasoning_tokens
    if counted.cached_tokens:
        made["cachedContentTokenCount"] = counted.cached_tokens
    return made


def call_parts(calls: list[Call]) -> list[JSON]:
    parts = []
    for call in calls:
        try:
            arguments = orjson.loads(call.arguments)
        except orjson.JSONDecodeError:
            arguments = call.arguments
        function = {"name": call.name, "args": arguments} | ({"id": call.id} if call.id else {})
        parts.append({"functionCall": function})
    if parts:
        first = parts[0]["functionCall"]
        parts[0]["thoughtSignature"] = signature(str(first["name"]), first["args"])  # type: ignore[assignment]
    return parts


def _signed_off(ask: Ask, stamp: Stamp) -> JSON:
    return {"modelVersion": ask.model, "responseId": stamp.id("")}


def _chunk(part: JSON, counted: JSON, said: int, thoughts: int, rest: bytes) -> bytes:
    prompt: int = counted["promptTokenCount"]
    return (
        b'data: {"candidates":[{"content":{"parts":['
        + orjson.dumps(part)
        + b'],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":%d,"candidatesTokenCount":%d,'
        b'"totalTokenCount":%d%s},'
        % (prompt, said, prompt + said + thoughts, b',"thoughtsTokenCount":%d' % thoughts if thoughts else b"")
        + rest
        + b"\n\n"
    )


def _read_config(config: JSON, ask: Ask) -> None:
    check_share(config, "temperature", 2)
    check_share(config, "topP", 1)
    ask.max_tokens = whole_number({"maxOutputTokens": pick(config, "maxOutputTokens")}, "maxOutputTokens")
    if pick(config, "candidateCount") not in (None, 1):
        raise Refused("400", "The sandbox gives one candidate.", param="candidateCount")
    ask.stop = stop_words(pick(config, "stopSequences"), "stopSequences", 5)
    schema = pick(config, "responseJsonSchema") or pick(config, "responseSchema")
    if schema is not None:
        ask.schema = as_object(schema, "responseSchema")
        if pick(config, "responseMimeType") != "application/json":
            raise Refused("400", "A response schema needs responseMimeType application/json.", param="responseMimeType")
    elif pick(config, "responseMimeType") == "application/json":
        ask.schema = {}
    ask.show_thinking = False
    if (thinking := pick(config, "thinkingConfig")) is not None:
        as_object(thinking, "thinkingConfig")
        ask.thinking = pick(thinking, "thinkingBudget") != 0
        ask.show_thinking = pick(thinking, "includeThoughts") is True


def _read_tools(body: JSON, ask: Ask) -> None:
    for tool in as_list(body.get("tools") or [], "tools"):
        for function in as_list(pick(as_object(tool, "tools"), "functionDeclarations") or [], "functionDeclarations"):
            name = as_text(as_object(function, "functionDeclarations").get("name"), "functionDeclarations.name")
            if not _TOOL_NAME.match(name):
                raise Refused("400", "A function name begins with a letter or _ and has no spaces.", param="name")
            schema = pick(function, "parametersJsonSchema") or function.get("parameters") or {}
            ask.tools.append(
                Tool(name, str(function.get("description") or ""), as_object(schema, "functionDeclarations.parameters"))
            )
    config = pick(as_object(pick(body, "toolConfig") or {}, "toolConfig"), "functionCallingConfig") or {}
    mode = str(as_object(config, "functionCallingConfig").get("mode") or "AUTO")
    if mode not in _MODES:
        raise Refused("400", "functionCallingConfig.mode is not known.", param="mode")
    ask.choice = _MODES[mode]
    if ask.choice == "required":
        if not ask.tools:
            raise Refused("400", "Function calling mode ANY needs function declarations.", param="mode")
        allowed = as_list(pick(config, "allowedFunctionNames") or [], "allowedFunctionNames")
        if allowed:
            ask.tools = [tool for tool in ask.tools if tool.name in allowed]
            if not ask.tools:
                raise Refused("400", "allowedFunctionNames names no function that is there.", param="mode")


def _texts(content: JSON) -> str:
    parts = as_list(content.get("parts"), "parts")
    return "\n".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))


class _Reader:
    """Parses a request's contents."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.calls: list[JSON] = []
        """The calls of the turn just read; the next turn must answer them."""
        self.unsigned = False
        """Whether a call since the user's last message lacks its signature."""

    def read(self, contents: list[Any]) -> None:
        if not contents:
            raise Refused("400", "contents is not specified", param="contents")
        for position, content in enumerate(contents):
            where = f"contents[{position}]"
            role = as_object(content, where).get("role") or "user"
            if role not in ("user", "model", "function"):
                raise Refused("400", "Please use a valid role: user, model.", param=f"{where}.role")
            parts = [as_object(part, where) for part in as_list(content.get("parts"), f"{where}.parts")]
            if not parts:
                raise Refused("400", f"{where}.parts must not be empty.", param=where)
            self.turn(str(role), parts, where)
        if self.calls:
            raise Refused("400", "The last function calls have no responses.", param="contents")
        facts = BY_ID.get(self.ask.model)
        if self.unsigned and facts is not None and facts.id == "sandbox-reasoner":
            raise Refused(
                "400", "Function call is missing a thought_signature in functionCall parts.", param="contents"
            )

    def turn(self, role: str, parts: list[JSON], where: str) -> None:
        ask, texts, tokens = self.ask, [], MESSAGE_TOKENS
        images: list[Image] = []
        results: list[ToolResult] = []
        calls: list[JSON] = []
        for part in parts:
            if (call := pick(part, "functionCall")) is not None:
                calls.append(as_object(call, f"{where}.functionCall"))
                self.check_signature(part, call, first=len(calls) == 1)
                tokens += text_tokens(str(call))
            elif (response := pick(part, "functionResponse")) is not None:
                results.append(_result(as_object(response, f"{where}.functionResponse")))
            elif (inline := pick(part, "inlineData")) is not None:
                data = as_object(inline, f"{where}.inlineData")
                images.append(base64_image(data.get("data"), pick(data, "mimeType"), f"{where}.inlineData.data"))
            elif (file := pick(part, "fileData")) is not None:
                images.append(Image(str(pick(as_object(file, where), "mimeType") or "image"), None))
            elif "text" in part:
                if not part.get("thought"):
                    texts.append(as_text(part["text"], f"{where}.text"))
            else:
                raise Refused("400", f"{where}: a part must hold data.", param=where)
        if len(results) != len(self.calls):
            raise Refused(
                "400",
                "The number of function response parts must equal the number of function call parts before them.",
                param=where,
            )
        self.calls = calls
        text = "\n".join(texts)
        ask.results, ask.images = results, images
        ask.total_images += len(images)
        if role != "model" and (text or not results):
            ask.turns.append(text)
            ask.results, self.unsigned = ([] if text else results), False
        tokens += text_tokens(text) + IMAGE_TOKENS * len(images) + sum(text_tokens(one.content) for one in results)
        ask.prefix.append((hash((role, text, *[one.content for one in results])), tokens))

    def check_signature(self, part: JSON, call: JSON, first: bool) -> None:
        """Refuses a foreign signature; notes a first call without one."""
        given = pick(part, "thoughtSignature")
        if given is None:
            self.unsigned = self.unsigned or first
            return
        if as_text(given, "thoughtSignature") in _FOREIGN_SIGNATURES:
            return
        try:
            raw = urlsafe_b64decode(given.replace("+", "-").replace("/", "_"))
        except (Base64Error, ValueError):
            raw = b""
        if raw.decode("latin-1") in _FOREIGN_SIGNATURES:
            return
        ours = signature(str(call.get("name")), call.get("args") or {})
        if b64encode(raw).decode() != ours:
            raise Refused("400", "Corrupted thought signature.", param="thoughtSignature")


def _result(response: JSON) -> ToolResult:
    body = as_object(response.get("response"), "functionResponse.response")
    content = next((body[key] for key in ("result", "output", "error") if key in body), body)
    text = content if isinstance(content, str) else orjson.dumps(content).decode()
    return ToolResult(as_text(response.get("name"), "functionResponse.name"), text, "error" in body)

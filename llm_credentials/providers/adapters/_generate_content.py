"""The generateContent wire: our vocabulary to its JSON and back. Pure: no I/O, no SDK."""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from llm_credentials.providers.errors import (
    AuthenticationFailed,
    BadProviderResponse,
    ContentFiltered,
    ContextLengthExceeded,
    LLMError,
    ModelNotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    UnsupportedContent,
)
from llm_credentials.providers.messages import (
    Call,
    FinishReason,
    ImagePart,
    LLMMessage,
    LLMResponse,
    LLMStreamChunk,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCall,
    ToolDefinition,
    ToolResult,
)
from llm_credentials.providers.schema import compile_schema
from llm_credentials.providers.transport import load_json
from llm_credentials.providers.usage import Usage, add, count
from llm_credentials.providers.wire import (
    AnswerIds,
    IdRule,
    WireIds,
    check_place,
    data_url,
    own_details,
    parse_arguments,
    safe_code,
    status_error,
)

IDS = IdRule(pattern=re.compile(r"[\x21-\x7e]{1,128}"))
TOOL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}")
IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/webp", "image/heic", "image/heif"})

UNSIGNED = "skip_thought_signature_validator"
"""What the provider's documentation gives to put where a call that another model made has no signature of this one."""

FINISH_REASONS: Mapping[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
}

# `error.details[].reason` of a google.rpc.ErrorInfo.
ERROR_REASONS: Mapping[str, type[LLMError]] = {
    "API_KEY_INVALID": AuthenticationFailed,
    "API_KEY_EXPIRED": AuthenticationFailed,
    "API_KEY_NOT_FOUND": AuthenticationFailed,
    "CREDENTIALS_MISSING": AuthenticationFailed,
    "ACCESS_TOKEN_EXPIRED": AuthenticationFailed,
    "ACCESS_TOKEN_TYPE_UNSUPPORTED": AuthenticationFailed,
    "ACCOUNT_STATE_INVALID": AuthenticationFailed,
    "API_KEY_SERVICE_BLOCKED": PermissionDenied,
    "API_KEY_HTTP_REFERRER_BLOCKED": PermissionDenied,
    "API_KEY_IP_ADDRESS_BLOCKED": PermissionDenied,
    "API_KEY_ANDROID_APP_BLOCKED": PermissionDenied,
    "API_KEY_IOS_APP_BLOCKED": PermissionDenied,
    "CONSUMER_SUSPENDED": PermissionDenied,
    "CONSUMER_INVALID": PermissionDenied,
    "SERVICE_DISABLED": PermissionDenied,
    "LOCATION_POLICY_VIOLATED": PermissionDenied,
    "BILLING_DISABLED": QuotaExhausted,
    "RESOURCE_QUOTA_EXCEEDED": QuotaExhausted,
    "RATE_LIMIT_EXCEEDED": RateLimited,
    "RESOURCE_USAGE_RESTRICTION_VIOLATED": PermissionDenied,
}
# `error.status`, where it says more than the HTTP status; the others (INVALID_ARGUMENT, INTERNAL …) only repeat it.
ERROR_STATUSES: Mapping[str, type[LLMError]] = {
    "UNAUTHENTICATED": AuthenticationFailed,
    "PERMISSION_DENIED": PermissionDenied,
    "FAILED_PRECONDITION": PermissionDenied,  # the region is closed, or closed to keys without billing
    "NOT_FOUND": ModelNotFound,
    "RESOURCE_EXHAUSTED": RateLimited,
    "CANCELLED": ProviderUnavailable,
}
PLAIN_STATUSES = frozenset({402, 408})
"""HTTP statuses that leave nothing to say."""
# Where neither reason nor status tells, these fixed openings of the message are all there is.
ERROR_OPENINGS: tuple[tuple[str, str, type[LLMError]], ...] = (
    ("INVALID_ARGUMENT", "The input token count", ContextLengthExceeded),
    ("RESOURCE_EXHAUSTED", "Your prepayment credits are depleted", QuotaExhausted),
)


# Requests


def encode_contents(call: Call, slug: str, *, signed: bool) -> list[dict[str, Any]]:
    """The conversation without its system messages. ``signed``: the model wants every turn of calls signed.

    Raises UnsupportedContent, and RequestRejected when nothing is left to send.
    """
    ids = WireIds(IDS)
    names = {part.id: part.name for message in call.messages for part in message.tool_calls}
    contents: list[dict[str, Any]] = []
    last: Role | None = None
    for message in call.messages:
        if message.role == "system":
            for part in message.parts:
                check_place(part, "system")
            continue
        parts = [
            wire
            for part in message.parts
            if (wire := _encode_part(part, message.role, call.model, slug, ids, names)) is not None
        ]
        if not parts:
            continue
        if signed and message.role == "assistant":
            _sign(parts)
        # Results of one turn's calls have to come together, with nothing else between.
        if last == message.role:
            contents[-1]["parts"].extend(parts)
        else:
            contents.append({"role": "model" if message.role == "assistant" else "user", "parts": parts})
        last = message.role
    if not contents:
        raise RequestRejected("There is no message to answer: a system prompt alone is none.")
    return contents


def _sign(parts: Sequence[dict[str, Any]]) -> None:
    calls = [part for part in parts if "functionCall" in part]
    if calls and not any("thoughtSignature" in part for part in calls):
        calls[0]["thoughtSignature"] = UNSIGNED


def _encode_part(
    part: Part, role: Role, model: str, slug: str, ids: WireIds, names: Mapping[str, str]
) -> dict[str, Any] | None:
    """The part in the wire's form; None for what has nothing to say here (no text, another model's reasoning)."""
    check_place(part, role)
    match part:
        case TextPart():
            own = own_details(part.details, slug, model) or {}
            if "part" in own:
                return dict(own["part"])
            return _with_signature({"text": part.text}, own) if part.text or own.get("signature") else None
        case ReasoningPart():
            thought = own_details(part.details, slug, model)
            return None if thought is None else _with_signature({"text": part.text, "thought": True}, thought)
        case ImagePart():
            return _encode_image(part)
        case ToolCall():
            function = {"id": ids.call(part.id), "name": part.name, "args": part.arguments}
            return _with_signature({"functionCall": function}, own_details(part.details, slug, model) or {})
        case ToolResult():
            name = part.name or names.get(part.call_id, "")
            answer = {"error" if part.is_error else "output": part.content}
            return {"functionResponse": {"id": ids.result(part.call_id), "name": name, "response": answer}}


def _with_signature(wire: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    if signature := own.get("signature"):
        wire["thoughtSignature"] = signature
    return wire


def _encode_image(part: ImagePart) -> dict[str, Any]:
    image = data_url(part)
    if image.data is not None:
        _check_image_type(image.media_type)
        return {"inlineData": {"mimeType": image.media_type, "data": base64.b64encode(image.data).decode("ascii")}}
    if not (image.url or "").startswith("https://"):
        raise UnsupportedContent("An image's address begins with https:// here.")
    media_type = image.media_type or mimetypes.guess_type((image.url or "").partition("?")[0])[0]
    _check_image_type(media_type)
    return {"fileData": {"mimeType": media_type, "fileUri": image.url}}


def _check_image_type(media_type: str | None) -> None:
    if media_type not in IMAGE_TYPES:
        raise UnsupportedContent("An image is JPEG, PNG, WebP, HEIC or HEIF here, and its type must be known.")


def encode_tools(tools: Sequence[ToolDefinition]) -> list[dict[str, Any]]:
    for tool in tools:
        if not TOOL_NAME.fullmatch(tool.name):
            raise UnsupportedContent("A tool's name begins with a letter or _ here, then letters, digits and _ . : -.")
    declarations = [
        {
            "name": tool.name,
            "description": tool.description,
            "parametersJsonSchema": compile_schema(tool.parameters, "contents_object"),
        }
        for tool in tools
    ]
    return [{"functionDeclarations": declarations}]


def encode_tool_choice(choice: str) -> dict[str, Any]:
    match choice:
        case "auto" | "none":
            return {"mode": choice.upper()}
        case "required":
            return {"mode": "ANY"}
        case name:
            return {"mode": "ANY", "allowedFunctionNames": [name]}


# Answers


class Answer:
    """One answer as it is put together part by part; the same for complete and streamed ones."""

    __slots__ = ("_open", "answer_tool", "chosen", "data", "finish_reason", "ids", "model", "parts", "slug", "usage")

    def __init__(self, *, slug: str, model: str, answer_tool: str | None) -> None:
        self.slug = slug
        self.model = model
        self.answer_tool = answer_tool
        self.ids: AnswerIds | None = None
        self.parts: list[Part] = []
        self.data: dict[str, Any] = {}
        """What the provider says beside parts and usage, the latest of each name."""
        self.usage: dict[str, Any] = {}
        self.finish_reason: str | None = None
        self.chosen = False
        """Whether a candidate has come."""
        self._open: list[str] | None = None
        """Pieces of the last part of ``parts``, while more of its kind may come."""

    def feed(self, data: Any) -> Iterator[LLMStreamChunk]:
        """One answer object, the whole or a piece of it, or a list of pieces, which some gateways make of a stream.

        Raises ContentFiltered, BadProviderResponse, or the error in it.
        """
        pieces = data if isinstance(data, list) and data else [data]
        for piece in pieces:
            yield from self._piece(piece)

    def _piece(self, data: Any) -> Iterator[LLMStreamChunk]:
        if not isinstance(data, dict):
            raise BadProviderResponse("The answer is no object.")
        if "error" in data:
            raise body_error(data, None)
        self._note(data)
        candidates = data.get("candidates")
        if candidates is None or candidates == []:
            self._without_candidate(data)
            return
        if not isinstance(candidates, list) or not isinstance(candidates[0], dict):
            raise BadProviderResponse("The answer's candidates are malformed.")
        self.chosen = True
        yield from self._candidate(candidates[0])

    def _note(self, data: Mapping[str, Any]) -> None:
        if self.ids is None:
            self.ids = AnswerIds(str(data.get("responseId")))
        usage = data.get("usageMetadata")
        if isinstance(usage, dict):
            self.usage.update(usage)
        for name, value in data.items():
            if name not in ("candidates", "usageMetadata") and value is not None:
                self.data[name] = value

    def _without_candidate(self, data: Mapping[str, Any]) -> None:
        feedback = data.get("promptFeedback")
        if isinstance(feedback, dict) and feedback.get("blockReason"):
            raise ContentFiltered(code=safe_code(feedback["blockReason"]))
        if "usageMetadata" not in data:
            raise BadProviderResponse("The answer has no candidate.")

    def _candidate(self, candidate: Mapping[str, Any]) -> Iterator[LLMStreamChunk]:
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        if parts is not None and not isinstance(parts, list):
            raise BadProviderResponse("The answer's parts are malformed.")
        for part in parts or ():
            if not isinstance(part, dict):
                raise BadProviderResponse("A part of the answer is malformed.")
            yield from self._part(part)
        for name, value in candidate.items():
            if name not in ("content", "index") and value is not None:
                self.data[name] = value
        if reason := candidate.get("finishReason"):
            self.finish_reason = str(reason)

    def _part(self, part: Mapping[str, Any]) -> Iterator[LLMStreamChunk]:
        text = part.get("text")
        if isinstance(text, str):
            yield from self._text(text, thought=part.get("thought") is True, signature=part.get("thoughtSignature"))
            return
        self._close()
        if "functionCall" in part:
            yield from self._call(part)
        else:
            # A tool that ran on the provider's side, or a signature alone: kept in its place, for this provider only.
            self.parts.append(TextPart(text="", details={self.slug: {"part": dict(part), "model": self.model}}))

    def _text(self, text: str, *, thought: bool, signature: Any) -> Iterator[LLMStreamChunk]:
        kind = ReasoningPart if thought else TextPart
        own: dict[str, Any] = {"signature": signature} if signature else {}
        if signature or self._open is None or type(self.parts[-1]) is not kind:
            if not text and not signature:
                return
            self._close()
            # What is signed goes back exactly as it came, so it is joined with nothing. A thought is marked as this
            # provider's even without a signature.
            self.parts.append(
                kind(text=text, details={self.slug: {**own, "model": self.model}} if own or thought else {})
            )
            self._open = None if signature else [text]
        else:
            self._open.append(text)
        if text:
            yield LLMStreamChunk(type="reasoning" if thought else "delta", text=text)

    def _close(self) -> None:
        if self._open is not None and len(self._open) > 1:
            last = self.parts[-1]
            if isinstance(last, TextPart | ReasoningPart):
                self.parts[-1] = type(last)(text="".join(self._open), details=last.details)
        self._open = None

    def _call(self, part: Mapping[str, Any]) -> Iterator[LLMStreamChunk]:
        function = part["functionCall"]
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            raise BadProviderResponse("A call of a tool has no name.")
        given, invalid = function.get("args"), None
        if isinstance(given, str):
            arguments, invalid = parse_arguments(given)
        elif given is None or isinstance(given, dict):
            arguments = given or {}
        else:
            arguments, invalid = {}, orjson.dumps(given).decode()
        if name == self.answer_tool:
            text = invalid or orjson.dumps(arguments).decode()
            yield from self._text(text, thought=False, signature=None)
            return
        signature = part.get("thoughtSignature")
        call = ToolCall(
            id=(self.ids or AnswerIds("")).take(function.get("id")),
            name=name,
            arguments=arguments,
            invalid_arguments=invalid,
            details={self.slug: {"signature": signature, "model": self.model}} if signature else {},
        )
        self.parts.append(call)
        yield LLMStreamChunk(type="tool_call", tool_call=call)

    def response(self) -> LLMResponse:
        self._close()
        message = LLMMessage(role="assistant", parts=tuple(self.parts))
        model, identity = self.data.get("modelVersion"), self.data.get("responseId")
        reason = FINISH_REASONS.get(self.finish_reason or "", "other")
        return LLMResponse(
            message=message,
            finish_reason="tool_calls" if reason == "stop" and message.tool_calls else reason,
            usage=decode_usage(self.usage),
            provider=self.slug,
            model=model if isinstance(model, str) and model else self.model,
            request_id=identity if isinstance(identity, str) else None,
            details={self.slug: dict(self.data)},
        )


def decode_usage(usage: Mapping[str, Any]) -> Usage:
    """Here the candidates' count leaves out the thoughts, and the prompt's what tools on the provider's side put in."""
    prompt = count(usage.get("promptTokenCount"))
    thoughts = count(usage.get("thoughtsTokenCount"))
    return Usage(
        input_tokens=None if prompt is None else prompt + (count(usage.get("toolUsePromptTokenCount")) or 0),
        output_tokens=add(count(usage.get("candidatesTokenCount")), thoughts),
        cache_read_tokens=count(usage.get("cachedContentTokenCount")),
        reasoning_tokens=thoughts,
    )


class GenerateContentDecoder:
    """Server-sent events of one answer to chunks; see client.StreamDecoder."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.ended = False
        self.has_content = False

    @property
    def empty(self) -> bool:
        """Whether no candidate has come at all: not even a cut makes sense of such a stream."""
        return not self.answer.chosen

    def feed(self, event: str, data: bytes) -> Iterator[LLMStreamChunk]:
        for chunk in self.answer.feed(load_json(data)):
            self.has_content = True
            yield chunk
        self.ended = self.answer.finish_reason is not None

    def finish(self) -> Iterator[LLMStreamChunk]:
        return iter(())

    def response(self) -> LLMResponse:
        return self.answer.response()


# Errors


def body_error(body: object, status: int | None) -> LLMError:
    """The error in this body: by its reason, else its status word, else the HTTP status."""
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    details = [entry for entry in error.get("details") or () if isinstance(entry, dict)]
    word, reason = error.get("status"), next((entry["reason"] for entry in details if "reason" in entry), None)
    code = count(error.get("code"))
    status = status if status is not None else code
    found = ERROR_REASONS.get(str(reason)) or _by_opening(word, error.get("message"))
    if found in (None, RateLimited) and word == "RESOURCE_EXHAUSTED":
        found = QuotaExhausted if _is_daily(details) else RateLimited
    if found is None and status not in PLAIN_STATUSES:
        found = ERROR_STATUSES.get(str(word))
    if found is None:
        found = ProviderUnavailable if status is None else status_error(status)
    ours = found(status_code=status, code=safe_code(reason) or safe_code(word))
    ours.retry_after_s = _retry_delay_s(details)
    return ours


def _by_opening(word: object, message: object) -> type[LLMError] | None:
    if not isinstance(message, str):
        return None
    return next((found for of, opening, found in ERROR_OPENINGS if word == of and message.startswith(opening)), None)


def _is_daily(details: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a quota that lasts for the day (or for good) is spent, not one of the minute."""
    violations = [entry for detail in details for entry in detail.get("violations") or () if isinstance(entry, dict)]
    return any("PerDay" in str(entry.get("quotaId")) or str(entry.get("quotaValue")) == "0" for entry in violations)


def _retry_delay_s(details: Sequence[Mapping[str, Any]]) -> float | None:
    for detail in details:
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?s", delay):
            return float(delay[:-1])
    return None

"""What all wire formats share: tool ids and arguments, images, addresses, error codes."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import importlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson

from llm_credentials.providers.errors import (
    AuthenticationFailed,
    BadProviderResponse,
    DeadlineExceeded,
    LLMError,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    UnsupportedContent,
)
from llm_credentials.providers.messages import (
    Call,
    Details,
    ImagePart,
    LLMMessage,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCall,
    ToolResult,
)

_STATUS_ERRORS: Mapping[int, type[LLMError]] = {
    401: AuthenticationFailed,
    402: QuotaExhausted,
    403: PermissionDenied,
    408: DeadlineExceeded,
    409: ProviderUnavailable,
    429: RateLimited,
}
_CODE = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


async def import_aside(module: str) -> None:
    """Import an SDK in a thread: it takes up to a second, which would block the event loop."""
    if module not in sys.modules:
        await asyncio.to_thread(importlib.import_module, module)


def status_error(status: int) -> type[LLMError]:
    """The error class for a status, unless the provider's own code is more specific."""
    if status in _STATUS_ERRORS:
        return _STATUS_ERRORS[status]
    if status >= 500:
        return ProviderUnavailable
    return RequestRejected if status >= 400 else BadProviderResponse


def strip_suffixes(address: str, suffixes: tuple[str, ...]) -> str:
    """A pasted address without the suffixes that the wire format appends, however often they occur."""
    address = address.strip().rstrip("/")
    while suffix := next((suffix for suffix in suffixes if address.lower().endswith(suffix)), None):
        address = address[: -len(suffix)].rstrip("/")
    return address


def json_or_none(data: bytes) -> Any:
    """For an error's body, which may be anything."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def own_details(details: Details, slug: str, model: str) -> Mapping[str, Any] | None:
    """This provider's details of a part if the same model wrote it: a model rejects what another one signed."""
    own = details.get(slug)
    return own if isinstance(own, Mapping) and own.get("model", model) == model else None


def safe_code(value: object) -> str | None:
    """A provider's error code if it looks like one; anything else may quote the request and is dropped."""
    return value if isinstance(value, str) and _CODE.fullmatch(value) else None


def parse_arguments(text: str) -> tuple[dict[str, Any], str | None]:
    """A tool call's arguments, and the text itself if it is not a JSON object. Empty text means no arguments."""
    if not text or text.isspace():
        return {}, None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}, text
    return (value, None) if isinstance(value, dict) else ({}, text)


_PLACES: Mapping[type, tuple[Role, ...]] = {
    TextPart: ("system", "user", "assistant"),
    ImagePart: ("user",),
    ReasoningPart: ("assistant",),
    ToolCall: ("assistant",),
    ToolResult: ("tool", "user"),
}


def check_place(part: Part, role: Role) -> None:
    """Raises UnsupportedContent if a message of this role cannot contain the part."""
    if role not in _PLACES[type(part)]:
        raise UnsupportedContent(f"A message of the {role} cannot hold a {type(part).__name__}.")


def after_results(messages: Iterable[LLMMessage]) -> Iterator[LLMMessage]:
    """For formats with text-only tool results: a tool's images follow in a user message after all results of a turn."""
    results: list[ToolResult] = []
    for message in messages:
        if message.role != "tool" and (shown := _shown_by(results)):
            yield LLMMessage.user(shown)
        results = [*results, *message.tool_results] if message.role == "tool" else []
        yield message
    if shown := _shown_by(results):
        yield LLMMessage.user(shown)


def _shown_by(results: Sequence[ToolResult]) -> list[Part]:
    """The text names no tool: a model that reads a tool's name in a message may call it again."""
    shown: list[Part] = []
    for number, result in enumerate(results, start=1):
        if result.images:
            whose = f"result {number}" if len(results) > 1 else "the tool"
            shown += [TextPart(text=f"Shown by {whose}:"), *result.images]
    return shown


def said_by(result: ToolResult) -> str:
    """The text of a result; a result that has only images needs some text too."""
    return result.content or ("What it showed follows." if result.images else "")


def answer_tool_name(call: Call) -> str:
    """The tool whose arguments are the answer, for models that support a schema in no other way."""
    name = "answer"
    while any(tool.name == name for tool in call.tools):
        name += "_"
    return name


def data_url(part: ImagePart) -> ImagePart:
    """The image with the bytes of its ``data:`` URL; unchanged for any other address. Raises UnsupportedContent."""
    if part.url is None or not part.url.startswith("data:"):
        return part
    header, comma, payload = part.url[len("data:") :].partition(",")
    media_type, *parameters = header.split(";")
    try:
        data = base64.b64decode(payload, validate=True) if "base64" in parameters else unquote_to_bytes(payload)
    except binascii.Error:
        data = b""
    if not (comma and data and media_type):
        raise UnsupportedContent("An image's data: address is malformed.")
    return ImagePart(data=data, media_type=media_type)


def encode_json(body: Mapping[str, Any]) -> bytes:
    """The request body. Raises RequestRejected for what JSON cannot express, such as a lone surrogate."""
    try:
        return orjson.dumps(body, default=_plain)
    except TypeError:
        pass
    try:  # Integers beyond 64 bits are valid JSON, but orjson rejects them.
        return json.dumps(body, default=_plain, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise RequestRejected("The request holds something that is no valid text or JSON.") from None


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


@dataclass(frozen=True, kw_only=True, slots=True)
class IdRule:
    """The tool ids that a wire format accepts."""

    pattern: re.Pattern[str]
    """What an id must match; ids generated here are ``prefix`` and lower-case hexadecimal digits."""
    length: int = 40
    """The length of a generated id, including its prefix."""
    prefix: str = "call_"


@dataclass(slots=True)
class WireIds:
    """Maps canonical tool ids to those of a wire format, for one conversation in its order.

    An acceptable id stays as it is. Any other, and one that an earlier turn already used (some providers number each
    answer's calls from 0), is replaced by its digest: the same conversation always gets the same ids.
    """

    rule: IdRule
    _given: dict[str, str] = field(default_factory=dict)
    """The latest wire id of each canonical one."""
    _used: set[str] = field(default_factory=set)

    def call(self, canonical: str) -> str:
        """The id of a new call."""
        wire = canonical if self.rule.pattern.fullmatch(canonical) else self._made(canonical)
        turn = 1
        while wire in self._used:
            turn += 1
            wire = self._made(f"{canonical}\n{turn}")
        self._used.add(wire)
        self._given[canonical] = wire
        return wire

    def result(self, canonical: str) -> str:
        """The id with which the result of that call is sent."""
        return self._given.get(canonical) or self.call(canonical)

    def _made(self, seed: str) -> str:
        digits = self.rule.length - len(self.rule.prefix)
        return self.rule.prefix + hashlib.sha256(seed.encode("utf-8", "surrogatepass")).hexdigest()[:digits]


@dataclass(slots=True)
class AnswerIds:
    """Canonical ids for one answer's calls: the provider's own if given and unique; else made from ``seed``."""

    seed: str
    """Distinguishes this answer from others, such as its id."""
    _used: set[str] = field(default_factory=set)

    def take(self, given: object) -> str:
        if isinstance(given, str) and given and given not in self._used:
            self._used.add(given)
            return given
        seed = f"{self.seed}\n{len(self._used)}"
        made = "call_" + hashlib.sha256(seed.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        self._used.add(made)
        return made

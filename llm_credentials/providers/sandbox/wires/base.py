"""What the three wire formats share: their interface, and the parsing of fields that may contain anything."""

from __future__ import annotations

import math
from binascii import Error as Base64Error
from binascii import a2b_base64
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from llm_credentials.providers.sandbox.asks import JSON, Ask, Frames, Image, Refused, Reply
from llm_credentials.providers.sandbox.failures import Failure

IMAGE_TOKENS = 85
MESSAGE_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Stamp:
    """Distinguishes two otherwise equal answers."""

    number: int
    run: str
    """The same for all answers of one server, and different for the next."""
    created: int
    """Unix time."""

    def id(self, prefix: str) -> str:
        return f"{prefix}sbx{self.run}{self.number:06d}"


class Wire(Protocol):
    """One wire format. `read…` raise Refused; all other methods only render."""

    name: str

    def read(self, body: JSON, model: str, stream: bool | None) -> Ask:
        """Parses a chat request; `model` and `stream` come from the path, if it has them."""

    def whole(self, ask: Ask, reply: Reply, stamp: Stamp) -> JSON:
        """The answer to a request without streaming."""

    def frames(self, ask: Ask, reply: Reply, stamp: Stamp) -> Frames:
        """The answer as events."""

    def failure(self, failure: Failure, stamp: Stamp) -> tuple[int, JSON]:
        """The status and body of an error."""

    def failure_frame(self, failure: Failure, stamp: Stamp) -> bytes:
        """An error in the middle of a stream."""

    def request_id(self, stamp: Stamp) -> tuple[str, str] | None:
        """Name and value of the request-id header."""


def text_tokens(text: str) -> int:
    return len(text) // 4 + 1 if text else 0


def as_object(value: Any, where: str) -> JSON:
    if not isinstance(value, dict):
        raise Refused("400", f"{where} must be an object.", param=where)
    return value


def as_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise Refused("400", f"{where} must be an array.", param=where)
    return value


def as_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise Refused("400", f"{where} must be a string.", param=where)
    return value


def whole_number(body: JSON, name: str, least: int = 1) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise Refused("400", f"{name} must be a whole number of at least {least}.", param=name)
    return value


def check_share(body: JSON, name: str, most: float) -> None:
    """Refuse a number outside 0 to `most`."""
    value = body.get(name)
    if value is None:
        return
    bad = isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
    if bad or not 0 <= value <= most:
        raise Refused("400", f"{name} must be a number from 0 to {most:g}.", param=name)


def stop_words(value: Any, name: str, most: int) -> list[str]:
    if value is None:
        return []
    words = [value] if isinstance(value, str) else as_list(value, name)
    if len(words) > most or not all(isinstance(word, str) for word in words):
        raise Refused("400", f"{name} must be at most {most} strings.", param=name)
    return words


def base64_image(data: Any, media_type: Any, where: str) -> Image:
    try:
        size = len(a2b_base64(as_text(data, where)))
    except (Base64Error, ValueError):
        raise Refused("400", f"{where} is not base64.", param=where) from None
    if not size:
        raise Refused("400", f"{where} is empty.", param=where)
    return Image(str(media_type or ""), size)


def data_url_image(url: str, where: str) -> Image:
    """The image of a data URL, or the fact that an image is linked."""
    if not url.startswith("data:"):
        if not url.startswith(("https://", "http://")):
            raise Refused("400", f"{where} must be an http or data URL.", param=where)
        return Image("image", None)
    head, comma, data = url[5:].partition(",")
    if not comma or not head.endswith(";base64"):
        raise Refused("400", f"{where} must be base64.", param=where)
    return base64_image(data, head.removesuffix(";base64"), where)


def tools_weight(tools: Any) -> tuple[int, int]:
    """(hash, tokens) of a request's tools."""
    if not tools:
        return 0, 0
    raw = orjson.dumps(tools)
    return hash(raw), len(raw) // 4


def sse(value: JSON) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def argument_pieces(arguments: str) -> list[str]:
    """A call's JSON in the pieces of a stream, split without regard to its structure."""
    return [arguments[start : start + 7] for start in range(0, min(len(arguments), 700), 7)] + (
        [arguments[start : start + 16_384] for start in range(700, len(arguments), 16_384)]
    )

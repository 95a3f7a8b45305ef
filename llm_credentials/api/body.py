"""JSON bodies, read strictly."""

from __future__ import annotations

import json
from typing import Any, cast

import orjson
from django.http import HttpRequest
from ninja import Schema
from ninja.parser import Parser
from pydantic import ConfigDict

from llm_credentials.api.errors import ApiError

MAX_BODY_BYTES = 1_048_576
MAX_DEPTH = 32


class StrictSchema(Schema):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class StrictJSON(Parser):
    """Refuses what others let through: NaN, lone surrogates, endless depth and numbers, NUL, a name given twice."""

    def parse_body(self, request: HttpRequest) -> dict[str, Any]:
        # Told or counted: a body may come in pieces without saying how long it is.
        if int(request.META.get("CONTENT_LENGTH") or 0) > MAX_BODY_BYTES or len(request.body) > MAX_BODY_BYTES:
            raise ApiError(413, "body_too_large", "The body has more than 1 MiB.")
        if request.content_type not in ("application/json", ""):
            raise ApiError(415, "unsupported_media_type", "Send the body as application/json.")
        try:
            body = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            raise ApiError(400, "invalid_json", "The body is not valid JSON.") from None
        if not isinstance(body, dict):
            raise ApiError(400, "invalid_json", "The body is a JSON object.")
        _check(body, "body", 0)
        _refuse_doubles(request.body)
        return cast("dict[str, Any]", body)


def _check(value: Any, where: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ApiError(400, "invalid_json", f"The body is nested more than {MAX_DEPTH} deep.")
    match value:
        case str() if "\0" in value:
            raise ApiError(422, "invalid_value", "A text holds no NUL character.", where)
        case dict():
            for name, part in value.items():
                if "\0" in name:
                    raise ApiError(422, "invalid_value", "A name holds no NUL character.", where)
                # The name is the caller's own: it is given back only where it could be one of ours.
                _check(part, f"{where}.{name}" if name.isidentifier() and len(name) <= 40 else where, depth + 1)
        case list():
            for number, part in enumerate(value):
                _check(part, f"{where}.{number}", depth + 1)
        case _:
            pass


def _refuse_doubles(text: bytes) -> None:
    """What reads the first of two names and what reads the last would see different requests."""

    def pairs(found: list[tuple[str, Any]]) -> None:
        if len({name for name, _ in found}) < len(found):
            raise ApiError(400, "invalid_json", "A name is given twice in one object.")

    json.loads(text, object_pairs_hook=pairs)

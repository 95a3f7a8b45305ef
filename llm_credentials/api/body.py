"""JSON bodies, read strictly."""

from __future__ import annotations

from typing import Any, cast

import orjson
from django.http import HttpRequest
from ninja.parser import Parser

from llm_credentials.api.errors import ApiError

MAX_BODY_BYTES = 1_048_576


class StrictJSON(Parser):
    """Refuses what the standard library lets through: NaN, lone surrogates, endless depth, numbers past 64 bits."""

    def parse_body(self, request: HttpRequest) -> dict[str, Any]:
        if int(request.META.get("CONTENT_LENGTH") or 0) > MAX_BODY_BYTES:
            raise ApiError(413, "body_too_large", "The body has more than 1 MiB.")
        if request.content_type not in ("application/json", ""):
            raise ApiError(415, "unsupported_media_type", "Send the body as application/json.")
        try:
            body = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            raise ApiError(400, "invalid_json", "The body is not valid JSON.") from None
        if not isinstance(body, dict):
            raise ApiError(400, "invalid_json", "The body is a JSON object.")
        return cast("dict[str, Any]", body)

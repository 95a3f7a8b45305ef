"""``Idempotency-Key``: a post that costs money, sent twice, has one effect; the second is answered as the first was.

Answers are kept for a day, each for its user alone. A post that was refused is not kept: it may be sent again as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Any, Final

from django.core.cache import cache
from django.http import HttpResponse
from django.utils.crypto import salted_hmac
from ninja import Header, Schema
from ninja.responses import Status

from llm_credentials.api.auth import ApiRequest
from llm_credentials.api.errors import ApiError

KEPT_S: Final = 24 * 3600
UNDER_WAY_S: Final = 900
"""After this long without an answer, whoever worked on it has died."""
REPLAYED: Final = "Idempotent-Replayed"

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=200,
        pattern=r"^[!-~]+$",
        description="Of your own making, new for each thing that you want done, such as a UUID. The same key and body "
        "within a day: the first answer once more. Another body: 422. The first still under way: 409.",
    ),
]


def once(
    request: ApiRequest, key: str | None, response: HttpResponse, act: Callable[[], tuple[int, Schema]]
) -> Status[Any]:
    """The answer of ``act``, which is called for the first of all requests with this key, and for those without one."""
    if key is None:
        return Status(*act())
    slot = f"idempotency:{request.user.pk}:{hashlib.sha256(key.encode()).hexdigest()}"
    asked = _fingerprint(request)
    if not cache.add(slot, (asked, None), UNDER_WAY_S):
        kept = cache.get(slot)
        if kept is not None and kept[0] != asked:
            words = "This key was used with another request. Take a new one for something new."
            raise ApiError(422, "idempotency_key_reused", words, "header.Idempotency-Key")
        if kept is None or kept[1] is None:
            words = "The first request with this key is still under way. Send this again in a moment."
            headers = {"Retry-After": "1"}
            raise ApiError(409, "idempotency_under_way", words, "header.Idempotency-Key", headers)
        response[REPLAYED] = "true"
        return Status(*kept[1])
    try:
        status, body = act()
    except BaseException:
        cache.delete(slot)
        raise
    cache.set(slot, (asked, (status, body.model_dump(mode="json"))), KEPT_S)
    return Status(status, body)


def _fingerprint(request: ApiRequest) -> str:
    # Keyed: a body may hold a key, of which nothing that could be tried out is to lie in the cache.
    said = b"\0".join([str(request.method).encode(), request.get_full_path().encode(), request.body])
    return salted_hmac("llm_credentials.api.idempotency", said, algorithm="sha256").hexdigest()

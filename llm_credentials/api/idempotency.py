"""``Idempotency-Key``: a post that costs money, sent twice, has one effect; the second is answered as the first was.

Answers lie in Valkey for a day, each for its user alone, and sealed, since words of theirs may be in them. A post that
was refused is not kept: it may be sent again as it is. While Valkey is away a post with a key is refused with 503, for
no process would know what the others did; and of one that was broken off, nobody can say how far it got: it is never
done a second time under its key.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import orjson
import redis
import structlog
from cryptography.fernet import InvalidToken
from django.conf import settings
from django.http import HttpResponse
from django.utils.crypto import salted_hmac
from ninja import Header, Schema
from ninja.responses import Status

from llm_credentials import keyring, valkey
from llm_credentials.api.auth import ApiRequest
from llm_credentials.api.errors import ApiError
from llm_credentials.ids import new_id

log = structlog.get_logger(__name__)

KEPT_S: Final = 24 * 3600
UNDER_WAY_S: Final = 900
"""After this long without an answer, whoever worked on it has died."""
REPLAYED: Final = "Idempotent-Replayed"
WHERE: Final = "header.Idempotency-Key"

Answer = TypeVar("Answer")

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=200,
        pattern=r"^[!-~]+$",
        # A key is new or refused, which no schema can say: the document says it in words.
        include_in_schema=False,
    ),
]


def once(
    request: ApiRequest, key: str | None, response: HttpResponse, act: Callable[[], tuple[int, Schema]]
) -> Status[Any]:
    """The answer of ``act``, which is called for the first of all requests with this key, and for those without one."""
    if key is None:
        return Status(*act())
    slot = f"keyswitch:idempotency:{request.user.pk}:{hashlib.sha256(key.encode()).hexdigest()}"
    mine = {"asked": _fingerprint(request), "claim": new_id().hex, "at": time.time(), "answer": None}
    if (kept := _claimed(slot, mine)) is not None:
        answer = _answer_kept(slot, kept, mine)
        response[REPLAYED] = "true"
        return Status(*answer)
    try:
        status, body = act()
    except BaseException:
        _try(lambda: _server().delete(slot))
        raise
    try:
        sealed = _sealed(slot, orjson.dumps((status, body.model_dump(mode="json"))))
    except keyring.KeyringError as problem:
        log.warning("idempotency_not_kept", error=type(problem).__name__)
        return Status(status, body)
    _try(lambda: _server().set(slot, orjson.dumps({**mine, "answer": sealed}), ex=KEPT_S))
    return Status(status, body)


def _sealed(slot: str, answer: bytes) -> str:
    """For this place alone. Raises KeyringError."""
    return keyring.ring().encrypt(slot.encode() + b"|" + answer).decode()


def _opened(slot: str, sealed: str) -> tuple[int, Any] | None:
    """None where it is no answer of this place, or its encryption key has left the ring."""
    try:
        place, _bar, answer = keyring.ring().decrypt(sealed.encode()).partition(b"|")
    except (InvalidToken, keyring.KeyringError):
        return None
    if place != slot.encode():
        return None
    status, body = orjson.loads(answer)
    return status, body


def _server() -> redis.Redis:
    return valkey.client(settings.REDIS_URL)


def _claimed(slot: str, mine: dict[str, Any]) -> dict[str, Any] | None:
    """None: this request is the first. Else what the first left. Raises ApiError while Valkey is away."""
    try:
        # What was set although its answer was lost is found to be ours.
        first = _twice(lambda: _server().set(slot, orjson.dumps(mine), ex=KEPT_S, nx=True))
        found = None if first else _twice(lambda: _server().get(slot))
    except redis.RedisError:
        words = "Keys of posts cannot be looked up just now. Nothing was done: send this again in a moment."
        raise ApiError(503, "idempotency_unavailable", words, WHERE, {"Retry-After": "5"}) from None
    if first:
        return None
    # Gone in between: the first was refused, and whoever asks again may be the next.
    kept: dict[str, Any] = orjson.loads(str(found)) if found else {**mine, "claim": ""}
    return None if kept["claim"] == mine["claim"] else kept


def _answer_kept(slot: str, kept: dict[str, Any], mine: dict[str, Any]) -> tuple[int, Any]:
    """Raises ApiError if there is none to give."""
    if kept["asked"] != mine["asked"]:
        words = "This key was used with another request. Take a new one for something new."
        raise ApiError(422, "idempotency_key_reused", words, WHERE)
    if kept["answer"] is not None:
        if (answer := _opened(slot, str(kept["answer"]))) is not None:
            return answer
    elif mine["at"] - kept["at"] < UNDER_WAY_S:
        words = "The first request with this key is still under way. Send this again in a moment."
        raise ApiError(409, "idempotency_under_way", words, WHERE, {"Retry-After": "1"})
    words = "The first request with this key was broken off. See what became of it, then take a new key."
    raise ApiError(409, "idempotency_broken_off", words, WHERE)


def _twice(ask: Callable[[], Answer]) -> Answer:
    """A pooled connection may be one that the server has closed."""
    try:
        return ask()
    except redis.RedisError:
        return ask()


def _try(tell: Callable[[], Any]) -> None:
    try:
        _twice(tell)
    except redis.RedisError as problem:
        log.warning("idempotency_not_kept", error=type(problem).__name__)


def _fingerprint(request: ApiRequest) -> str:
    # Keyed: a body may hold a key, of which nothing that could be tried out is to lie in the cache.
    said = b"\0".join([str(request.method).encode(), request.get_full_path().encode(), request.body])
    return salted_hmac("llm_credentials.api.idempotency", said, algorithm="sha256").hexdigest()

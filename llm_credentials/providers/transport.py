"""Sends requests to providers through ``door.py`` and reads responses within limits and deadlines.

An SDK gets ``http_client(policy)``, an httpx2 client whose requests use the session of ``door.py``. Its responses carry
the aiohttp response, so that ``read_json`` and ``read_events`` read from the socket without a layer in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx2  # noqa: TID251 (its types alone: what is sent goes through the door)

from llm_credentials.providers.bodies import WHOLE_BODY, Body, events_of, load_json, passed_on
from llm_credentials.providers.deadlines import until
from llm_credentials.providers.door import BODY, Client, close_connections, door_of, headers_sent, refuse_unusable
from llm_credentials.providers.egress import EgressPolicy, check_url
from llm_credentials.providers.errors import ConnectionFailed, DeadlineExceeded, ProviderUnavailable
from llm_credentials.providers.failures import failure_of, network_error, refusal, retry_after_s
from llm_credentials.providers.posting import Pattern
from llm_credentials.providers.sse import Event

if TYPE_CHECKING:
    import aiohttp

__all__ = [
    "WHOLE_BODY",
    "Answer",
    "EgressPolicy",
    "Forwarded",
    "HttpClient",
    "Pattern",
    "RawResponse",
    "ask",
    "check_url",
    "close_connections",
    "forward",
    "forwarding",
    "get",
    "http_client",
    "load_json",
    "network_error",
    "pattern_of",
    "post",
    "read_error",
    "read_events",
    "read_json",
    "refusal",
    "retry_after_s",
    "send_like",
]

HttpClient: TypeAlias = httpx2.AsyncClient
"""The HTTP client that SDKs get."""
RawResponse: TypeAlias = httpx2.Response
"""What SDKs return: a response's head, whose body is read here."""

FORWARD_TIMEOUT_S = 900.0
END_GRACE_S = 0.5
"""How long to wait for the end of a stream after its last event before closing the connection instead of reusing it."""

_RESPONSE_HEADERS_NOT_PASSED = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-encoding", "content-length", "set-cookie", "te"}
    | {"trailer", "upgrade", "proxy-authenticate", "proxy-connection", "alt-svc", "strict-transport-security"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Forwarded:
    """A provider's response, passed through. Iterate ``body`` to its end or call ``aclose``."""

    status: int
    headers: Mapping[str, str]
    body: AsyncGenerator[bytes, None]
    close: Callable[[], None] = lambda: None
    """Closes the connection, even if ``body`` was never started."""
    at_hand: Callable[[], bytes | None] = lambda: None
    """The whole body if it arrived with the head; None if not, or once ``body`` was started.

    Raises BadProviderResponse.
    """
    at_end: Callable[[], bool] = lambda: False
    """Whether the whole body has arrived and was read."""

    async def aclose(self) -> None:
        await self.body.aclose()
        self.close()


class Answer:
    """The head of a response to ``send_like``, whose body is read here."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, raw: aiohttp.ClientResponse, body: Body) -> None:
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self.body = body


# Public functions


def pattern_of(sent: httpx2.Request) -> Pattern:
    """A request that an SDK has built and sent, to be sent again with other bodies.

    Building it costs an SDK more than the rest of a call, and only the body differs between calls.
    """
    return Pattern(sent.method, str(sent.url), headers_sent(sent))


def http_client(policy: EgressPolicy, headers: Mapping[str, str] | None = None) -> httpx2.AsyncClient:
    """The HTTP client for an SDK: our session on the running event loop, shared, never to be closed.

    With ``headers``, a separate client over the same session, which sends them with every request.
    """
    door = door_of(policy)
    return door.client if headers is None else Client(door, headers)


async def send_like(policy: EgressPolicy, pattern: Pattern, content: bytes) -> Answer:
    """Send the pattern's request with this body; returns a response of any status. Raises LLMError."""
    try:
        raw = await door_of(policy).send(pattern, content)
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        raise failure from None
    try:
        refuse_unusable(raw)
        return Answer(raw, Body(raw))
    except BaseException:
        raw.close()
        raise


async def read_error(answer: Answer) -> bytes:
    """An error's body, as far as it is useful or arrived."""
    return b"".join([piece async for piece in answer.body])


async def read_json(response: httpx2.Response | Answer) -> Any:
    """The body as parsed JSON. Raises BadProviderResponse, ConnectionFailed."""
    return load_json(await _body(response).read())


async def read_events(
    response: httpx2.Response | Answer,
    deadline: float,
    complete: Callable[[], bool] = lambda: False,
    ended: Callable[[], bool] = lambda: False,
) -> AsyncGenerator[list[Event], None]:
    """Server-sent events as they arrive, in batches of (event name, data). ``deadline`` is loop time.

    A body that is one JSON value instead of events becomes one event called ``WHOLE_BODY``. Once ``complete()`` says
    that the last event has arrived, the end of the body is awaited only briefly, to reuse the connection. Once
    ``ended()`` says that the answer is complete, although more events may follow, a cut is no error. Closing the
    generator closes the connection unless all was read.

    Raises BadProviderResponse (HTML, empty, too large), ConnectionFailed (cut), DeadlineExceeded.
    """
    body = _body(response)
    loop = asyncio.get_running_loop()
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        body.close()

    # One timer for the whole stream: it closes the connection, which ends any pending read.
    timer = loop.call_at(deadline, expire)
    try:
        async for batch in events_of(body):
            yield batch
            if complete():
                timer.cancel()
                timer = loop.call_at(min(deadline, loop.time() + END_GRACE_S), expire)
    except Exception as error:
        failure = DeadlineExceeded() if expired else failure_of(error)
        if complete() or (ended() and isinstance(failure, ProviderUnavailable)):
            return
        if failure is None:
            raise
        raise failure from None
    finally:
        timer.cancel()
        body.close()


async def get(policy: EgressPolicy, url: str, headers: Mapping[str, str]) -> Forwarded:
    """One GET; as ``ask``."""
    return await ask(policy, "GET", url, headers)


async def ask(
    policy: EgressPolicy, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
) -> Forwarded:
    """One request, whatever its response, redirects included; the body is decompressed as it is read, whole or in part.

    Raises EgressBlocked, ConnectionFailed, BadProviderResponse (unknown compression).
    """
    try:
        raw = await door_of(policy).request(method, url, {**headers, "accept-encoding": "gzip, deflate"}, body)
    except Exception as error:
        raise (failure_of(error) or ConnectionFailed()) from None
    try:
        answer = Body(raw)
    except BaseException:
        raw.close()
        raise
    given = {name.lower(): value for name, value in raw.headers.items()}
    return Forwarded(status=raw.status, headers=given, body=_guarded(answer), close=answer.close)


async def _guarded(body: Body) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in body.chunks():
            yield piece
    except Exception as error:
        raise (failure_of(error) or ConnectionFailed()) from None
    finally:
        body.close()


def forwarding(url: str, headers: Mapping[str, str]) -> Pattern:
    """The pattern of a request for ``forward``."""
    return Pattern("POST", url, {**headers, "accept-encoding": "identity"})


async def forward(policy: EgressPolicy, pattern: Pattern, body: bytes) -> Forwarded:
    """Post bytes and pass the response on, whatever its status.

    Raises EgressBlocked, ConnectionFailed, BadProviderResponse.
    """
    door = door_of(policy)
    deadline = asyncio.get_running_loop().time() + FORWARD_TIMEOUT_S
    try:
        with until(deadline):
            raw = await door.send(pattern, body)
    except Exception as error:
        raise (failure_of(error) or ConnectionFailed()) from None
    try:
        refuse_unusable(raw)
        passed = {
            lowered: value
            for name, value in raw.headers.items()
            if (lowered := name.lower()) not in _RESPONSE_HEADERS_NOT_PASSED
        }
        answer = Body(raw)
        return Forwarded(
            status=raw.status,
            headers=passed,
            body=passed_on(answer, deadline),
            close=answer.close,
            at_hand=answer.at_hand,
            at_end=answer.at_end,
        )
    except BaseException:
        raw.close()
        raise


async def post(policy: EgressPolicy, url: str, headers: Mapping[str, str], body: bytes) -> int:
    """Post bytes and return the status; the response's body is not read.

    The caller sets the timeout. Raises EgressBlocked, ConnectionFailed, BadProviderResponse.
    """
    door = door_of(policy)
    try:
        raw = await door.request("POST", url, {**headers, "accept-encoding": "identity"}, body)
    except Exception as error:
        raise (failure_of(error) or ConnectionFailed()) from None
    raw.close()
    return raw.status


def _body(response: httpx2.Response | Answer) -> Body:
    if isinstance(response, Answer):
        return response.body
    body = response.extensions.get(BODY)
    if not isinstance(body, Body):
        raise TypeError("this response did not come through the outbound door")
    return body

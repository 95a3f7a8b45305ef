"""The one outbound door: egress policy, limits and deadlines over one aiohttp session per policy and event loop.

An SDK is given ``http_client(policy)``, an httpx2 client whose requests go through that session. Its responses carry
the aiohttp response, so that ``read_json`` and ``read_events`` take the bytes from the socket without a layer between.

What is checked is what is dialled: the URL object that aiohttp gets is the one whose host was checked, a resolver
refuses a name if any of its addresses is refused, and a socket factory checks each address at the moment of dialling.
Nothing here follows a redirect, keeps a cookie or reads the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import aiohttp
import aiohttp.abc
import aiohttp.connector
import httpx2  # noqa: TID251 (this is the place)
from yarl import URL

from llm_credentials.providers.bodies import WHOLE_BODY, Body, events_of, load_json, passed_on
from llm_credentials.providers.content import Response
from llm_credentials.providers.egress import (
    Destination,
    EgressPolicy,
    address_fault,
    check_destination,
    check_url,
    rules_of,
)
from llm_credentials.providers.errors import (
    BadProviderResponse,
    ConnectionFailed,
    DeadlineExceeded,
    EgressBlocked,
    LLMError,
    ProviderUnavailable,
)
from llm_credentials.providers.failures import (
    Refused,
    failure_of,
    network_error,
    raise_for_httpx2,
    refusal,
    retry_after_s,
)
from llm_credentials.providers.sse import Event

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult

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
    "get",
    "http_client",
    "load_json",
    "network_error",
    "post",
    "read_error",
    "read_events",
    "read_json",
    "refusal",
    "retry_after_s",
    "send_like",
]

HttpClient: TypeAlias = httpx2.AsyncClient
"""What SDKs are given to send with."""
RawResponse: TypeAlias = httpx2.Response
"""What SDKs give back: the head of an answer, whose body is read here."""

CONNECT_TIMEOUT_S = 10.0
"""For name, connection and TLS together."""
IDLE_TIMEOUT_S = 300.0
"""Between two reads, beside the whole call's deadline: a model may think this long before its first byte."""
FORWARD_TIMEOUT_S = 900.0
END_GRACE_S = 0.5
"""How long a stream whose last event has come may take to end, before its connection is closed instead of kept."""
KEEP_ALIVE_S = 15.0
DNS_CACHE_S = 10
MAX_HEADERS = 256
MAX_HEADER_BYTES = 32 * 1024
_BODY = "keyswitch.body"

_REQUEST_HEADERS_NOT_SENT = frozenset(
    {b"host", b"content-length", b"connection", b"transfer-encoding", b"accept-encoding"}
)
"""aiohttp writes its own; ``x-stainless-…``, with which SDKs tell about the machine, is left out too."""
_RESPONSE_HEADERS_NOT_PASSED = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-encoding", "content-length", "set-cookie", "te"}
    | {"trailer", "upgrade", "proxy-authenticate", "proxy-connection", "alt-svc", "strict-transport-security"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Forwarded:
    """A provider's answer passed on as it came. Iterate ``body`` to its end or call ``aclose``."""

    status: int
    headers: Mapping[str, str]
    body: AsyncGenerator[bytes, None]
    close: Callable[[], None] = lambda: None
    """Closes the connection, also when ``body`` was never begun."""
    at_hand: Callable[[], bytes | None] = lambda: None
    """The whole body, where all of it has come with the head; None otherwise, or once ``body`` was begun. Raises
    BadProviderResponse."""
    at_end: Callable[[], bool] = lambda: False
    """Whether all of it has come and was read, so that nothing is left to wait for."""

    async def aclose(self) -> None:
        await self.body.aclose()
        self.close()


class Pattern:
    """A request that an SDK has built and sent, to be sent again with other bodies; it holds the key.

    Building one costs an SDK more than all the rest of a call, and nothing but the body differs from call to call.
    """

    __slots__ = ("headers", "method", "url")

    def __init__(self, sent: httpx2.Request) -> None:
        self.method = sent.method
        self.url = URL(str(sent.url), encoded=True)
        self.headers = _headers_sent(sent)


class Answer:
    """The head of an answer to ``send_like``, whose body is read here."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, raw: aiohttp.ClientResponse, body: Body) -> None:
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self.body = body


# What callers use


def http_client(policy: EgressPolicy, headers: Mapping[str, str] | None = None) -> httpx2.AsyncClient:
    """What an SDK is given as its HTTP client: our session under the running event loop, shared, never to be closed.

    With ``headers`` a client of its own over the same session, which sends them with every request.
    """
    door = _door(policy)
    return door.client if headers is None else _Client(door, headers)


async def send_like(policy: EgressPolicy, pattern: Pattern, content: bytes) -> Answer:
    """The pattern's request with this body; whatever the status of its answer. Raises LLMError."""
    try:
        raw = await _door(policy).request(pattern.method, pattern.url, pattern.headers, content)
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        raise failure from None
    try:
        _refuse_unusable(raw)
        return Answer(raw, Body(raw))
    except BaseException:
        raw.close()
        raise


async def read_error(answer: Answer) -> bytes:
    """As much of an error's body as is of interest, or came."""
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
    """Server-sent events as they come, in batches of (event name, data). ``deadline`` is loop time.

    A body that is one JSON value instead of events is given as one event called ``WHOLE_BODY``. Once ``complete()``
    says that the last event has come, the end of the body is awaited for a moment only, to keep the connection. Once
    ``ended()`` says that the answer is whole, although more events may follow, a cut is no error. Closing the generator
    closes the connection unless all was read.

    Raises BadProviderResponse (HTML, empty, too large), ConnectionFailed (cut), DeadlineExceeded.
    """
    body = _body(response)
    loop = asyncio.get_running_loop()
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        body.close()

    # One timer for the whole stream: it closes the connection, which ends whichever read is waiting.
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
    """One request, whatever its answer, redirects too; the body decompressed as it is read, whole or in part.

    Raises EgressBlocked, ConnectionFailed, BadProviderResponse (compressed in an unknown way).
    """
    try:
        raw = await _door(policy).request(method, url, {**headers, "accept-encoding": "gzip, deflate"}, body)
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


async def forward(
    policy: EgressPolicy, url: str, headers: Mapping[str, str], body: bytes, *, stream: bool
) -> Forwarded:
    """Post bytes and pass the answer on, whatever its status.

    Raises EgressBlocked, ConnectionFailed, BadProviderResponse.
    """
    door = _door(policy)
    deadline = asyncio.get_running_loop().time() + FORWARD_TIMEOUT_S
    try:
        async with asyncio.timeout_at(deadline):
            raw = await door.request("POST", url, {**headers, "accept-encoding": "identity"}, body)
    except Exception as error:
        raise (failure_of(error) or ConnectionFailed()) from None
    try:
        _refuse_unusable(raw)
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
    """Post bytes where nothing but the status of the answer is of interest; its body is not read.

    The caller sets the limit of time. Raises EgressBlocked, ConnectionFailed, BadProviderResponse.
    """
    door = _door(policy)
    try:
        raw = await door.request("POST", url, {**headers, "accept-encoding": "identity"}, body)
    except Exception as error:
        raise (failure_of(error) or ConnectionFailed()) from None
    raw.close()
    return raw.status


async def close_connections() -> None:
    """Close what the running event loop holds, for an orderly end of a process or a test."""
    for door in _doors.pop(asyncio.get_running_loop(), {}).values():
        await door.session.close()


# Sessions

_doors: dict[asyncio.AbstractEventLoop, dict[EgressPolicy, _Door]] = {}
_left_to_parent: list[object] = []


def _door(policy: EgressPolicy) -> _Door:
    loop = asyncio.get_running_loop()
    doors = _doors.get(loop)
    if doors is None:
        _drop_dead_loops()
        doors = _doors[loop] = {}
    door = doors.get(policy)
    if door is None or door.session.closed:
        door = doors[policy] = _Door(policy)
    return door


def _drop_dead_loops() -> None:
    for loop in [loop for loop in _doors if loop.is_closed()]:
        for door in _doors.pop(loop, {}).values():
            # Closing on a closed loop awaits nothing: one step runs it to its end.
            closing = door.session.close()
            with contextlib.suppress(StopIteration, RuntimeError):
                closing.send(None)
            closing.close()


def _forget_after_fork() -> None:
    """The child makes its own sessions. Those of the parent are kept untouched: closing one here would unregister its
    socket from the event queue that both processes share."""
    global _doors
    _left_to_parent.append(_doors)
    _doors = {}


os.register_at_fork(after_in_child=_forget_after_fork)


class _Door:
    """One session under one policy."""

    def __init__(self, policy: EgressPolicy) -> None:
        self.policy = policy
        self.rules = rules_of(policy)
        self.granted: set[tuple[str, int]] = set()
        """Addresses that a name allowed by the policy resolved to."""
        self._checked: set[tuple[str, str, int]] = set()
        connector = aiohttp.TCPConnector(
            resolver=_Resolver(self),
            socket_factory=self._socket,
            limit=0,
            ttl_dns_cache=DNS_CACHE_S,
            keepalive_timeout=KEEP_ALIVE_S,
        )
        self.session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            requote_redirect_url=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S, sock_read=IDLE_TIMEOUT_S),
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            request_class=_Request,
            response_class=Response,
        )
        self.client = _Client(self)

    async def request(
        self, method: str, url: str | URL, headers: Mapping[str, str], body: bytes | None
    ) -> aiohttp.ClientResponse:
        target = url if isinstance(url, URL) else URL(url, encoded=True)
        self._check(target)
        while True:
            try:
                return await self.session.request(method, target, headers=headers, data=body, allow_redirects=False)
            except _SpoiltConnection:
                continue  # it is closed now, and nothing was sent on it

    def _check(self, url: URL) -> None:
        scheme, host, port = url.scheme, url.raw_host or "", url.port or 0
        origin = (scheme, host, port)
        if origin in self._checked:
            return
        if scheme not in ("http", "https") or not host or url.raw_user is not None or url.raw_password is not None:
            raise EgressBlocked()
        check_destination(Destination(scheme, host, port), self.policy)
        if len(self._checked) > 1000:
            self._checked.clear()
        self._checked.add(origin)

    def _socket(self, addr_info: tuple[Any, ...]) -> socket.socket:
        """Called by aiohttp with the very address that it is about to dial."""
        family, kind, protocol, _, (host, port, *_) = addr_info
        if fault := address_fault(ipaddress.ip_address(host), port, self.rules, self.granted):
            raise Refused(EgressBlocked(fault))
        return socket.socket(family=family, type=kind, proto=protocol)


class _SpoiltConnection(Exception):
    """A connection from the pool on which bytes have come that nobody asked for."""


class _Request(aiohttp.ClientRequest):
    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        # What lies there before the request is sent would be read as its answer: somebody else's, or a forged one.
        if conn.protocol is not None and conn.protocol.should_close:
            conn.close()
            raise _SpoiltConnection
        return await super().send(conn)


class _Resolver(aiohttp.abc.AbstractResolver):
    """Refuses a name if any of its addresses is refused."""

    def __init__(self, door: _Door) -> None:
        self._door = door

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await aiohttp.ThreadedResolver().resolve(host, port, family)
        if not found:
            raise OSError("the name has no address")
        door = self._door
        addresses = [ipaddress.ip_address(entry["host"]) for entry in found]
        granted = {(str(address), port) for address in addresses} if door.rules.allow_name(host, port) else set()
        for address in addresses:
            if fault := address_fault(address, port, door.rules, granted):
                raise Refused(EgressBlocked(fault))
        if len(door.granted) > 1000:
            door.granted.clear()
        door.granted |= granted
        return found

    async def close(self) -> None: ...


class _Client(httpx2.AsyncClient):
    """Sends straight through the door: no redirects, cookies, proxies or authentication of httpx2's own."""

    def __init__(self, door: _Door, headers: Mapping[str, str] | None = None) -> None:
        self._transport_of_door = _Transport(door)
        super().__init__(
            transport=self._transport_of_door, headers=headers, trust_env=False, follow_redirects=False, timeout=None
        )

    async def send(self, request: httpx2.Request, *, stream: bool = False, **_: Any) -> httpx2.Response:
        response = await self._transport_of_door.handle_async_request(request)
        if not stream:
            await response.aread()
        return response

    async def aclose(self) -> None:
        """The client is shared: an SDK that closes it closes nothing."""


class _Transport(httpx2.AsyncBaseTransport):
    def __init__(self, door: _Door) -> None:
        self._door = door

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        content = await request.aread()
        try:
            raw = await self._door.request(request.method, str(request.url), _headers_sent(request), content or None)
        except Exception as error:
            raise_for_httpx2(error, request)
        try:
            _refuse_unusable(raw)
            body = Body(raw)
        except LLMError as error:
            raw.close()
            raise_for_httpx2(error, request)
        response_headers = list(raw.raw_headers)
        if body.encoded:
            response_headers = [
                pair for pair in response_headers if pair[0].lower() not in (b"content-encoding", b"content-length")
            ]
        return httpx2.Response(
            raw.status, headers=response_headers, stream=body, request=request, extensions={_BODY: body}
        )


def _headers_sent(request: httpx2.Request) -> dict[str, str]:
    headers = {
        name.decode("ascii"): value.decode("latin-1")
        for name, value in request.headers.raw
        if name.lower() not in _REQUEST_HEADERS_NOT_SENT and name[:12].lower() != b"x-stainless-"
    }
    headers["accept-encoding"] = "gzip, deflate"
    return headers


def _refuse_unusable(raw: aiohttp.ClientResponse) -> None:
    if 300 <= raw.status < 400:
        raise BadProviderResponse("The provider's address sends calls elsewhere. Enter the final address.")
    if raw.status in (204, 205) or raw.status < 200:
        raise BadProviderResponse("The provider's answer is empty.", status_code=raw.status)


def _body(response: httpx2.Response | Answer) -> Body:
    if isinstance(response, Answer):
        return response.body
    body = response.extensions.get(_BODY)
    if not isinstance(body, Body):
        raise TypeError("this response did not come through the outbound door")
    return body

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
import json
import os
import socket
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import aiohttp
import aiohttp.abc
import aiohttp.connector
import httpx2  # noqa: TID251 (this is the place)
import orjson
from yarl import URL

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
from llm_credentials.providers.sse import Event, EventParser

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

WHOLE_BODY = "whole body"
"""The name of the event that stands for a JSON body where events were asked for."""
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
MAX_BODY_BYTES = 32 * 1024 * 1024
"""Decompressed, of a JSON answer and of a whole stream: 2,000 packed embeddings of 3,072 numbers just fit."""
MAX_ERROR_BODY_BYTES = 256 * 1024
"""What is read of an error's body; the rest is left."""
MAX_HEADERS = 256
MAX_HEADER_BYTES = 32 * 1024
MAX_RETRY_AFTER_S = 24 * 3600.0
_INFLATE_STEP = 256 * 1024
_BODY = "keyswitch.body"
_BOM = b"\xef\xbb\xbf"

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

    def __init__(self, raw: aiohttp.ClientResponse, body: _Body) -> None:
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
        failure = _failure(error)
        if failure is None:
            raise
        raise failure from None
    try:
        _refuse_unusable(raw)
        return Answer(raw, _Body(raw))
    except BaseException:
        raw.close()
        raise


async def read_error(answer: Answer) -> bytes:
    """As much of an error's body as is of interest, or came."""
    return b"".join([piece async for piece in answer.body])


async def read_json(response: httpx2.Response | Answer) -> Any:
    """The body as parsed JSON. Raises BadProviderResponse, ConnectionFailed."""
    return load_json(await _body(response).read(MAX_BODY_BYTES))


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
        async for batch in _events(body):
            yield batch
            if complete():
                timer.cancel()
                timer = loop.call_at(min(deadline, loop.time() + END_GRACE_S), expire)
    except Exception as error:
        failure = DeadlineExceeded() if expired else _failure(error)
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
        raise (_failure(error) or ConnectionFailed()) from None
    try:
        answer = _Body(raw)
    except BaseException:
        raw.close()
        raise
    given = {name.lower(): value for name, value in raw.headers.items()}
    return Forwarded(status=raw.status, headers=given, body=_guarded(answer), close=answer.close)


async def _guarded(body: _Body) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in body.chunks():
            yield piece
    except Exception as error:
        raise (_failure(error) or ConnectionFailed()) from None
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
        raise (_failure(error) or ConnectionFailed()) from None
    try:
        _refuse_unusable(raw)
        passed = {
            lowered: value
            for name, value in raw.headers.items()
            if (lowered := name.lower()) not in _RESPONSE_HEADERS_NOT_PASSED
        }
        answer = _Body(raw)
        return Forwarded(
            status=raw.status,
            headers=passed,
            body=_passed_on(answer, deadline),
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
        raise (_failure(error) or ConnectionFailed()) from None
    raw.close()
    return raw.status


def refusal(error: BaseException) -> EgressBlocked | None:
    """Our own refusal to dial, looked for in the cause chain of what an SDK raised."""
    ours = _ours(error)
    return ours if isinstance(ours, EgressBlocked) else None


def network_error(error: BaseException) -> LLMError | None:
    """Ours for an error of the HTTP layer (ConnectionFailed, DeadlineExceeded, BadProviderResponse), or None."""
    if ours := _ours(error):
        return ours
    for link in _chain(error):
        if isinstance(link, httpx2.TimeoutException):
            return DeadlineExceeded()
        if isinstance(link, httpx2.HTTPError | httpx2.InvalidURL):
            return ConnectionFailed()
        if isinstance(link, Exception) and (failure := _failure(link)):
            return failure
    return None


async def close_connections() -> None:
    """Close what the running event loop holds, for an orderly end of a process or a test."""
    for door in _doors.pop(asyncio.get_running_loop(), {}).values():
        await door.session.close()


def load_json(data: bytes) -> Any:
    """Raises BadProviderResponse for what is no JSON.

    Servers written in Python may send NaN or half of a surrogate pair, which strict JSON has not: the one becomes null,
    the other U+FFFD.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    data = data.removeprefix(_BOM).strip()
    if not data:
        raise BadProviderResponse("The provider's answer is empty.")
    if data[:1] == b"<":
        raise BadProviderResponse("The provider answered with a web page. Is the address right?")
    try:
        return _mended(json.loads(data, parse_constant=lambda _: None))
    except (ValueError, RecursionError):
        raise BadProviderResponse("The provider's answer is not JSON.") from None


def retry_after_s(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Seconds to wait, from ``retry-after-ms`` or ``retry-after`` (seconds or a date); None if neither is sensible.

    A moment that has passed is 0; more than a day counts as a day.
    """
    text = headers.get("retry-after-ms", "")
    seconds = _number(text)
    if seconds is not None:
        seconds /= 1000
    else:
        text = headers.get("retry-after", "")
        seconds = _number(text)
    if seconds is None and text:
        with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError):
            seconds = parsedate_to_datetime(text).timestamp() - (time() if now is None else now)
            seconds = max(seconds, 0.0)
    return None if seconds is None or seconds < 0 else min(seconds, MAX_RETRY_AFTER_S)


def _number(text: str) -> float | None:
    text = text.strip()
    if len(text) > 20 or not text.removeprefix("-").replace(".", "", 1).isdecimal() or not text.isascii():
        return None
    return float(text)


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


class _Refused(OSError):
    """An address that may not be dialled, in the one form that aiohttp passes on from its hooks."""

    def __init__(self, ours: EgressBlocked) -> None:
        super().__init__("refused by the egress policy")
        self.ours = ours


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
            raise _Refused(EgressBlocked(fault))
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
                raise _Refused(EgressBlocked(fault))
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
            _raise_for_httpx2(error, request)
        try:
            _refuse_unusable(raw)
            body = _Body(raw)
        except LLMError as error:
            raw.close()
            _raise_for_httpx2(error, request)
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


# Bodies


class _Body(httpx2.AsyncByteStream):
    """The body of one answer: decompressed, counted, and closed with its connection unless it was read to its end."""

    def __init__(self, raw: aiohttp.ClientResponse) -> None:
        self._raw = raw
        self._inflate = _inflate_for(raw)
        self._pieces: AsyncGenerator[bytes, None] | None = None

    @property
    def encoded(self) -> bool:
        return self._inflate is not None

    async def next(self) -> bytes:
        """The next piece as it arrives, nothing at the end. Raises what aiohttp raises."""
        if self._inflate is None:
            return await self._raw.content.readany()
        if self._pieces is None:
            self._pieces = self.chunks()
        return await anext(self._pieces, b"")

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Pieces as they arrive. Raises what aiohttp raises."""
        content, inflate = self._raw.content, self._inflate
        while data := await content.readany():
            if inflate is None:
                yield data
            else:
                for piece in inflate.feed(data):
                    yield piece
        if inflate is not None and not inflate.complete:
            raise ConnectionFailed("The provider's answer broke off.")

    def at_hand(self) -> bytes | None:
        """All of it, if it has come by now and nothing was read yet, as most answers do."""
        content = self._raw.content
        if self._inflate is not None or not content.is_eof() or content.exception() is not None:
            return None
        if content.total_bytes > MAX_BODY_BYTES:
            raise BadProviderResponse("The provider's answer is too large.")
        return content.read_nowait()

    def at_end(self) -> bool:
        content = self._raw.content
        return content.at_eof() and content.exception() is None and (self._inflate is None or self._inflate.complete)

    async def read(self, limit: int) -> bytes:
        """All of it. Raises LLMError; BadProviderResponse beyond ``limit``."""
        content = self._raw.content
        try:
            pieces: list[bytes] = []
            size = 0
            if self._inflate is None:
                data = await content.readany()
                if content.at_eof() and len(data) <= limit:
                    return data  # as most answers come
                pieces, size = [data], len(data)
            async for piece in self.chunks():
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    break
            if size > limit:
                raise BadProviderResponse("The provider's answer is too large.")
            return b"".join(pieces)
        except Exception as error:
            self.close()
            raise (_failure(error) or ConnectionFailed()) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._raw.close()

    # What httpx2 asks of a stream; SDKs read errors through it

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_ERROR_BODY_BYTES if self._raw.status >= 400 else MAX_BODY_BYTES
        try:
            async for piece in self.chunks():
                yield piece[:left]
                left -= len(piece)
                if left <= 0 and self._raw.status >= 400:
                    return
                if left < 0:
                    raise BadProviderResponse("The provider's answer is too large.")
        except Exception as error:
            if self._raw.status >= 400:
                return  # the status says more than a body that broke off
            _raise_for_httpx2(error, None)
        finally:
            self.close()

    async def aclose(self) -> None:
        self.close()


def _body(response: httpx2.Response | Answer) -> _Body:
    if isinstance(response, Answer):
        return response.body
    body = response.extensions.get(_BODY)
    if not isinstance(body, _Body):
        raise TypeError("this response did not come through the outbound door")
    return body


async def _events(body: _Body) -> AsyncIterator[list[Event]]:
    parser = EventParser()
    size = events = 0
    begun = False
    pieces = body.chunks()
    async for data in pieces:
        if not begun and (first := data.lstrip()[:1]):
            begun = True
            if first in b"{[<":
                # No event stream begins so: an error or a whole answer as JSON, or a web page.
                yield [(WHOLE_BODY, await _whole(data, pieces))]
                return
        size += len(data)
        if size > MAX_BODY_BYTES:
            raise BadProviderResponse("The provider's answer is too large.")
        if batch := parser.feed(data):
            events += len(batch)
            yield batch
    for name, last in parser.finish():
        # Without its blank line it may be cut anywhere: only what is whole counts.
        if last.strip() == b"[DONE]" or _is_json(last):
            events += 1
            yield [(name, last)]
    if not size:
        raise BadProviderResponse("The provider's answer is empty.")
    if not events and not parser.saw_field:
        raise BadProviderResponse("The provider's answer is no stream of events.")


async def _whole(first: bytes, pieces: AsyncIterator[bytes]) -> bytes:
    held, size = [first], len(first)
    async for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise BadProviderResponse("The provider's answer is too large.")
    data = b"".join(held)
    load_json(data)
    return data


def _is_json(data: bytes) -> bool:
    try:
        load_json(data)
    except BadProviderResponse:
        return False
    return True


async def _passed_on(body: _Body, deadline: float) -> AsyncGenerator[bytes, None]:
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        body.close()

    timer = asyncio.get_running_loop().call_at(deadline, expire)
    left = MAX_BODY_BYTES
    try:
        while piece := await body.next():
            left -= len(piece)
            if left < 0:
                raise BadProviderResponse("The provider's answer is too large.")
            yield piece
    except Exception as error:
        raise (DeadlineExceeded() if expired else _failure(error) or ConnectionFailed()) from None
    finally:
        timer.cancel()
        body.close()


class _Inflate:
    """gzip and deflate, in steps, so that a small piece cannot become a large one at once."""

    def __init__(self, *, raw_deflate_too: bool) -> None:
        self._decompressor = zlib.decompressobj(wbits=47)  # gzip or zlib, told apart by their header
        self._raw_deflate_too = raw_deflate_too

    @property
    def complete(self) -> bool:
        return self._decompressor.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._raw_deflate_too and data:
            self._raw_deflate_too = False
            if data[0] & 0x0F != 8:
                self._decompressor = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        while True:
            try:
                piece = self._decompressor.decompress(data, _INFLATE_STEP)
            except zlib.error:
                raise BadProviderResponse("The provider's answer is compressed wrongly.") from None
            data = self._decompressor.unconsumed_tail
            if piece:
                yield piece
            if self._decompressor.unused_data:
                raise BadProviderResponse("The provider's answer is compressed wrongly.")
            if not data and len(piece) < _INFLATE_STEP:
                return


def _inflate_for(raw: aiohttp.ClientResponse) -> _Inflate | None:
    values = raw.headers.getall("content-encoding", None)
    if not values:
        return None
    names = [name for name in (part.strip().lower() for part in ",".join(values).split(",")) if name]
    names = [name for name in names if name != "identity"]
    if not names:
        return None
    if len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate"):
        raise BadProviderResponse("The provider's answer is compressed in a way that was not asked for.")
    return _Inflate(raw_deflate_too=names[0] == "deflate")


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    return value


# Errors


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _ours(error: BaseException) -> LLMError | None:
    for link in _chain(error):
        if isinstance(link, LLMError):
            return link
        if isinstance(link, _Refused):
            return link.ours
    return None


def _failure(error: Exception) -> LLMError | None:
    """What aiohttp or a socket raised, as ours; None for anything else."""
    if ours := _ours(error):
        return ours
    match error:
        case aiohttp.ClientConnectorDNSError():
            return ConnectionFailed("The name of the provider's address could not be found.")
        case aiohttp.ClientConnectorCertificateError():
            return ConnectionFailed("The certificate of the provider's address cannot be trusted.")
        case aiohttp.ClientSSLError():
            return ConnectionFailed("No secure connection to the provider's address.")
        case aiohttp.ConnectionTimeoutError():
            return ConnectionFailed("The provider's address did not take the connection in time.")
        case aiohttp.ServerTimeoutError() | TimeoutError():
            return DeadlineExceeded()
        case aiohttp.InvalidURL():
            return EgressBlocked("This address is misspelt.")
        case aiohttp.ClientResponseError():
            return BadProviderResponse("The provider's answer is not HTTP, or its headers are too large.")
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError():
            return ConnectionFailed("The provider closed the connection before its answer was complete.")
        case aiohttp.ClientError() | OSError():
            return ConnectionFailed()
    return None


def _raise_for_httpx2(error: Exception, request: httpx2.Request | None) -> NoReturn:
    """Raise it in the form that SDKs expect of an httpx2 transport, ours as the cause."""
    ours = _failure(error)
    if ours is None:
        raise error
    kind = httpx2.ReadTimeout if isinstance(ours, DeadlineExceeded) else httpx2.ConnectError
    raise kind(str(ours), request=request) from ours

"""The single outbound HTTP layer: one aiohttp session per egress policy and event loop.

What is checked is what is connected to: aiohttp gets the very URL object whose host was checked, the resolver refuses a
name if any of its addresses is refused, and a socket factory checks each address when connecting. Nothing here follows
a redirect, keeps a cookie or reads the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import aiohttp.abc
import aiohttp.connector
import httpx2  # noqa: TID251 (this is the place)
from yarl import URL

from llm_credentials.providers.bodies import Body
from llm_credentials.providers.content import Response
from llm_credentials.providers.egress import Destination, EgressPolicy, address_fault, check_destination, rules_of
from llm_credentials.providers.errors import BadProviderResponse, EgressBlocked, LLMError
from llm_credentials.providers.failures import Refused, raise_for_httpx2
from llm_credentials.providers.posting import MAX_HEADER_BYTES, MAX_HEADERS, SMALL_BYTES, Pattern, Way

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult

CONNECT_TIMEOUT_S = 10.0
"""For DNS, TCP and TLS together."""
IDLE_TIMEOUT_S = 300.0
"""Between two reads, in addition to the call's deadline: a model may think this long before its first byte."""
KEEP_ALIVE_S = 15.0
DNS_CACHE_S = 10
BODY: Final = "keyswitch.body"
"""The response extension that holds the body, for responses returned to an SDK."""

_REQUEST_HEADERS_NOT_SENT = frozenset(
    {b"host", b"content-length", b"connection", b"transfer-encoding", b"accept-encoding"}
)
"""aiohttp writes its own; the SDKs' ``x-stainless-…`` headers, which describe the machine, are dropped too."""

_doors: dict[asyncio.AbstractEventLoop, dict[EgressPolicy, Door]] = {}
_left_to_parent: list[object] = []


def door_of(policy: EgressPolicy) -> Door:
    loop = asyncio.get_running_loop()
    doors = _doors.get(loop)
    if doors is None:
        _drop_dead_loops()
        doors = _doors[loop] = {}
    door = doors.get(policy)
    if door is None or door.session.closed:
        door = doors[policy] = Door(policy)
    return door


async def close_connections() -> None:
    """Close the running event loop's sessions, for an orderly shutdown of a process or a test."""
    for door in _doors.pop(asyncio.get_running_loop(), {}).values():
        await door.session.close()


def _drop_dead_loops() -> None:
    for loop in [loop for loop in _doors if loop.is_closed()]:
        for door in _doors.pop(loop, {}).values():
            # Closing on a closed loop never suspends: one step runs it to its end.
            closing = door.session.close()
            with contextlib.suppress(StopIteration, RuntimeError):
                closing.send(None)
            closing.close()


def _forget_after_fork() -> None:
    """The child makes its own sessions. The parent's are kept untouched: closing one here would unregister its socket
    from the event queue that both processes share.
    """
    global _doors
    _left_to_parent.append(_doors)
    _doors = {}


os.register_at_fork(after_in_child=_forget_after_fork)


class Door:
    """The session for one policy."""

    def __init__(self, policy: EgressPolicy) -> None:
        self.policy = policy
        self.rules = rules_of(policy)
        self.granted: set[tuple[str, int]] = set()
        """Addresses of names that the policy allows."""
        self._checked: set[tuple[str, str, int]] = set()
        self._ways: dict[tuple[str, str, int], Way] = {}
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
        self.client = Client(self)

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

    async def send(self, pattern: Pattern, body: bytes) -> aiohttp.ClientResponse:
        """The pattern's request with this body."""
        if len(body) > SMALL_BYTES or pattern.method != "POST":
            return await self.request(pattern.method, pattern.url, pattern.headers, body)
        way, message = self._way(pattern.url), pattern.message(body)
        while True:
            connection = await way.connection()
            if not _is_spoilt(connection):
                return await way.send(connection, message)
            connection.close()

    def _way(self, url: URL) -> Way:
        origin = self._check(url)
        way = self._ways.get(origin)
        if way is None:
            if len(self._ways) > 1000:
                self._ways.clear()
            bare = _Request("POST", url.origin(), loop=asyncio.get_running_loop())
            way = self._ways[origin] = Way(self.session, bare)
        return way

    def _check(self, url: URL) -> tuple[str, str, int]:
        """Returns the origin. Raises EgressBlocked."""
        scheme, host, port = url.scheme, url.raw_host or "", url.port or 0
        origin = (scheme, host, port)
        if origin in self._checked:
            return origin
        if scheme not in ("http", "https") or not host or url.raw_user is not None or url.raw_password is not None:
            raise EgressBlocked()
        check_destination(Destination(scheme, host, port), self.policy)
        if len(self._checked) > 1000:
            self._checked.clear()
        self._checked.add(origin)
        return origin

    def _socket(self, addr_info: tuple[Any, ...]) -> socket.socket:
        """Called by aiohttp with the exact address to connect to."""
        family, kind, protocol, _, (host, port, *_) = addr_info
        if fault := address_fault(ipaddress.ip_address(host), port, self.rules, self.granted):
            raise Refused(EgressBlocked(fault))
        return socket.socket(family=family, type=kind, proto=protocol)


class _SpoiltConnection(Exception):
    """A pooled connection that has received unsolicited bytes."""


def _is_spoilt(connection: aiohttp.connector.Connection) -> bool:
    """Bytes received before a request is sent would be read as its response: another request's, or a forged one."""
    return connection.protocol is not None and connection.protocol.should_close


class _Request(aiohttp.ClientRequest):
    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        if _is_spoilt(conn):
            conn.close()
            raise _SpoiltConnection
        return await super().send(conn)


class _Resolver(aiohttp.abc.AbstractResolver):
    """Refuses a name if any of its addresses is refused."""

    def __init__(self, door: Door) -> None:
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


class Client(httpx2.AsyncClient):
    """Sends through the door's session, without httpx2's redirects, cookies, proxies or authentication."""

    def __init__(self, door: Door, headers: Mapping[str, str] | None = None) -> None:
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
        """Does nothing: SDKs may close this client, but it is shared."""


class _Transport(httpx2.AsyncBaseTransport):
    def __init__(self, door: Door) -> None:
        self._door = door

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        content = await request.aread()
        try:
            raw = await self._door.request(request.method, str(request.url), headers_sent(request), content or None)
        except Exception as error:
            raise_for_httpx2(error, request)
        try:
            refuse_unusable(raw)
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
            raw.status, headers=response_headers, stream=body, request=request, extensions={BODY: body}
        )


def headers_sent(request: httpx2.Request) -> dict[str, str]:
    headers = {
        name.decode("ascii"): value.decode("latin-1")
        for name, value in request.headers.raw
        if name.lower() not in _REQUEST_HEADERS_NOT_SENT and name[:12].lower() != b"x-stainless-"
    }
    headers["accept-encoding"] = "gzip, deflate"
    return headers


def refuse_unusable(raw: aiohttp.ClientResponse) -> None:
    if 300 <= raw.status < 400:
        raise BadProviderResponse("The provider's address sends calls elsewhere. Enter the final address.")
    if raw.status in (204, 205) or raw.status < 200:
        raise BadProviderResponse("The provider's answer is empty.", status_code=raw.status)

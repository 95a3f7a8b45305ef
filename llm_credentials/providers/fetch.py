"""Reads a page for an agent: one GET through the outbound session, without any credentials.

A model picks addresses from what it has read, so they come from strangers. Therefore each redirect is checked like the
first address, nothing identifies the site or its user, and neither a large nor a compressed response fills memory.
``ask`` is for services chosen by their owner, such as a search: it may send a key, so it follows no redirect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin

from llm_credentials.providers import transport
from llm_credentials.providers.egress import EgressPolicy, check_page
from llm_credentials.providers.errors import BadProviderResponse, DeadlineExceeded, EgressBlocked, LLMError
from llm_credentials.providers.transport import Forwarded

MAX_HOPS: Final = 5
MAX_BYTES: Final = 2 * 1024 * 1024
TIMEOUT_S: Final = 20.0
TEXT: Final = ("text/", "application/json", "application/xml", "application/xhtml+xml", "application/rss+xml")
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {"user-agent": "Keyswitch", "accept": "*/*"}


class FetchFailed(Exception):
    """No page was fetched. The message is our own, for people and models; it has no part of address or response."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    url: str
    """The final address, after redirects."""
    status: int
    content_type: str
    """Lower case, without parameters; empty if the server sent none."""
    charset: str
    body: bytes
    """Decompressed, up to the requested size."""
    truncated: bool
    """Whether the body was longer."""

    @property
    def text(self) -> str:
        try:
            return self.body.decode(self.charset or "utf-8", "replace")
        except (LookupError, ValueError):
            return self.body.decode("utf-8", "replace")


async def fetch(
    url: str,
    *,
    egress: EgressPolicy,
    max_bytes: int = MAX_BYTES,
    timeout_s: float = TIMEOUT_S,
    accept: Collection[str] = TEXT,
    first: Callable[[str], Awaitable[None]] | None = None,
) -> Fetched:
    """The page at ``url``, following at most ``MAX_HOPS`` redirects, all within ``timeout_s``.

    ``accept``: prefixes of allowed content types; a page of another type, or of none, is not read. ``first`` is called
    with the address before each hop and may raise FetchFailed. Raises EgressBlocked if the first or a later address is
    not allowed; FetchFailed.
    """
    with _in_words("page"):
        async with asyncio.timeout(timeout_s):
            return await _follow(check_page(url, egress), egress, max_bytes, tuple(accept), first)


async def ask(
    url: str,
    *,
    egress: EgressPolicy,
    headers: Mapping[str, str],
    body: bytes | None = None,
    max_bytes: int = MAX_BYTES,
    timeout_s: float = TIMEOUT_S,
) -> Fetched:
    """The response of the service at ``url`` to a GET, or to a POST of ``body``; of any content type and status.

    A redirect is an error: ``headers`` may hold a key, which is sent to this address only. Raises EgressBlocked,
    FetchFailed.
    """
    with _in_words("service"):
        async with asyncio.timeout(timeout_s):
            target = check_page(url, egress)
            sent = {**_HEADERS, **headers}
            answer = await transport.ask(egress, "GET" if body is None else "POST", target, sent, body)
            try:
                if answer.status in _REDIRECTS:
                    raise FetchFailed("The service sends callers elsewhere. Enter the address where it answers itself.")
                return await _read(target, answer, max_bytes, ("",))
            finally:
                await answer.aclose()


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    try:
        yield
    except EgressBlocked:
        raise
    except (TimeoutError, DeadlineExceeded):
        raise FetchFailed(f"The {what} did not answer in time.") from None
    except BadProviderResponse:
        raise FetchFailed(f"The answer of the {what} could not be understood.") from None
    except LLMError:
        raise FetchFailed(f"No connection to the {what}.") from None


async def _follow(
    url: str,
    egress: EgressPolicy,
    max_bytes: int,
    accept: tuple[str, ...],
    first: Callable[[str], Awaitable[None]] | None,
) -> Fetched:
    for _hop in range(MAX_HOPS + 1):
        if first is not None:
            await first(url)
        answer = await transport.get(egress, url, _HEADERS)
        try:
            if answer.status not in _REDIRECTS:
                return await _read(url, answer, max_bytes, accept)
            target = answer.headers.get("location", "")
        finally:
            await answer.aclose()
        if not target:
            raise FetchFailed("The page sends readers elsewhere without saying where.")
        url = check_page(_joined(url, target), egress)
    raise FetchFailed("The page sends readers on too often.")


def _joined(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError:
        raise EgressBlocked("This address is misspelt.") from None


async def _read(url: str, answer: Forwarded, max_bytes: int, accept: tuple[str, ...]) -> Fetched:
    content_type, charset = _kind(answer.headers.get("content-type", ""))
    if not content_type.startswith(accept):
        raise FetchFailed("The page is of a kind that is not read here.")
    held = bytearray()
    async with aclosing(answer.body) as pieces:
        async for piece in pieces:
            held += piece
            if len(held) > max_bytes:
                break
    return Fetched(
        url=url,
        status=answer.status,
        content_type=content_type,
        charset=charset,
        body=bytes(held[:max_bytes]),
        truncated=len(held) > max_bytes,
    )


def _kind(header: str) -> tuple[str, str]:
    """Splits the header's value into (content type, charset)."""
    content_type, _, rest = header.partition(";")
    charset = next((part.partition("=")[2] for part in rest.split(";") if part.strip().lower()[:8] == "charset="), "")
    return content_type.strip().lower(), charset.strip(" \"'").lower()[:40]

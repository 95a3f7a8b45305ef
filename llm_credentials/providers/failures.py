"""Translates network errors into ours, and reads retry-after headers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import NoReturn

import aiohttp
import httpx2  # noqa: TID251 (its error classes and its interface; nothing is sent)

from llm_credentials.providers.errors import (
    BadProviderResponse,
    ConnectionFailed,
    DeadlineExceeded,
    EgressBlocked,
    LLMError,
)

MAX_RETRY_AFTER_S = 24 * 3600.0


class Refused(OSError):
    """An address that may not be connected to, in the one form that aiohttp passes on from its hooks."""

    def __init__(self, ours: EgressBlocked) -> None:
        super().__init__("refused by the egress policy")
        self.ours = ours


def refusal(error: BaseException) -> EgressBlocked | None:
    """Our own refusal to connect, if it is in the cause chain of an SDK's error."""
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
        if isinstance(link, Exception) and (failure := failure_of(link)):
            return failure
    return None


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
        if isinstance(link, Refused):
            return link.ours
    return None


def failure_of(error: Exception) -> LLMError | None:
    """An error of aiohttp or a socket, as ours; None for anything else."""
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


def raise_for_httpx2(error: Exception, request: httpx2.Request | None) -> NoReturn:
    """Raise it in the form that SDKs expect of an httpx2 transport, with our error as the cause."""
    ours = failure_of(error)
    if ours is None:
        raise error
    kind = httpx2.ReadTimeout if isinstance(ours, DeadlineExceeded) else httpx2.ConnectError
    raise kind(str(ours), request=request) from ours


def retry_after_s(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Seconds to wait, from ``retry-after-ms`` or ``retry-after`` (seconds or a date); None if neither is valid.

    A time in the past is 0; more than a day counts as a day.
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

"""Response bodies: decompressed in steps, bounded, and read whole, by event or as they arrive."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import aiohttp
import httpx2  # noqa: TID251 (its error classes and its interface; nothing is sent)
import orjson

from llm_credentials.providers.errors import BadProviderResponse, ConnectionFailed, DeadlineExceeded
from llm_credentials.providers.failures import failure_of, raise_for_httpx2
from llm_credentials.providers.sse import Event, EventParser

WHOLE_BODY = "whole body"
"""The name of the event that stands for a JSON body received in place of events."""
MAX_BODY_BYTES = 32 * 1024 * 1024
"""Decompressed size of a JSON answer or a whole stream: just enough for 2,000 packed embeddings of 3,072 numbers."""
MAX_ERROR_BODY_BYTES = 256 * 1024
"""How much of an error's body is read; the rest is ignored."""
_INFLATE_STEP = 256 * 1024
_BOM = b"\xef\xbb\xbf"


class Body(httpx2.AsyncByteStream):
    """The body of one response: decompressed, bounded, and closed with its connection unless it was read to its end."""

    def __init__(self, raw: aiohttp.ClientResponse) -> None:
        self._raw = raw
        self._inflate = _inflate_for(raw)
        self._pieces: AsyncGenerator[bytes, None] | None = None

    @property
    def encoded(self) -> bool:
        return self._inflate is not None

    async def next(self) -> bytes:
        """The next piece as it arrives, empty at the end. Raises aiohttp's errors."""
        if self._inflate is None:
            return await self._raw.content.readany()
        if self._pieces is None:
            self._pieces = self.chunks()
        return await anext(self._pieces, b"")

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Pieces as they arrive. Raises aiohttp's errors."""
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
        """The whole body if it has already arrived and nothing was read yet, as with most answers."""
        content = self._raw.content
        if self._inflate is not None or not content.is_eof() or content.exception() is not None:
            return None
        if content.total_bytes > MAX_BODY_BYTES:
            raise BadProviderResponse("The provider's answer is too large.")
        return content.read_nowait()

    def at_end(self) -> bool:
        content = self._raw.content
        return content.at_eof() and content.exception() is None and (self._inflate is None or self._inflate.complete)

    async def read(self, limit: int | None = None) -> bytes:
        """The whole body. Raises LLMError; BadProviderResponse beyond ``limit``, which defaults to MAX_BODY_BYTES."""
        limit = MAX_BODY_BYTES if limit is None else limit
        content = self._raw.content
        try:
            pieces: list[bytes] = []
            size = 0
            if self._inflate is None:
                data = await content.readany()
                if content.at_eof() and len(data) <= limit:
                    return data  # the usual case
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
            raise (failure_of(error) or ConnectionFailed()) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._raw.close()

    # The interface that httpx2 needs of a stream; SDKs read errors through it

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
                return  # the status says more than a truncated body
            raise_for_httpx2(error, None)
        finally:
            self.close()

    async def aclose(self) -> None:
        self.close()


async def events_of(body: Body) -> AsyncIterator[list[Event]]:
    parser = EventParser()
    size = events = 0
    begun = False
    pieces = body.chunks()
    async for data in pieces:
        if not begun and (first := data.lstrip()[:1]):
            begun = True
            if first in b"{[<":
                # No event stream starts like this: it is an error or an answer as JSON, or a web page.
                yield [(WHOLE_BODY, await _whole(data, pieces))]
                return
        size += len(data)
        if size > MAX_BODY_BYTES:
            raise BadProviderResponse("The provider's answer is too large.")
        if batch := parser.feed(data):
            events += len(batch)
            yield batch
    for name, last in parser.finish():
        # Without its blank line the event may be truncated: use it only if it is complete.
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


async def passed_on(body: Body, deadline: float) -> AsyncGenerator[bytes, None]:
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
        raise (DeadlineExceeded() if expired else failure_of(error) or ConnectionFailed()) from None
    finally:
        timer.cancel()
        body.close()


class _Inflate:
    """Decompresses gzip and deflate in steps, so that a small piece cannot expand to a huge one at once."""

    def __init__(self, *, raw_deflate_too: bool) -> None:
        self._decompressor = zlib.decompressobj(wbits=47)  # detects gzip or zlib by the header
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


def load_json(data: bytes) -> Any:
    """Raises BadProviderResponse for invalid JSON.

    Servers written in Python may send NaN or lone surrogates, which strict JSON forbids: they become null and U+FFFD.
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

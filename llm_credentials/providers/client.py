"""LLMClient: one async client per (key, model), safe to share between tasks.

The official SDK of a provider knows its authentication, addresses and errors: it builds the requests. The bytes of the
answer are read here, once, straight into our vocabulary, by the mapping of the wire (a subclass in ``adapters/``).
``complete`` and ``stream`` share that mapping.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, ClassVar

from llm_credentials.providers import transport
from llm_credentials.providers.calls import DEFAULT_TIMEOUT_S, embedding_faults, make_call, restored, seconds
from llm_credentials.providers.decoding import StreamDecoder, decoded
from llm_credentials.providers.errors import (
    BadProviderResponse,
    ConnectionFailed,
    LLMError,
    ProviderUnavailable,
    RequestRejected,
    StreamInterrupted,
    UnsupportedContent,
)
from llm_credentials.providers.messages import (
    Call,
    Embedded,
    Embeddings,
    LLMMessage,
    LLMResponse,
    LLMStreamChunk,
    ModelInfo,
    ToolDefinition,
)
from llm_credentials.providers.transport import Answer, EgressPolicy, Forwarded, Pattern, RawResponse

if TYPE_CHECKING:
    from llm_credentials.providers.spec import ProviderSpec

LIST_TIMEOUT_S = 30.0
FORWARDING_MAX = 16
SHAPE_ERRORS = (LookupError, TypeError, AttributeError, ValueError, RecursionError)
"""What reading an answer raises when it trips over a shape that nobody foresaw: the answer is at fault."""
WRONG_SHAPE = "The provider's answer has the wrong shape."
CUT_SHORT = "The provider's answer ended before its end."


_PLAIN_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._, -]{0,999}")


class LLMClient(ABC):
    error_statuses: ClassVar[Mapping[int, type[LLMError]]] = {}
    wire: ClassVar[str] = ""
    """``chat`` or ``messages``, for those whose answers programs can read as they come; see ``passing``."""
    telling: ClassVar[tuple[bytes, ...]] = ()
    """What stands in an event of this wire that tells how the answer ends or what it used, and in no other."""
    takes_headers: ClassVar[frozenset[str]] = frozenset()
    """Which headers of a program's own request go along with bytes that are forwarded."""
    last: ClassVar[bytes] = b""
    """What stands in its last event of all."""

    def __init__(
        self,
        *,
        spec: ProviderSpec,
        api_key: str | None,
        model: str,
        base_url: str,
        options: Mapping[str, Any],
        egress: EgressPolicy,
    ) -> None:
        self.spec = spec
        self.provider = spec.slug
        self.model = model
        self.base_url = base_url
        self.options = options
        self.egress = egress
        self._api_key = api_key
        self._closed = False
        self._forwarding: dict[tuple[str, tuple[tuple[str, str], ...]], Pattern] = {}
        """What ``forward`` sends, by its path and the headers that it took."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.provider}/{self.model}>"

    def __reduce__(self) -> Any:
        raise TypeError("a client holds a key and is not pickled")

    # What a wire gives

    @classmethod
    def normalise_base_url(cls, address: str) -> str:
        """The address as this wire's SDK wants it: slashes mended, a doubled ``/v1`` and a pasted endpoint cut off."""
        return address

    @abstractmethod
    def encode(self, call: Call, *, stream: bool) -> tuple[str, dict[str, Any]]:
        """The path (relative to the SDK's base address) and JSON body of this call. Raises UnsupportedContent."""

    @abstractmethod
    def decode(self, call: Call, data: Any, headers: Mapping[str, str]) -> LLMResponse:
        """The answer in ``data``, the JSON of status 200. Raises LLMError when its shape is wrong or it is an error."""

    @abstractmethod
    def decoder(self, call: Call, headers: Mapping[str, str]) -> StreamDecoder: ...

    @abstractmethod
    async def send(self, path: str, body: dict[str, Any], *, stream: bool) -> RawResponse | Answer:
        """Post as the SDK does, over our transport; the response's body is not yet read.

        Raises LLMError, or what the SDK raises.
        """

    @abstractmethod
    def sdk_error(self, error: Exception) -> LLMError | None:
        """The SDK's exception as ours, by type, status and the provider's error code; None if it is no SDK error."""

    @abstractmethod
    async def fetch_models(self) -> list[ModelInfo]: ...

    async def fetch_embeddings(self, texts: Sequence[Any], *, model: str, dimensions: int | None) -> Embeddings:
        raise UnsupportedContent(f"{self.spec.label} has no embeddings.", provider=self.provider)

    # What callers use

    async def complete(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[ToolDefinition] | None = None,
        tool_choice: str | None = None,
        response_schema: Mapping[str, Any] | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: Sequence[str] | None = None,
        seed: int | None = None,
        timeout_s: float | None = None,
    ) -> LLMResponse:
        """One answer, whole. Raises LLMError (see errors.py)."""
        call = make_call(
            self,
            messages,
            tools=tools,
            tool_choice=tool_choice,
            response_schema=response_schema,
            model=model,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            stop=stop,
            seed=seed,
        )
        with self.translated():
            path, body = self.encode(call, stream=False)
            async with asyncio.timeout(seconds(timeout_s)):
                response = await self.send(path, body, stream=False)
                with self.translated(answered=True):
                    data = await transport.read_json(response)
            return restored(self.decode_safely(call, data, response.headers), call)

    async def stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[ToolDefinition] | None = None,
        tool_choice: str | None = None,
        response_schema: Mapping[str, Any] | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: Sequence[str] | None = None,
        seed: int | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[LLMStreamChunk, None]:
        """The answer as it comes; ``aclose()`` closes the upstream connection.

        Raises LLMError before the first content, StreamInterrupted (with the partial answer) after it.
        """
        call = make_call(
            self,
            messages,
            tools=tools,
            tool_choice=tool_choice,
            response_schema=response_schema,
            model=model,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            stop=stop,
            seed=seed,
        )
        async with aclosing(self.stream_by_reads(call, timeout_s)) as reads:
            async for chunks in reads:
                for chunk in chunks:
                    yield chunk

    async def stream_by_reads(
        self, call: Call, timeout_s: float | None = None, *, joined: bool = False
    ) -> AsyncGenerator[Sequence[LLMStreamChunk], None]:
        """The same for a call that ``make_call`` has checked: together what one read from the network completed.

        ``joined``: pieces of text that came together may be one.
        """
        with self.translated():
            path, body = self.encode(call, stream=True)
            deadline = asyncio.get_running_loop().time() + seconds(timeout_s)
            async with asyncio.timeout_at(deadline):
                response = await self.send(path, body, stream=True)
        decoder = self.decoder(call, response.headers)
        events = transport.read_events(
            response, deadline, lambda: getattr(decoder, "complete", False), lambda: decoder.ended
        )
        whole = False
        try:
            with self.translated(decoder):
                async for batch in events:
                    whole = batch[-1][0] == transport.WHOLE_BODY
                    chunks, fault = decoded(decoder, batch, joined=joined)
                    if chunks:
                        yield chunks
                    if fault is not None:
                        raise fault
                if not decoder.ended:
                    senseless = whole or getattr(decoder, "empty", False)
                    raise BadProviderResponse(WRONG_SHAPE) if senseless else ConnectionFailed(CUT_SHORT)
                if chunks := list(decoder.finish()):
                    yield chunks
                done = LLMStreamChunk(type="done", response=restored(decoder.response(), call))
            yield (done,)
        finally:
            await events.aclose()

    @property
    def embeds_tokens(self) -> bool:
        """Whether texts to embed may come as the tokens that they are for the model."""
        return False

    async def embed(self, texts: Embedded, *, model: str | None = None, dimensions: int | None = None) -> Embeddings:
        """Vectors in the order of the texts. Raises LLMError; UnsupportedContent where the provider has none."""
        name = model or self.spec.default_embedding_model or self.model
        for fault in embedding_faults(name, texts, dimensions):
            raise RequestRejected(fault, provider=self.provider)
        if not isinstance(texts[0], str) and not self.embeds_tokens:
            raise UnsupportedContent("This provider embeds texts, not tokens.", provider=self.provider)
        with self.translated():
            async with asyncio.timeout(DEFAULT_TIMEOUT_S):
                return await self.fetch_embeddings(list(texts), model=name, dimensions=dimensions)

    async def list_models(self) -> list[ModelInfo]:
        """What this key may use, as the provider lists it, with the catalogue's facts where the provider gives none."""
        with self.translated():
            async with asyncio.timeout(LIST_TIMEOUT_S):
                return await self.fetch_models()

    async def forward(
        self, body: bytes, *, path: str, stream: bool, headers: Mapping[str, str] | None = None
    ) -> Forwarded:
        """Send bytes of this wire as they are and give the answer as it comes; errors of the provider included.

        ``headers``: those of the program's request; what this wire takes of them goes along.
        """
        with self.translated():
            taken: tuple[tuple[str, str], ...] = ()
            if headers and self.takes_headers:
                named = headers.items()
                taken = tuple(
                    each for each in named if each[0] in self.takes_headers and _PLAIN_HEADER.fullmatch(each[1])
                )
            pattern = self._forwarding.get((path, taken)) or self._forwards(path, taken)
            return await transport.forward(self.egress, pattern, body)

    def _forwards(self, path: str, taken: tuple[tuple[str, str], ...]) -> Pattern:
        pattern = transport.forwarding(self.forward_url(path), {**self.forward_headers(), **dict(taken)})
        if len(self._forwarding) >= FORWARDING_MAX:
            self._forwarding.clear()
        self._forwarding[path, taken] = pattern
        return pattern

    def adapt(self, body: Mapping[str, Any], *, model: str, stream: bool) -> dict[str, Any]:
        """A request body of this wire as this provider and model want it: nothing but names and limits differ."""
        return {**body, "model": model}

    def decode_safely(self, call: Call, data: Any, headers: Mapping[str, str]) -> LLMResponse:
        """As ``decode``, whatever the shape. Raises LLMError."""
        try:
            return self.decode(call, data, headers)
        except SHAPE_ERRORS:
            raise BadProviderResponse(WRONG_SHAPE) from None

    def passed_error(self, status: int, headers: Mapping[str, str], body: bytes) -> LLMError:
        """The error that a forwarded answer of this status stands for."""
        raise NotImplementedError

    @abstractmethod
    def forward_url(self, path: str) -> str: ...

    @abstractmethod
    def forward_headers(self) -> dict[str, str]:
        """Authentication and content type for ``forward``."""

    async def aclose(self) -> None:
        """Drop what this client holds; the shared transport stays open. Later calls raise ProviderUnavailable."""
        self._api_key = None
        self._closed = True
        self._forwarding = {}

    # Errors

    def translated(self, decoder: StreamDecoder | None = None, *, answered: bool = False) -> _Translated:
        """``answered``: that the provider has taken the request is known, as it is where there is a decoder."""
        answered = answered or decoder is not None
        if self._closed and not answered:
            # Never on without the key: the provider would call that a bad key.
            raise ProviderUnavailable("This client was closed.", provider=self.provider)
        return _Translated(self, decoder, answered)

    def translate(self, error: Exception, decoder: StreamDecoder | None = None) -> LLMError | None:
        """Ours for whatever a call raised; None for what is no failure of the call."""
        ours = transport.refusal(error) or self.sdk_error(error) or transport.network_error(error)
        if ours is None and decoder is not None and isinstance(error, SHAPE_ERRORS):
            ours = BadProviderResponse(WRONG_SHAPE)
        if ours is None:
            return None
        if decoder is not None and decoder.has_content and not isinstance(ours, StreamInterrupted):
            ours = StreamInterrupted(
                status_code=ours.status_code,
                request_id=ours.request_id,
                retry_after_s=ours.retry_after_s,
                code=ours.code,
                partial=decoder.response(),
            )
        ours.provider = ours.provider or self.provider
        return ours


class _Translated:
    """Context manager: whatever the call raises leaves as an LLMError without cause, context or request objects."""

    __slots__ = ("answered", "client", "decoder")

    def __init__(self, client: LLMClient, decoder: StreamDecoder | None, answered: bool) -> None:
        self.client = client
        self.decoder = decoder
        self.answered = answered

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if not isinstance(error, Exception):
            return
        ours = self.client.translate(error, self.decoder)
        if ours is None:
            return
        if self.answered and isinstance(ours, ConnectionFailed):
            ours.answered = True
        error = None  # an error tracker shows what this frame holds, and the SDK's error quotes the provider
        try:
            # Its own traceback would show the SDK's frames, and in them the headers with the key.
            raise ours.with_traceback(None) from None
        finally:
            ours.__context__ = None

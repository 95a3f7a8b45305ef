"""LLMClient: one async client per (key, model), safe to share between tasks.

A provider's official SDK knows its authentication, URLs and errors, so it builds the requests. The response bytes are
parsed here, once, directly into our types, by the wire format's decoder (a subclass in ``adapters/``), which
``complete`` and ``stream`` share.
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
"""What decoding raises on an answer of an unexpected shape: the answer is at fault."""
WRONG_SHAPE = "The provider's answer has the wrong shape."
CUT_SHORT = "The provider's answer ended before its end."


_PLAIN_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._, -]{0,999}")


class LLMClient(ABC):
    error_statuses: ClassVar[Mapping[int, type[LLMError]]] = {}
    wire: ClassVar[str] = ""
    """``chat`` or ``messages`` if answers can be passed through to clients of that API; see ``passing``."""
    telling: ClassVar[tuple[bytes, ...]] = ()
    """Byte sequences that occur exactly in those events that tell the finish reason or usage."""
    takes_headers: ClassVar[frozenset[str]] = frozenset()
    """The headers of a client's own request that are forwarded."""
    last: ClassVar[bytes] = b""
    """A byte sequence in the last event."""

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
        """Prepared requests for ``forward``, by path and forwarded headers."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.provider}/{self.model}>"

    def __reduce__(self) -> Any:
        raise TypeError("a client holds a key and is not pickled")

    # Implemented by each wire format

    @classmethod
    def normalise_base_url(cls, address: str) -> str:
        """The address as the SDK needs it: with slashes normalised, without a doubled ``/v1`` or a pasted endpoint."""
        return address

    @abstractmethod
    def encode(self, call: Call, *, stream: bool) -> tuple[str, dict[str, Any]]:
        """The path (relative to the SDK's base address) and JSON body of this call. Raises UnsupportedContent."""

    @abstractmethod
    def decode(self, call: Call, data: Any, headers: Mapping[str, str]) -> LLMResponse:
        """The answer in ``data``, the JSON of a 200 response. Raises LLMError if it is malformed or an error."""

    @abstractmethod
    def decoder(self, call: Call, headers: Mapping[str, str]) -> StreamDecoder: ...

    @abstractmethod
    async def send(self, path: str, body: dict[str, Any], *, stream: bool) -> RawResponse | Answer:
        """Post as the SDK would, over our transport; the response's body is not yet read.

        Raises LLMError, or the SDK's errors.
        """

    @abstractmethod
    def sdk_error(self, error: Exception) -> LLMError | None:
        """The SDK's exception as ours, by type, status and the provider's error code; None if it is not the SDK's."""

    @abstractmethod
    async def fetch_models(self) -> list[ModelInfo]: ...

    async def fetch_embeddings(self, texts: Sequence[Any], *, model: str, dimensions: int | None) -> Embeddings:
        raise UnsupportedContent(f"{self.spec.label} has no embeddings.", provider=self.provider)

    # Public methods

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
        """The complete answer. Raises LLMError (see errors.py)."""
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
        """The answer as it arrives; ``aclose()`` closes the upstream connection.

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
        """Streams a call that ``make_call`` has validated; yields the chunks of each network read together.

        ``joined``: consecutive text chunks may be merged.
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
        """Whether texts to embed may be given as tokens."""
        return False

    async def embed(self, texts: Embedded, *, model: str | None = None, dimensions: int | None = None) -> Embeddings:
        """Vectors in the order of the texts. Raises LLMError; UnsupportedContent if the provider has no embeddings."""
        name = model or self.spec.default_embedding_model or self.model
        for fault in embedding_faults(name, texts, dimensions):
            raise RequestRejected(fault, provider=self.provider)
        if not isinstance(texts[0], str) and not self.embeds_tokens:
            raise UnsupportedContent("This provider embeds texts, not tokens.", provider=self.provider)
        with self.translated():
            async with asyncio.timeout(DEFAULT_TIMEOUT_S):
                return await self.fetch_embeddings(list(texts), model=name, dimensions=dimensions)

    async def list_models(self) -> list[ModelInfo]:
        """The models available to this key, as the provider lists them, with missing facts from the catalogue."""
        with self.translated():
            async with asyncio.timeout(LIST_TIMEOUT_S):
                return await self.fetch_models()

    async def forward(
        self, body: bytes, *, path: str, stream: bool, headers: Mapping[str, str] | None = None
    ) -> Forwarded:
        """Send a request body of this wire format unchanged and return the response as it arrives, errors included.

        ``headers``: those of the client's request; only ``takes_headers`` are forwarded.
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
        """A request body of this wire format adapted to this provider and model: only names and limits change."""
        return {**body, "model": model}

    def decode_safely(self, call: Call, data: Any, headers: Mapping[str, str]) -> LLMResponse:
        """``decode`` for any shape of data. Raises LLMError."""
        try:
            return self.decode(call, data, headers)
        except SHAPE_ERRORS:
            raise BadProviderResponse(WRONG_SHAPE) from None

    def passed_error(self, status: int, headers: Mapping[str, str], body: bytes) -> LLMError:
        """The error for a forwarded response with this status."""
        raise NotImplementedError

    @abstractmethod
    def forward_url(self, path: str) -> str: ...

    @abstractmethod
    def forward_headers(self) -> dict[str, str]:
        """Authentication and content type for ``forward``."""

    async def aclose(self) -> None:
        """Release what this client holds; the shared transport stays open. Later calls raise ProviderUnavailable."""
        self._api_key = None
        self._closed = True
        self._forwarding = {}

    # Errors

    def translated(self, decoder: StreamDecoder | None = None, *, answered: bool = False) -> _Translated:
        """``answered``: the provider is known to have accepted the request, as it is if there is a decoder."""
        answered = answered or decoder is not None
        if self._closed and not answered:
            # Never go on without the key: the provider would report a bad key.
            raise ProviderUnavailable("This client was closed.", provider=self.provider)
        return _Translated(self, decoder, answered)

    def translate(self, error: Exception, decoder: StreamDecoder | None = None) -> LLMError | None:
        """The LLMError for an exception of a call; None if it is not a failure of the call."""
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
    """Context manager: turns any failure into an LLMError without cause, context or request objects."""

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
        error = None  # an error tracker shows local variables, and the SDK's error quotes the provider
        try:
            # The original traceback would show the SDK's frames, whose headers contain the key.
            raise ours.with_traceback(None) from None
        finally:
            ours.__context__ = None

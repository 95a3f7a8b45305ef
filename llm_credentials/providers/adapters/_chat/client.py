"""LLMClient for the chat-completions wire format, on the official openai SDK."""

from __future__ import annotations

import array
import base64
import binascii
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llm_credentials.providers import transport, wire
from llm_credentials.providers.adapters._chat.decode import Answer, decode_answer, decode_usage
from llm_credentials.providers.adapters._chat.dialect import Dialect, dialect_of
from llm_credentials.providers.adapters._chat.encode import adapt_body, answer_tool, encode_call
from llm_credentials.providers.adapters._chat.errors import body_error, request_id
from llm_credentials.providers.adapters._chat.events import ChatDecoder
from llm_credentials.providers.client import LLMClient
from llm_credentials.providers.errors import BadProviderResponse, LLMError, RequestRejected, UnsupportedContent
from llm_credentials.providers.messages import Call, Embeddings, LLMResponse, ModelInfo
from llm_credentials.providers.transport import Answer as RawAnswer
from llm_credentials.providers.transport import HttpClient, Pattern, RawResponse
from llm_credentials.providers.usage import Usage

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_PASTED_ENDINGS = ("/chat/completions", "/embeddings", "/models")
PATTERNS_MAX = 16
"""A client uses few paths, unless they contain model names."""
_WINDOW_NAMES = ("context_window", "context_length", "max_context_length", "max_model_len")
_LABEL_NAMES = ("display_name", "name")


class ChatCompletionsClient(LLMClient):
    """``dialect`` of the spec: see ``Dialect``."""

    wire = "chat"
    telling = (b"[DONE]", b'"finish_reason":"', b'"finish_reason": "', b'"usage":{', b'"usage": {', b'"error"')
    last = b"[DONE]"
    _built: tuple[HttpClient, AsyncOpenAI] | None = None
    _patterns: Mapping[str, Pattern] = {}
    """By path: the request as the SDK in ``_built`` has sent it."""

    @property
    def dialect(self) -> Dialect:
        return dialect_of(self.spec)

    @property
    def embeds_tokens(self) -> bool:
        return self.dialect.embeds_tokens

    @classmethod
    def normalise_base_url(cls, address: str) -> str:
        scheme, mark, rest = wire.strip_suffixes(address, _PASTED_ENDINGS).partition("://")
        while "//" in rest:
            rest = rest.replace("//", "/")
        while rest.lower().endswith("/v1/v1"):
            rest = rest[: -len("/v1")]
        return f"{scheme}{mark}{rest}"

    # Requests

    def encode(self, call: Call, *, stream: bool) -> tuple[str, dict[str, Any]]:
        return self.path_of("/chat/completions", call.model), encode_call(call, self.spec, self.dialect, stream=stream)

    def path_of(self, path: str, model: str) -> str:
        """An endpoint's path for this model, relative to the SDK's base URL."""
        return path

    async def send(self, path: str, body: dict[str, Any], *, stream: bool) -> RawResponse | RawAnswer:
        sdk, content = await self._sdk(), wire.encode_json(body)
        pattern = self._patterns.get(path)
        if pattern is None:
            return await self._send_first(sdk, path, content)
        answer = await transport.send_like(self.egress, pattern, content)
        if answer.status < 400:
            return answer
        raise self.passed_error(answer.status, answer.headers, await transport.read_error(answer))

    async def _send_first(self, sdk: AsyncOpenAI, path: str, content: bytes) -> RawResponse:
        """Sends through the SDK. Later requests reuse this one with other bodies."""
        # Always a stream to the SDK: we read the bytes, not the SDK.
        response: RawResponse = await sdk.post(
            path, content=content, cast_to=RawResponse, stream=True, options=self._options()
        )
        if self._built is not None and self._built[1] is sdk:  # neither closed nor moved to another loop meanwhile
            others = self._patterns if len(self._patterns) < PATTERNS_MAX else {}
            self._patterns = {**others, path: transport.pattern_of(response.request)}
        return response

    async def _get(self, path: str) -> Any:
        sdk = await self._sdk()
        response = await sdk.get(path, cast_to=RawResponse, stream=True, options=self._options())
        return await transport.read_json(response)

    def _options(self) -> Any:
        if self._api_key is not None:
            return {}
        from openai import Omit

        return {"headers": {"Authorization": Omit()}}

    # The SDK

    async def _sdk(self) -> AsyncOpenAI:
        """The SDK's client over the running event loop's session; built once per loop."""
        await wire.import_aside("openai")
        http = transport.http_client(self.egress)
        if self._built is None or self._built[0] is not http:
            sdk = self.build_sdk(http)
            # The constructor has merged OPENAI_CUSTOM_HEADERS; no argument prevents that.
            sdk._custom_headers = {}
            # Otherwise the first request of each client queries the platform's name in a thread.
            sdk._platform = "Unknown"
            self._built, self._patterns = (http, sdk), {}
        return self._built[1]

    def build_sdk(self, http: HttpClient) -> AsyncOpenAI:
        """Passes every argument that the constructor would otherwise read from the environment."""
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            api_key=self._api_key or "none",
            admin_api_key="",
            organization="",
            project="",
            webhook_secret="",
            base_url=self.base_url,
            max_retries=0,
            timeout=None,
            http_client=http,
        )

    def sdk_error(self, error: Exception) -> LLMError | None:
        if "openai" not in sys.modules:
            return None
        import openai

        if not isinstance(error, openai.APIStatusError):
            return None
        # The SDK's ``body`` does not distinguish an error given as text from a body that is not JSON.
        return self.passed_error(error.status_code, error.response.headers, error.response.content)

    # Answers

    def decode(self, call: Call, data: Any, headers: Mapping[str, str]) -> LLMResponse:
        return decode_answer(self._answer(call, headers), data)

    def decoder(self, call: Call, headers: Mapping[str, str]) -> ChatDecoder:
        return ChatDecoder(self._answer(call, headers))

    def _answer(self, call: Call, headers: Mapping[str, str]) -> Answer:
        return Answer(
            slug=self.provider,
            model=call.model,
            request_id=request_id(headers),
            answer_tool=answer_tool(call, self.dialect),
        )

    async def fetch_models(self) -> list[ModelInfo]:
        data = await self._get("/models")
        rows = data.get("data", [data] if isinstance(data.get("id"), str) else None) if isinstance(data, dict) else data
        if not isinstance(rows, list):
            raise BadProviderResponse("The list of models is malformed.", provider=self.provider)
        return [self._model_info(row) for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]

    def _model_info(self, row: Mapping[str, Any]) -> ModelInfo:
        name: str = row["id"]
        facts = self.spec.model_facts(name)
        windows = (row.get(key) for key in _WINDOW_NAMES)
        window = next((value for value in windows if type(value) is int and value > 0), None)
        labels = (row.get(key) for key in _LABEL_NAMES)
        label = next((value for value in labels if isinstance(value, str) and value), None)
        return ModelInfo(
            id=name,
            label=label or (facts.label if facts else name),
            context_window=window or (facts.context_window if facts else None),
            capabilities=facts.capabilities if facts else self.dialect.capabilities(name, self.spec.capabilities),
        )

    async def fetch_embeddings(self, texts: Sequence[Any], *, model: str, dimensions: int | None) -> Embeddings:
        if "embeddings" not in self.spec.capabilities:
            return await super().fetch_embeddings(texts, model=model, dimensions=dimensions)
        body: dict[str, Any] = {"model": model, "input": list(texts), "encoding_format": self.dialect.embedding_format}
        if dimensions is not None:
            if not self.dialect.dimensions:
                raise UnsupportedContent("This provider's embeddings have a fixed length.", provider=self.provider)
            body[self.dialect.dimensions] = dimensions
        data = await transport.read_json(await self.send(self.path_of("/embeddings", model), body, stream=False))
        if not isinstance(data, dict) or data.get("error"):
            raise body_error(data)
        given = data.get("model")
        return Embeddings(
            vectors=_vectors(data.get("data"), len(texts)),
            usage=decode_usage(data.get("usage")) or Usage(),
            provider=self.provider,
            model=given if isinstance(given, str) and given else model,
        )

    # Pass-through

    def adapt(self, body: Mapping[str, Any], *, model: str, stream: bool) -> dict[str, Any]:
        return adapt_body(super().adapt(body, model=model, stream=stream), self.spec, self.dialect, stream=stream)

    def passed_error(self, status: int, headers: Mapping[str, str], body: bytes) -> LLMError:
        error = body_error(wire.json_or_none(body), status)
        error.request_id = request_id(headers)
        error.retry_after_s = transport.retry_after_s(headers)
        return error

    def forward_url(self, path: str) -> str:
        return self.base_url + self.path_of(self._endpoint(path), self.model)

    def _endpoint(self, path: str) -> str:
        """``/chat/completions`` or similar; callers may prefix ``/v1``."""
        path = "/" + path.strip("/").removeprefix("v1/")
        if not path.replace("/", "").isalpha() or not path.isascii():
            raise RequestRejected("There is no such path.", provider=self.provider)
        return path

    def forward_headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        return headers if self._api_key is None else {"authorization": f"Bearer {self._api_key}", **headers}

    async def aclose(self) -> None:
        await super().aclose()
        self._built, self._patterns = None, {}


def _vectors(rows: object, expected: int) -> list[list[float]]:
    """In the order of the texts; the input is numbers or base64 of little-endian 32-bit floats."""
    if not isinstance(rows, list) or len(rows) != expected:
        raise BadProviderResponse("The number of embeddings is not the number of texts.")
    found: list[list[float] | None] = [None] * expected
    for position, row in enumerate(rows):
        index = row.get("index", position) if isinstance(row, dict) else None
        if type(index) is not int or not 0 <= index < expected or found[index] is not None:
            raise BadProviderResponse("An embedding is malformed.")
        found[index] = _vector(row.get("embedding"))
    return [vector for vector in found if vector is not None]


def _vector(value: object) -> list[float]:
    if isinstance(value, list) and all(type(number) in (float, int) for number in value):
        return value
    try:
        numbers = array.array("f", base64.b64decode(value, validate=True)) if isinstance(value, str) else None
    except (binascii.Error, ValueError):
        numbers = None
    if numbers is None:
        raise BadProviderResponse("An embedding is malformed.")
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()

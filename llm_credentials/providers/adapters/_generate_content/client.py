"""LLMClient for the generateContent wire format, on the official google-genai SDK."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from llm_credentials.providers import transport, wire
from llm_credentials.providers.adapters._generate_content.decode import Answer, GenerateContentDecoder
from llm_credentials.providers.adapters._generate_content.encode import (
    encode_contents,
    encode_tool_choice,
    encode_tools,
)
from llm_credentials.providers.adapters._generate_content.errors import body_error
from llm_credentials.providers.client import LLMClient
from llm_credentials.providers.errors import AuthenticationFailed, BadProviderResponse, LLMError
from llm_credentials.providers.messages import Call, Embeddings, LLMResponse, ModelInfo, system_text
from llm_credentials.providers.schema import compile_schema, is_any_object
from llm_credentials.providers.spec import EMBEDS, SEES, THINKS
from llm_credentials.providers.transport import HttpClient, RawResponse
from llm_credentials.providers.usage import Usage

if TYPE_CHECKING:
    from google.genai import Client

API_VERSION = "v1beta"
MODELS_PAGE_SIZE = 1000
MAX_MODEL_PAGES = 20
EMBEDDING_BATCH = 100
"""Texts per batchEmbedContents request, the provider's limit."""


class GenerateContentClient(LLMClient):
    """The spec's ``dialect`` has these names, each with prefixes of model ids:

    ``unsigned``: models that do not require a signature with every turn of tool calls.
    ``schema_without_tools``: models that accept a response schema or tools, not both; with tools, the schema becomes a
    required tool.
    """

    _built: tuple[HttpClient, Client] | None = None

    @classmethod
    def normalise_base_url(cls, address: str) -> str:
        return wire.strip_suffixes(address, ("/models", "/v1beta", "/v1alpha", "/v1"))

    # Requests

    def encode(self, call: Call, *, stream: bool) -> tuple[str, dict[str, Any]]:
        signed = not self._begins(call.model, "unsigned")
        body: dict[str, Any] = {"contents": encode_contents(call, self.provider, signed=signed)}
        if system := system_text(call.messages):
            body["systemInstruction"] = {"parts": [{"text": system}]}
        config = self._config(call)
        if call.tools:
            body["tools"] = encode_tools(call.tools)
            if call.tool_choice:
                body["toolConfig"] = {"functionCallingConfig": encode_tool_choice(call.tool_choice)}
        if call.response_schema is not None:
            self._add_schema(body, config, call, call.response_schema)
        if config:
            body["generationConfig"] = config
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return f"{model_path(call.model)}:{method}", body

    def _config(self, call: Call) -> dict[str, Any]:
        config: dict[str, Any] = {
            "maxOutputTokens": call.max_tokens,
            "temperature": call.temperature,
            "topP": call.top_p,
            "stopSequences": list(call.stop) or None,
            "seed": None if call.seed is None else call.seed % 2**31,
        }
        facts = self.spec.model_facts(call.model.removeprefix("models/"))
        if facts and "reasoning" in facts.capabilities:
            # The model thinks in any case; this makes it visible.
            config["thinkingConfig"] = {"includeThoughts": True}
        return {name: value for name, value in config.items() if value is not None}

    def _add_schema(self, body: dict[str, Any], config: dict[str, Any], call: Call, schema: Mapping[str, Any]) -> None:
        name = self._answer_tool(call)
        if name is None:
            config["responseMimeType"] = "application/json"
            if not is_any_object(schema):
                # Given an object schema without properties, this provider's models return an empty object.
                config["responseJsonSchema"] = compile_schema(schema, "contents")
            return
        tool = {
            "name": name,
            "description": "Gives the final answer.",
            "parametersJsonSchema": compile_schema(schema, "contents_object"),
        }
        body["tools"] = [{"functionDeclarations": [*body["tools"][0]["functionDeclarations"], tool]}]
        choice = {"mode": "ANY", "allowedFunctionNames": [name]} if call.tool_choice == "none" else {"mode": "ANY"}
        body["toolConfig"] = {"functionCallingConfig": choice}

    def _answer_tool(self, call: Call) -> str | None:
        if call.response_schema is None or not call.tools or not self._begins(call.model, "schema_without_tools"):
            return None
        return wire.answer_tool_name(call)

    def _begins(self, model: str, name: str) -> bool:
        return model.removeprefix("models/").startswith(tuple(self.spec.dialect.get(name, ())))

    # Answers

    def decode(self, call: Call, data: Any, headers: Mapping[str, str]) -> LLMResponse:
        answer = self._answer(call)
        for _ in answer.feed(data):
            pass
        if answer.finish_reason is None and not answer.parts:
            raise BadProviderResponse("The answer has no candidate.", provider=self.provider)
        return answer.response()

    def decoder(self, call: Call, headers: Mapping[str, str]) -> GenerateContentDecoder:
        return GenerateContentDecoder(self._answer(call))

    def _answer(self, call: Call) -> Answer:
        return Answer(slug=self.provider, model=call.model, answer_tool=self._answer_tool(call))

    # The SDK

    async def _sdk(self) -> Client:
        """The SDK's client over the running event loop's session; built once per loop."""
        await wire.import_aside("google.genai")
        http = transport.http_client(self.egress)
        if self._built is None or self._built[0] is not http:
            self._built = (http, self._build(http))
        return self._built[1]

    def _build(self, http: HttpClient) -> Client:
        from google.genai import Client
        from google.genai.client import DebugConfig
        from google.genai.types import HttpOptions

        # Passes everything that the constructors would otherwise read from the environment or create. Both HTTP clients
        # are ours; the synchronous one is never used, so the asynchronous one can take its place.
        options = HttpOptions.model_construct(
            base_url=self.base_url + "/",
            api_version=API_VERSION,
            httpx_client=http,
            httpx_async_client=http,
            async_client_args={"ssl": _unused_ssl_context()},
        )
        return Client(
            vertexai=False,
            api_key=self._api_key,
            debug_config=DebugConfig(client_mode=None, replays_directory=None, replay_id=None),
            http_options=options,
        )

    async def send(self, path: str, body: dict[str, Any], *, stream: bool) -> RawResponse:
        return await self._request("post", path, wire.encode_json(body))

    async def _request(self, method: str, path: str, content: bytes) -> RawResponse:
        # The SDK has no public method that leaves the response's bytes alone.
        api = (await self._sdk())._api_client
        request = api._build_request(method, path, {})
        request.data = content
        try:
            answer: Any = await api._async_request_once(request, True)
        except (UnicodeDecodeError, RecursionError):
            raise BadProviderResponse("The provider's error could not be read.") from None
        response: RawResponse = answer.response_stream
        return response

    def sdk_error(self, error: Exception) -> LLMError | None:
        if "google.genai" not in sys.modules:
            return None
        from google.genai._api_client import EphemeralTokenAPIKeyError
        from google.genai.errors import APIError

        if isinstance(error, EphemeralTokenAPIKeyError):
            return AuthenticationFailed("This is a token for live sessions, not a key.")
        if not isinstance(error, APIError):
            return None
        ours = body_error(error.details, error.code)
        headers = getattr(error.response, "headers", None) or {}
        if (wait_s := transport.retry_after_s(headers)) is not None:
            ours.retry_after_s = wait_s
        ours.request_id = wire.safe_code(headers.get("x-request-id"))
        return ours

    async def fetch_models(self) -> list[ModelInfo]:
        found: list[ModelInfo] = []
        path = f"models?pageSize={MODELS_PAGE_SIZE}"
        for _ in range(MAX_MODEL_PAGES):
            page = await transport.read_json(await self._request("get", path, b""))
            if not isinstance(page, dict) or not isinstance(page.get("models", []), list):
                raise BadProviderResponse("The list of models is malformed.", provider=self.provider)
            found += [info for row in page.get("models", []) if (info := self._model_info(row))]
            token = page.get("nextPageToken")
            if not isinstance(token, str) or not token:
                break
            path = f"models?pageSize={MODELS_PAGE_SIZE}&pageToken={quote(token, safe='')}"
        return found

    def _model_info(self, row: object) -> ModelInfo | None:
        """None for a model that neither chats nor embeds."""
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            return None
        id_ = row["name"].removeprefix("models/")
        facts, methods = self.spec.model_facts(id_), row.get("supportedGenerationMethods") or ()
        if "generateContent" in methods:
            capabilities = THINKS if row.get("thinking") is True else SEES
        elif "embedContent" in methods or "batchEmbedContents" in methods:
            capabilities = EMBEDS
        else:
            return None
        label, window = row.get("displayName"), row.get("inputTokenLimit")
        return ModelInfo(
            id=id_,
            label=label if isinstance(label, str) and label else (facts.label if facts else id_),
            context_window=window if isinstance(window, int) else (facts.context_window if facts else None),
            capabilities=facts.capabilities if facts else capabilities,
        )

    async def fetch_embeddings(self, texts: Sequence[Any], *, model: str, dimensions: int | None) -> Embeddings:
        vectors: list[list[float]] = []
        size = {} if dimensions is None else {"outputDimensionality": dimensions}
        for start in range(0, len(texts), EMBEDDING_BATCH):
            requests = [
                {"model": model_path(model), "content": {"parts": [{"text": text}]}, **size}
                for text in texts[start : start + EMBEDDING_BATCH]
            ]
            path = f"{model_path(model)}:batchEmbedContents"
            data = await transport.read_json(await self.send(path, {"requests": requests}, stream=False))
            vectors += _vectors(data, len(requests))
        return Embeddings(vectors=vectors, usage=Usage(), provider=self.provider, model=model)

    # Pass-through

    def forward_url(self, path: str) -> str:
        path = path.lstrip("/")
        return f"{self.base_url}/{path if path.startswith('v1') else f'{API_VERSION}/{path}'}"

    def forward_headers(self) -> dict[str, str]:
        return {"x-goog-api-key": self._api_key or "", "content-type": "application/json"}

    async def aclose(self) -> None:
        await super().aclose()
        self._built = None


@cache
def _unused_ssl_context() -> ssl.SSLContext:
    """For the SDK, which otherwise creates one for web sockets, in 20 ms; it is never used."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def model_path(model: str) -> str:
    """``models/…`` for a plain id; ``tunedModels/…`` and similar are unchanged."""
    return quote(model if "/" in model else f"models/{model}", safe="/")


def _vectors(data: Any, wanted: int) -> list[list[float]]:
    rows = data.get("embeddings") if isinstance(data, dict) else None
    if not isinstance(rows, list) or len(rows) != wanted:
        raise BadProviderResponse("The embeddings are malformed.")
    vectors: list[list[float]] = []
    for row in rows:
        values = row.get("values") if isinstance(row, dict) else None
        if not isinstance(values, list):
            raise BadProviderResponse("An embedding is malformed.")
        vectors.append(values)
    return vectors

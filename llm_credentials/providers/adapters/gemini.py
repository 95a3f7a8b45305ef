"""Google Gemini: the generateContent wire on the official SDK."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from llm_credentials.providers import transport, wire
from llm_credentials.providers.adapters import _generate_content as generate
from llm_credentials.providers.client import LLMClient
from llm_credentials.providers.errors import AuthenticationFailed, BadProviderResponse, LLMError
from llm_credentials.providers.messages import Call, Embeddings, LLMResponse, ModelInfo, system_text
from llm_credentials.providers.schema import compile_schema
from llm_credentials.providers.spec import EMBEDS, SEES, THINKS, ModelFacts, ProviderSpec
from llm_credentials.providers.transport import HttpClient, RawResponse
from llm_credentials.providers.usage import Usage

if TYPE_CHECKING:
    from google.genai import Client

API_VERSION = "v1beta"
MODELS_PAGE_SIZE = 1000
MAX_MODEL_PAGES = 20
EMBEDDING_BATCH = 100
"""Texts in one batchEmbedContents request, the provider's limit."""


class GenerateContentClient(LLMClient):
    """The generateContent wire. ``dialect`` names, by the beginnings of model ids:

    ``unsigned``: models that do not insist on a signature with every turn of calls.
    ``schema_without_tools``: models that take a schema of the answer or tools, not both; with tools, the schema becomes
    a tool that must be called.
    """

    _built: tuple[HttpClient, Client] | None = None

    @classmethod
    def normalise_base_url(cls, address: str) -> str:
        return wire.strip_suffixes(address, ("/models", "/v1beta", "/v1alpha", "/v1"))

    # Requests

    def encode(self, call: Call, *, stream: bool) -> tuple[str, dict[str, Any]]:
        signed = not self._begins(call.model, "unsigned")
        body: dict[str, Any] = {"contents": generate.encode_contents(call, self.provider, signed=signed)}
        if system := system_text(call.messages):
            body["systemInstruction"] = {"parts": [{"text": system}]}
        config = self._config(call)
        if call.tools:
            body["tools"] = generate.encode_tools(call.tools)
            if call.tool_choice:
                body["toolConfig"] = {"functionCallingConfig": generate.encode_tool_choice(call.tool_choice)}
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
            # It thinks either way; this lets it be seen.
            config["thinkingConfig"] = {"includeThoughts": True}
        return {name: value for name, value in config.items() if value is not None}

    def _add_schema(self, body: dict[str, Any], config: dict[str, Any], call: Call, schema: Mapping[str, Any]) -> None:
        name = self._answer_tool(call)
        if name is None:
            config["responseMimeType"] = "application/json"
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

    def decoder(self, call: Call, headers: Mapping[str, str]) -> generate.GenerateContentDecoder:
        return generate.GenerateContentDecoder(self._answer(call))

    def _answer(self, call: Call) -> generate.Answer:
        return generate.Answer(slug=self.provider, model=call.model, answer_tool=self._answer_tool(call))

    # The SDK

    async def _sdk(self) -> Client:
        """The SDK's client over the running event loop's connections; built once for each."""
        await wire.import_aside("google.genai")
        http = transport.http_client(self.egress)
        if self._built is None or self._built[0] is not http:
            self._built = (http, self._build(http))
        return self._built[1]

    def _build(self, http: HttpClient) -> Client:
        from google.genai import Client
        from google.genai.client import DebugConfig
        from google.genai.types import HttpOptions

        # Everything that the constructors would else read from the environment, or make anew, is given. Both HTTP
        # clients are ours; the synchronous one is never used, so that the asynchronous one may stand in its place.
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
        # The SDK has no public call that leaves the answer's bytes alone.
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
        ours = generate.body_error(error.details, error.code)
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
    """Given to the SDK, which else makes one for web sockets, in 20 ms; nothing is ever dialled with it."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def model_path(model: str) -> str:
    """``models/…`` for a plain id; ``tunedModels/…`` and the like stay."""
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


_MODELS_PAGE = "https://ai.google.dev/gemini-api/docs/models"
_DEPRECATIONS = "https://ai.google.dev/gemini-api/docs/deprecations"
_AS_OF = date(2026, 11, 21)
_WINDOW, _MOST = 1_048_576, 65_536


def _model(id_: str, label: str, cost: Any, speed: Any, capabilities: frozenset[str] = THINKS) -> ModelFacts:
    return ModelFacts(
        id=id_,
        label=label,
        capabilities=capabilities,
        context_window=_WINDOW,
        max_output_tokens=_MOST,
        cost=cost,
        speed=speed,
        source=_MODELS_PAGE,
        as_of=_AS_OF,
    )


def _retired(
    id_: str, label: str, window: int, most: int, cost: Any, speed: Any, successor: str = "gemini-3.8-flash"
) -> ModelFacts:
    return ModelFacts(
        id=id_,
        label=label,
        capabilities=SEES,
        context_window=window,
        max_output_tokens=most,
        cost=cost,
        speed=speed,
        retired=True,
        successor=successor,
        source=_DEPRECATIONS,
        as_of=_AS_OF,
    )


def _embedding(id_: str, label: str, window: int, *, retired: bool = False) -> ModelFacts:
    return ModelFacts(
        id=id_,
        label=label,
        capabilities=EMBEDS,
        context_window=window,
        cost="very_low",
        speed="very_fast",
        embedding_dimensions=3072,
        retired=retired,
        successor="gemini-embedding-2" if retired else None,
        source=_DEPRECATIONS if retired else _MODELS_PAGE,
        as_of=_AS_OF,
    )


_CURRENT = (
    _model("gemini-3.8-flash", "Gemini 3.8 Flash", "medium", "fast"),
    _model("gemini-3.5-flash-lite", "Gemini 3.5 Flash-Lite", "low", "very_fast"),
    _model("gemini-4-argon", "Gemini 4 Argon", "high", "medium"),
    _model("gemini-3.1-pro-preview", "Gemini 3.1 Pro (preview)", "medium", "medium"),
    _model("gemini-3.7-flash", "Gemini 3.7 Flash", "medium", "fast"),
    _model("gemini-3.6-flash", "Gemini 3.6 Flash", "medium", "fast"),
    _model("gemini-3.5-flash", "Gemini 3.5 Flash", "medium", "fast"),
    _model("gemini-3.1-flash-lite", "Gemini 3.1 Flash-Lite", "low", "very_fast"),
    _model("gemini-3-flash-preview", "Gemini 3 Flash (preview)", "low", "fast"),
    _model("gemini-2.5-pro", "Gemini 2.5 Pro", "medium", "medium"),
    _model("gemini-2.5-flash", "Gemini 2.5 Flash", "low", "fast"),
    _model("gemini-2.5-flash-lite", "Gemini 2.5 Flash-Lite", "very_low", "very_fast"),
    _embedding("gemini-embedding-2", "Gemini Embedding 2", 8_192),
)
_LITE = "gemini-3.5-flash-lite"
_RETIRED = (
    _retired(
        "gemini-3-pro-preview", "Gemini 3 Pro (preview)", _WINDOW, _MOST, "medium", "medium", "gemini-3.1-pro-preview"
    ),
    _retired("gemini-2.0-flash", "Gemini 2.0 Flash", _WINDOW, 8_192, "very_low", "fast"),
    _retired("gemini-2.0-flash-exp", "Gemini 2.0 Flash (experimental)", _WINDOW, 8_192, "very_low", "fast"),
    _retired("gemini-2.0-flash-lite", "Gemini 2.0 Flash-Lite", _WINDOW, 8_192, "very_low", "very_fast", _LITE),
    _retired("gemini-1.5-pro", "Gemini 1.5 Pro", 2_097_152, 8_192, "low", "medium"),
    _retired("gemini-1.5-flash", "Gemini 1.5 Flash", _WINDOW, 8_192, "very_low", "fast", _LITE),
    _retired("gemini-pro", "Gemini 1.0 Pro", 32_768, 8_192, "free_tier", "fast"),
    _retired("gemini-pro-vision", "Gemini 1.0 Pro Vision", 16_384, 2_048, "low", "medium"),
    _embedding("gemini-embedding-001", "Gemini Embedding 001", 2_048, retired=True),
)

SPECS = (
    ProviderSpec(
        slug="gemini",
        label="Google Gemini",
        client=f"{__name__}:GenerateContentClient",
        base_url="https://generativelanguage.googleapis.com",
        base_url_help="Only for a gateway of your own that speaks generateContent. Without /v1beta at its end.",
        description="The Gemini models: very long context, images, and a free tier to begin with.",
        best_for="Multimodal work, free tier",
        cost="low",
        speed="fast",
        free_tier=True,
        docs_url="https://ai.google.dev/gemini-api/docs",
        key_url="https://aistudio.google.com/apikey",
        key_hint="AIza…",
        key_prefixes=("AIza",),
        models=_CURRENT + _RETIRED,
        default_model="gemini-3.8-flash",
        cheapest_model="gemini-2.5-flash-lite",
        default_embedding_model="gemini-embedding-2",
        capabilities=THINKS | EMBEDS,
        hue=215,
        env_key_names=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        env_prefix="GEMINI",
        price_provider="google",
        dialect={
            "unsigned": ("gemini-1", "gemini-2", "gemini-pro", "gemma-"),
            "schema_without_tools": ("gemini-1", "gemini-2", "gemini-pro"),
        },
    ),
)

"""LLMClient for the messages wire format, on the official anthropic SDK."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llm_credentials.providers import transport, wire
from llm_credentials.providers.adapters._messages.decode import Answer, MessagesDecoder
from llm_credentials.providers.adapters._messages.encode import (
    DEFAULT_MAX_TOKENS,
    encode_messages,
    encode_tool_choice,
    encode_tools,
    mentioned_tools,
)
from llm_credentials.providers.adapters._messages.errors import body_error
from llm_credentials.providers.client import LLMClient
from llm_credentials.providers.errors import BadProviderResponse, LLMError, UnsupportedContent
from llm_credentials.providers.messages import Call, LLMResponse, ModelInfo, system_text
from llm_credentials.providers.schema import compile_schema, is_any_object
from llm_credentials.providers.spec import ModelFacts
from llm_credentials.providers.transport import HttpClient, RawResponse

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

OFFICIAL_HOST = "api.anthropic.com"
MODELS_PAGE_SIZE = 1000
MAX_MODEL_PAGES = 20
_FORCED = ("any", "tool")
ANY_ANSWER = "Gives the final answer: the JSON object that was asked for, with everything that it is to hold."


class MessagesClient(LLMClient):
    """The spec's ``dialect`` has these names, each with a list of models:

    ``schema_by_tool``: models that support a schema only through a required tool.
    ``shown_thinking``: models that think by default and show it only on request.
    ``unforced_tools``: models that reject a required tool; they are asked in words.

    The format has no ``seed``: it is left out. ``temperature`` is at most 1, and takes precedence over ``top_p``,
    because current models accept only one of them.
    """

    wire = "messages"
    telling = (
        *(b'"type":"message_delta"', b'"type": "message_delta"', b'"type":"message_stop"', b'"type": "message_stop"'),
        *(b'"type":"error"', b'"type": "error"'),
    )
    last = b"message_stop"
    _built: tuple[HttpClient, AsyncAnthropic] | None = None
    _pattern: Any = None

    @classmethod
    def normalise_base_url(cls, address: str) -> str:
        return wire.strip_suffixes(address, ("/messages", "/models", "/v1"))

    # Requests

    def encode(self, call: Call, *, stream: bool) -> tuple[str, dict[str, Any]]:
        facts = self.facts(call.model)
        most = facts.max_output_tokens if facts else None
        body: dict[str, Any] = {
            "model": call.model,
            "max_tokens": min(call.max_tokens or most or DEFAULT_MAX_TOKENS, most or 10**9),
            "messages": encode_messages(call, self.provider),
        }
        system = system_text(call.messages)
        if call.tools:
            body["tools"] = encode_tools(call.tools)
            system = self._add_tool_choice(body, call, system)
        elif mentioned := mentioned_tools(call.messages):
            body["tools"] = mentioned
            body["tool_choice"] = {"type": "none"}
        if call.response_schema is not None:
            system = self._add_schema(body, call, system)
        if system:
            body["system"] = system
        if call.stop:
            body["stop_sequences"] = list(call.stop)
        body |= self._sampling(call, facts)
        if self._marked(call.model, "shown_thinking") and body.get("tool_choice", {}).get("type") not in _FORCED:
            # The model thinks in any case, unless a tool is required; this makes it visible.
            body["thinking"] = {"type": "adaptive", "display": "summarized"}
        if stream:
            body["stream"] = True
        return "/v1/messages", body

    def _add_tool_choice(self, body: dict[str, Any], call: Call, system: str) -> str:
        choice = encode_tool_choice(call.tool_choice)
        if not choice:
            return system
        wish = f"Call the tool {choice['name']}." if "name" in choice else "Call at least one of the tools."
        return self._choose(body, call.model, choice, wish, system)

    def _choose(self, body: dict[str, Any], model: str, choice: dict[str, Any], wish: str, system: str) -> str:
        """Sets the tool choice, or asks in words if the model rejects a required tool. Returns the system text."""
        if choice["type"] not in _FORCED or not self._marked(model, "unforced_tools"):
            body["tool_choice"] = choice
            return system
        body["tool_choice"] = {"type": "auto"}
        return f"{system}\n\n{wish}" if system else wish

    def _add_schema(self, body: dict[str, Any], call: Call, system: str) -> str:
        schema, name = call.response_schema or {}, self._answer_tool(call)
        if name is None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": compile_schema(schema, "messages")}}
            return system
        tool = {
            "name": name,
            "description": ANY_ANSWER if is_any_object(schema) else "Gives the final answer.",
            "input_schema": compile_schema(schema, "messages_object"),
        }
        free = [] if body.get("tool_choice", {}).get("type") == "none" else body.get("tools", [])
        body["tools"] = [*body.get("tools", []), tool]
        choice = {"type": "any"} if free else {"type": "tool", "name": name}
        wish = f"Write nothing yourself: give the final answer by calling the tool {name}."
        return self._choose(body, call.model, choice, wish, system)

    def _answer_tool(self, call: Call) -> str | None:
        """The tool that stands for the schema, if the model or the schema leaves no other way."""
        if call.response_schema is None:
            return None
        if not self._marked(call.model, "schema_by_tool"):
            with contextlib.suppress(UnsupportedContent):
                compile_schema(call.response_schema, "messages")
                return None
        return wire.answer_tool_name(call)

    def _sampling(self, call: Call, facts: ModelFacts | None) -> dict[str, Any]:
        if _samples_fixed(call.model, facts):
            return {}
        if call.temperature is not None:
            return {"temperature": min(call.temperature, 1.0)}
        return {} if call.top_p is None else {"top_p": call.top_p}

    def facts(self, model: str) -> ModelFacts | None:
        """The catalogue's facts; a dated id (``…-20250929``) has those of its family."""
        found = self.spec.model_facts(model)
        family, _, tail = model.rpartition("-")
        if found is None and (tail == "latest" or (len(tail) == 8 and tail.isdigit())):
            found = self.spec.model_facts(family)
        return found

    def _marked(self, model: str, name: str) -> bool:
        facts = self.facts(model)
        return (facts.id if facts else model) in self.spec.dialect.get(name, ())

    # Answers

    def decode(self, call: Call, data: Any, headers: Mapping[str, str]) -> LLMResponse:
        if isinstance(data, dict) and (data.get("type") == "error" or "error" in data):
            raise body_error(data, None, request_id=headers.get("request-id"))
        if not isinstance(data, dict):
            raise BadProviderResponse("The answer is no object.", provider=self.provider)
        answer = self._answer(call)
        for _ in answer.read(data):
            pass
        return answer.response(headers.get("request-id"))

    def decoder(self, call: Call, headers: Mapping[str, str]) -> MessagesDecoder:
        return MessagesDecoder(self._answer(call), headers.get("request-id"))

    def _answer(self, call: Call) -> Answer:
        return Answer(slug=self.provider, model=call.model, answer_tool=self._answer_tool(call))

    # The SDK

    async def _sdk(self) -> AsyncAnthropic:
        """The SDK's client over the running event loop's session; built once per loop."""
        await wire.import_aside("anthropic")
        http = transport.http_client(self.egress)
        if self._built is None or self._built[0] is not http:
            self._built, self._pattern = (http, self._build(http)), None
        return self._built[1]

    def _build(self, http: HttpClient) -> AsyncAnthropic:
        import anthropic

        # Passes every argument that the constructor would otherwise read from the environment.
        sdk = anthropic.AsyncAnthropic(
            api_key=self._api_key,
            webhook_key="",
            base_url=self.base_url,
            max_retries=0,
            timeout=None,
            open_telemetry=False,
            http_client=http,
        )
        # The constructor has merged ANTHROPIC_CUSTOM_HEADERS; no argument prevents that.
        sdk._custom_headers = self._extra_headers()
        # Otherwise the first request of each client queries the platform's name in a thread.
        sdk._platform = "Unknown"
        return sdk

    def _extra_headers(self) -> dict[str, str]:
        """Gateways in front of the provider, and older implementations of the format, expect the key here."""
        if urlsplit(self.base_url).hostname == OFFICIAL_HOST:
            return {}
        return {"x-api-key": self._api_key or ""}

    async def send(self, path: str, body: dict[str, Any], *, stream: bool) -> RawResponse:
        # The SDK builds a request once: building one for every call costs twice as much as the rest of the SDK's work.
        sdk = await self._sdk()
        pattern = self._pattern = self._pattern or _request_pattern(sdk, path)
        content = wire.encode_json(body)
        request = type(pattern)(pattern.method, pattern.url, headers=pattern.headers, content=content)
        response = await sdk._client.send(request, stream=True)
        if response.is_success:
            return response
        await response.aread()
        raise sdk._make_status_error_from_response(response)

    def sdk_error(self, error: Exception) -> LLMError | None:
        if "anthropic" not in sys.modules:
            return None
        import anthropic

        if not isinstance(error, anthropic.APIStatusError):
            return None
        ours = body_error(error.body, error.status_code)
        ours.request_id = wire.safe_code(error.request_id) or wire.safe_code(_text(error.body, "request_id"))
        ours.retry_after_s = transport.retry_after_s(error.response.headers)
        return ours

    async def fetch_models(self) -> list[ModelInfo]:
        sdk = await self._sdk()
        found: list[ModelInfo] = []
        params: dict[str, object] = {"limit": MODELS_PAGE_SIZE}
        for _ in range(MAX_MODEL_PAGES):
            response = await sdk.get("/v1/models", cast_to=RawResponse, options={"params": params}, stream=True)
            page = await transport.read_json(response)
            rows = page.get("data") if isinstance(page, dict) else None
            if not isinstance(rows, list):
                raise BadProviderResponse("The list of models is malformed.", provider=self.provider)
            found += [self._model_info(row) for row in rows if _usable(row)]
            last = page.get("last_id")
            if not page.get("has_more") or not isinstance(last, str) or not rows:
                break
            params["after_id"] = last
        return found

    def _model_info(self, row: Mapping[str, Any]) -> ModelInfo:
        facts = self.facts(row["id"])
        window, label = row.get("max_input_tokens"), row.get("display_name")
        return ModelInfo(
            id=row["id"],
            label=label if isinstance(label, str) and label else (facts.label if facts else row["id"]),
            context_window=window if isinstance(window, int) else (facts.context_window if facts else None),
            capabilities=facts.capabilities if facts else self.spec.capabilities,
        )

    # Pass-through

    def adapt(self, body: Mapping[str, Any], *, model: str, stream: bool) -> dict[str, Any]:
        adapted = super().adapt(body, model=model, stream=stream)
        if _samples_fixed(model, self.facts(model)):
            for name in ("temperature", "top_p", "top_k"):
                adapted.pop(name, None)
        return adapted

    def passed_error(self, status: int, headers: Mapping[str, str], body: bytes) -> LLMError:
        error = body_error(wire.json_or_none(body), status)
        error.request_id = wire.safe_code(headers.get("request-id"))
        error.retry_after_s = transport.retry_after_s(headers)
        return error

    def forward_url(self, path: str) -> str:
        return f"{self.base_url}/{path.lstrip('/')}"

    takes_headers = frozenset({"anthropic-beta", "anthropic-version"})

    def forward_headers(self) -> dict[str, str]:
        from anthropic._constants import ANTHROPIC_API_VERSION

        return {
            "authorization": f"Bearer {self._api_key}",
            **self._extra_headers(),
            "anthropic-version": ANTHROPIC_API_VERSION,
            "content-type": "application/json",
        }

    async def aclose(self) -> None:
        await super().aclose()
        self._built = self._pattern = None


def _samples_fixed(model: str, facts: ModelFacts | None) -> bool:
    """Every model since 4.7 rejects temperature and top_p; models not yet in the catalogue will too."""
    return facts.fixed_sampling if facts else model.startswith("claude-")


def _request_pattern(sdk: AsyncAnthropic, path: str) -> Any:
    """A request as the SDK builds it, without its body: method, URL and headers are the same in every call."""
    from anthropic._models import FinalRequestOptions

    pattern = sdk._build_request(FinalRequestOptions.construct(method="post", url=path, json_data={}))
    del pattern.headers["content-length"]
    return pattern


def _text(body: object, name: str) -> str | None:
    value = body.get(name) if isinstance(body, dict) else None
    return value if isinstance(value, str) else None


def _usable(row: object) -> bool:
    return isinstance(row, dict) and isinstance(row.get("id"), str) and row.get("lifecycle") != "retired"

from typing import Any

import pytest

from llm_credentials.providers import (
    AuthenticationFailed,
    EgressPolicy,
    LLMClient,
    LLMMessage,
    ModelNotFound,
    QuotaExhausted,
    RateLimited,
    ToolDefinition,
    ToolResult,
    UnknownProvider,
    build_client,
    get_spec,
    specs,
)
from llm_credentials.providers.sandbox.models import MODELS

LOOK = ToolDefinition(
    name="look",
    description="Looks around",
    parameters={"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
)


def client(url: str, key: str = "sbx-good-demo", model: str = "sandbox-instant") -> LLMClient:
    return build_client("sandbox", api_key=key, model=model, egress=EgressPolicy(allow=(url.removeprefix("http://"),)))


def test_row_exists_only_where_the_site_has_a_sandbox(settings: Any) -> None:
    settings.SANDBOX_URL = ""
    assert "sandbox" not in [spec.slug for spec in specs()]
    with pytest.raises(UnknownProvider):
        get_spec("sandbox")
    settings.SANDBOX_URL = "http://127.0.0.1:8900"
    assert get_spec("sandbox").label == "Sandbox"


def test_row_names_models_that_the_sandbox_has(sandbox_url: str) -> None:
    spec = get_spec("sandbox")
    known = {model.id for model in MODELS}
    assert {spec.default_model, spec.cheapest_model, spec.default_embedding_model} <= known


async def test_row_completes_and_streams_the_same(sandbox_url: str) -> None:
    ask = [LLMMessage.user("What is 17 * 23?")]
    whole = await client(sandbox_url).complete(ask)
    chunks = [chunk async for chunk in client(sandbox_url).stream(ask)]
    assert whole.text == "Sandbox: 17 * 23 = 391." == "".join(chunk.text for chunk in chunks if chunk.type == "delta")
    assert chunks[-1].response is not None
    assert chunks[-1].response.usage == whole.usage
    assert whole.usage.output_tokens == 6


async def test_row_goes_the_whole_way_with_a_tool(sandbox_url: str) -> None:
    ask = [LLMMessage.user('use look with {"place": "attic"}')]
    first = await client(sandbox_url, model="sandbox-reasoner").complete(ask, tools=[LOOK])
    (call,) = first.tool_calls
    assert call.arguments == {"place": "attic"}
    history = [*ask, first.message, LLMMessage.tool([ToolResult(call_id=call.id, name="look", content="dust")])]
    answer = await client(sandbox_url, model="sandbox-reasoner").complete(history, tools=[LOOK])
    assert answer.text == "Sandbox: look answered: dust"


async def test_row_embeds_and_lists_models(sandbox_url: str) -> None:
    embeddings = await client(sandbox_url).embed(["cat", "dog"], model="sandbox-embed", dimensions=16)
    assert [len(vector) for vector in embeddings.vectors] == [16, 16]
    models = {model.id: model for model in await client(sandbox_url).list_models()}
    assert set(models) == {model.id for model in MODELS}
    assert models["sandbox-tiny"].context_window == 1_000


@pytest.mark.parametrize(
    ("key", "model", "error"),
    [
        ("sbx-bad-demo", "sandbox-chat", AuthenticationFailed),
        ("sbx-exhausted-demo", "sandbox-chat", QuotaExhausted),
        ("sbx-limited-demo", "sandbox-chat", RateLimited),
        ("sbx-good-demo", "sandbox-none", ModelNotFound),
    ],
)
async def test_row_errors_have_their_class(sandbox_url: str, key: str, model: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await client(sandbox_url, key, model).complete([LLMMessage.user("Hi")])

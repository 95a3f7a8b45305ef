"""Chat completions: lists of models, and embeddings."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from llm_credentials.providers import (
    BadProviderResponse,
    RequestRejected,
    UnsupportedContent,
)
from llm_credentials.providers.tests.answering import Answer, answering, of_json, of_text

# Models and embeddings


async def test_models_are_listed_with_windows_and_capabilities() -> None:
    rows = [
        {"id": "gpt-4o-mini"},
        {"id": "text-embedding-3-small"},
        {"id": "whisper-1"},
        {"id": "gpt-7"},
        {"id": "grok", "context_length": 256_000, "name": "Grok"},
        {"id": "vllm", "max_model_len": 4096},
        {"id": "mist", "max_context_length": 32_000},
        {"id": "odd", "context_window": "many"},
        {"noid": 1},
        7,
    ]
    async with answering(of_json({"object": "list", "data": rows}), of_json(rows)) as server:
        client = server.client("openai")
        models = {model.id: model for model in await client.list_models()}
        assert [model.id for model in await client.list_models()] == list(models), "a bare list, as Together sends it"
    assert list(models) == [row["id"] for row in rows[:8]]  # type: ignore[index]
    assert models["gpt-4o-mini"].context_window == 128_000
    assert models["gpt-4o-mini"].label == "GPT-4o mini"
    assert models["text-embedding-3-small"].capabilities == {"embeddings"}
    assert models["whisper-1"].capabilities == frozenset()
    assert {"chat", "tools"} <= models["gpt-7"].capabilities
    assert [models[name].context_window for name in ("grok", "vllm", "mist", "odd")] == [256_000, 4096, 32_000, None]
    assert models["grok"].label == "Grok"


@pytest.mark.parametrize("answer", [of_json({}), of_json({"data": None}), of_json(7), of_text("<html>")])
async def test_malformed_list_of_models_is_a_bad_response(answer: Answer) -> None:
    async with answering(answer) as server:
        with pytest.raises(BadProviderResponse):
            await server.client("openai").list_models()


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


async def test_embeddings_come_as_numbers_or_packed_and_in_order() -> None:
    rows = [{"index": 1, "embedding": packed(0.5, -1.0)}, {"index": 0, "embedding": [1, 2.5]}]
    async with answering(of_json({"data": rows, "model": "e-1", "usage": {"prompt_tokens": 4}})) as server:
        found = await server.client("openai").embed(["a", "b"], model="text-embedding-3-small", dimensions=2)
        assert server.asked[0].json == {
            "model": "text-embedding-3-small",
            "input": ["a", "b"],
            "encoding_format": "base64",
            "dimensions": 2,
        }
    assert found.vectors == [[1, 2.5], [0.5, -1.0]]
    assert (found.model, found.usage.input_tokens, found.usage.output_tokens) == ("e-1", 4, None)


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [],
        [{"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}] * 2,
        [{"index": 0, "embedding": [1.0]}, {"index": 7, "embedding": [1.0]}],
        [{"index": 0, "embedding": ["x"]}, {"index": 1, "embedding": [1.0]}],
        [{"index": 0, "embedding": "!"}, {"index": 1, "embedding": [1.0]}],
        [{"index": 0, "embedding": base64.b64encode(b"xxx").decode()}, {"index": 1, "embedding": [1.0]}],
        [7, 8],
    ],
)
async def test_malformed_embeddings_are_a_bad_response(rows: Any) -> None:
    async with answering(of_json({"data": rows})) as server:
        with pytest.raises(BadProviderResponse):
            await server.client("openai").embed(["a", "b"])


async def test_embeddings_in_each_ones_words() -> None:
    async with answering(of_json({"data": [{"embedding": [1.0]}]})) as server:
        await server.client("mistral").embed(["a"], dimensions=8)
        assert server.asked[0].json["output_dimension"] == 8
        assert server.asked[0].json["encoding_format"] == "float"
        with pytest.raises(UnsupportedContent):
            await server.client("together").embed(["a"], dimensions=8)
        with pytest.raises(UnsupportedContent):
            await server.client("groq").embed(["a"])
        await server.client("azure_openai", model="ada").embed(["a"])
        await server.client("azure_openai", model="gpt", options={"deployment": "my-gpt"}).embed(["a"], model="ada")
        assert [asked.path for asked in server.asked[1:]] == ["/openai/deployments/ada/embeddings"] * 2


@pytest.mark.parametrize("texts", [[], [""], ["a", ""], "text", [None], [7]])
async def test_embedding_nothing_is_refused(texts: Any) -> None:
    async with answering(of_json({})) as server:
        with pytest.raises(RequestRejected):
            await server.client("openai").embed(texts)
        assert server.asked == []

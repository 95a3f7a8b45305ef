"""A provider's operations besides chat, by format: model lists, embeddings, token counts."""

from __future__ import annotations

from array import array
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from llm_credentials.providers.sandbox.asks import JSON, Refused, Usage
from llm_credentials.providers.sandbox.models import BY_ID, CREATED, EMBEDDING_DIMENSIONS, MODELS
from llm_credentials.providers.sandbox.vectors import embed
from llm_credentials.providers.sandbox.wires.base import as_list, as_object, as_text, text_tokens, whole_number
from llm_credentials.providers.sandbox.wires.generate import pick
from llm_credentials.providers.spec import ModelFacts

MAX_INPUTS = 2_048
MAX_DIMENSIONS = 4_096


def chat_model(facts: ModelFacts) -> JSON:
    """OpenAI's fields, and the context window under the names of Groq and Together."""
    return {
        "id": facts.id,
        "object": "model",
        "created": CREATED,
        "owned_by": "sandbox",
        "context_window": facts.context_window,
        "context_length": facts.context_window,
        "max_completion_tokens": facts.max_output_tokens,
    }


def messages_model(facts: ModelFacts) -> JSON:
    return {
        "type": "model",
        "id": facts.id,
        "display_name": facts.label,
        "created_at": datetime.fromtimestamp(CREATED, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": facts.context_window,
        "max_tokens": facts.max_output_tokens,
    }


def generate_model(facts: ModelFacts) -> JSON:
    embeds = "embeddings" in facts.capabilities
    return {
        "name": f"models/{facts.id}",
        "version": "1",
        "displayName": facts.label,
        "description": "A model of the local sandbox.",
        "inputTokenLimit": facts.context_window,
        "outputTokenLimit": facts.max_output_tokens or 1,
        "supportedGenerationMethods": ["embedContent"] if embeds else ["generateContent", "countTokens"],
    }


_ONE: dict[str, Callable[[ModelFacts], JSON]] = {
    "chat": chat_model,
    "azure": chat_model,
    "messages": messages_model,
    "generate": generate_model,
}


def one_model(wire: str, model: str) -> JSON:
    facts = BY_ID.get(model)
    if facts is None:
        raise Refused("404", f"The model `{model[:100]}` does not exist.", param="model")
    return _ONE[wire](facts)


def model_list(wire: str, query: Mapping[str, str]) -> JSON:
    """All models; in pages if the format supports it and the request asks for it."""
    if wire == "messages":
        page, more = _page([model.id for model in MODELS], query.get("limit"), query.get("after_id"), 20)
        data = [messages_model(BY_ID[name]) for name in page]
        ends = (page[0], page[-1]) if page else (None, None)
        return {"data": data, "has_more": more, "first_id": ends[0], "last_id": ends[1]}
    if wire == "generate":
        page, more = _page([model.id for model in MODELS], query.get("pageSize"), query.get("pageToken"), 50)
        answer: JSON = {"models": [generate_model(BY_ID[name]) for name in page]}
        return answer | ({"nextPageToken": page[-1]} if more else {})
    return {"object": "list", "data": [chat_model(model) for model in MODELS]}


def _page(names: list[str], size: str | None, after: str | None, usual: int) -> tuple[list[str], bool]:
    start = names.index(after) + 1 if after in names else 0
    end = start + (int(size) if size and size.isdecimal() and int(size) else usual)
    return names[start:end], end < len(names)


def chat_embeddings(body: JSON, model: str) -> tuple[JSON, Usage]:
    texts = _inputs(body.get("input"))
    dimensions = _dimensions(body, "dimensions")
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise Refused("400", "encoding_format must be float or base64.", param="encoding_format")
    tokens = sum(map(text_tokens, texts))
    vectors = [embed(text, dimensions) for text in texts]
    data = [
        {"object": "embedding", "index": index, "embedding": vector if encoding == "float" else _base64(vector)}
        for index, vector in enumerate(vectors)
    ]
    answer = {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return answer, Usage(prompt_tokens=tokens)


def _base64(vector: list[float]) -> str:
    return b64encode(array("f", vector).tobytes()).decode()


def _inputs(given: Any) -> list[str]:
    """One text, several texts, one list of tokens, or several."""
    if isinstance(given, str):
        given = [given]
    items = as_list(given, "input")
    if items and all(isinstance(item, int) for item in items):
        items = [items]
    if not items or len(items) > MAX_INPUTS:
        raise Refused("400", f"input must hold 1 to {MAX_INPUTS} texts.", param="input")
    texts = [" ".join(map(str, item)) if isinstance(item, list) else as_text(item, "input") for item in items]
    if not all(texts):
        raise Refused("400", "input must not hold an empty text.", param="input")
    return texts


def _dimensions(body: JSON, name: str) -> int:
    dimensions = whole_number({name: pick(body, name)}, name) or EMBEDDING_DIMENSIONS
    if dimensions > MAX_DIMENSIONS:
        raise Refused("400", f"{name} must be at most {MAX_DIMENSIONS}.", param=name)
    return dimensions


def _content_text(request: JSON) -> str:
    parts = as_list(as_object(request.get("content"), "content").get("parts"), "content.parts")
    text = "\n".join(as_text(as_object(part, "content.parts").get("text"), "content.parts.text") for part in parts)
    if not text:
        raise Refused("400", "content is empty.", param="content")
    return text


def _embed_one(request: JSON) -> tuple[JSON, int]:
    config = as_object(pick(request, "embedContentConfig") or request, "embedContentConfig")
    text = _content_text(request)
    return {"values": embed(text, _dimensions(config, "outputDimensionality"))}, text_tokens(text)


def generate_embedding(body: JSON, model: str) -> tuple[JSON, Usage]:
    embedding, tokens = _embed_one(body)
    return {"embedding": embedding}, Usage(prompt_tokens=tokens)


def generate_embeddings(body: JSON, model: str) -> tuple[JSON, Usage]:
    requests = as_list(body.get("requests"), "requests")
    if not 0 < len(requests) <= MAX_INPUTS:
        raise Refused("400", f"requests must hold 1 to {MAX_INPUTS} texts.", param="requests")
    made = [_embed_one(as_object(request, "requests")) for request in requests]
    return {"embeddings": [embedding for embedding, _ in made]}, Usage(prompt_tokens=sum(tokens for _, tokens in made))

"""The sandbox's models, for its model lists and the catalogue."""

from __future__ import annotations

from datetime import date

from llm_credentials.providers.spec import CHAT, EMBEDS, SEES, THINKS, ModelFacts

_SOURCE = "docs/sandbox.md"
_AS_OF = date(2026, 11, 21)


def _model(
    id: str, label: str, capabilities: frozenset[str], context_window: int, max_output_tokens: int | None = 8_192
) -> ModelFacts:
    return ModelFacts(
        id=id,
        label=label,
        capabilities=capabilities,
        context_window=context_window,
        max_output_tokens=max_output_tokens,
        cost="free_tier",
        speed="medium" if id == "sandbox-slow" else "very_fast",
        embedding_dimensions=EMBEDDING_DIMENSIONS if capabilities is EMBEDS else None,
        source=_SOURCE,
        as_of=_AS_OF,
    )


EMBEDDING_DIMENSIONS = 256

MODELS: tuple[ModelFacts, ...] = (
    _model("sandbox-chat", "Sandbox chat", CHAT, 128_000),
    _model("sandbox-fast", "Sandbox fast", CHAT, 32_000),
    _model("sandbox-vision", "Sandbox vision", SEES, 128_000),
    _model("sandbox-reasoner", "Sandbox reasoner", THINKS, 128_000, 32_768),
    _model("sandbox-slow", "Sandbox slow", CHAT, 128_000),
    _model("sandbox-instant", "Sandbox instant", THINKS, 1_000_000, 65_536),
    _model("sandbox-tiny", "Sandbox tiny", CHAT, 1_000, 200),
    _model("sandbox-embed", "Sandbox embeddings", EMBEDS, 8_192, None),
)
BY_ID: dict[str, ModelFacts] = {model.id: model for model in MODELS}

# Milliseconds between two pieces of a stream, for models with a pace of their own.
PACE_MS: dict[str, float] = {"sandbox-instant": 0.0, "sandbox-fast": 2.0, "sandbox-slow": 150.0}
CREATED = 1_790_000_000
"""Unix time of every model in the model lists."""

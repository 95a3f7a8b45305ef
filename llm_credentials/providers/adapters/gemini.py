"""Google Gemini's spec."""

from __future__ import annotations

from datetime import date

from llm_credentials.providers.spec import EMBEDS, SEES, THINKS, Cost, ModelFacts, ProviderSpec, Speed

_MODELS_PAGE = "https://ai.google.dev/gemini-api/docs/models"
_DEPRECATIONS = "https://ai.google.dev/gemini-api/docs/deprecations"
_AS_OF = date(2026, 11, 21)
_WINDOW, _MOST = 1_048_576, 65_536


def _model(id_: str, label: str, cost: Cost, speed: Speed, capabilities: frozenset[str] = THINKS) -> ModelFacts:
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
    id_: str, label: str, window: int, most: int, cost: Cost, speed: Speed, successor: str = "gemini-3.8-flash"
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
        client="llm_credentials.providers.adapters._generate_content.client:GenerateContentClient",
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

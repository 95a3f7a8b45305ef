"""OpenAI's spec."""

from __future__ import annotations

from datetime import date

from llm_credentials.providers.spec import CHAT, EMBEDS, SEES, THINKS, Cost, ModelFacts, ProviderSpec, Speed

_MODELS = "https://developers.openai.com/api/docs/models"
_DEPRECATIONS = "https://developers.openai.com/api/docs/deprecations"
_AS_OF = date(2026, 11, 21)


def _current(id_: str, label: str, cost: Cost, speed: Speed) -> ModelFacts:
    return ModelFacts(
        id=id_,
        label=label,
        capabilities=THINKS,
        context_window=1_050_000,
        max_output_tokens=128_000,
        cost=cost,
        speed=speed,
        fixed_sampling=True,
        source=_MODELS,
        as_of=_AS_OF,
    )


def _leaving(
    id_: str, label: str, window: int, most: int, successor: str, *, cost: Cost = "low", retired: bool = False
) -> ModelFacts:
    """Models that chat without reasoning first, and their successors named by OpenAI."""
    return ModelFacts(
        id=id_,
        label=label,
        capabilities=CHAT if id_.startswith("gpt-3.5") or id_ == "gpt-4" else SEES,
        context_window=window,
        max_output_tokens=most,
        cost=cost,
        speed="fast",
        retired=retired,
        successor=successor,
        source=_DEPRECATIONS,
        as_of=_AS_OF,
    )


def _embeds(id_: str, label: str, dimensions: int, cost: Cost) -> ModelFacts:
    return ModelFacts(
        id=id_,
        label=label,
        capabilities=EMBEDS,
        context_window=8192,
        cost=cost,
        speed="very_fast",
        embedding_dimensions=dimensions,
        source=_MODELS,
        as_of=_AS_OF,
    )


SPECS = (
    ProviderSpec(
        slug="openai",
        label="OpenAI",
        client="llm_credentials.providers.adapters._chat.client:ChatCompletionsClient",
        base_url="https://api.openai.com/v1",
        description="The GPT models, from the makers of ChatGPT.",
        best_for="An all-rounder: tools, images, long documents and embeddings with one key",
        cost="medium",
        speed="fast",
        docs_url=_MODELS,
        key_url="https://platform.openai.com/api-keys",
        key_hint="sk-…",
        key_prefixes=("sk-svcacct-", "sk-proj-", "sk-admin-", "sk-"),
        models=(
            _current("gpt-6.1-terra", "GPT-6.1 Terra", "low", "fast"),
            _current("gpt-6.1-sol", "GPT-6.1 Sol", "medium", "medium"),
            _current("gpt-6-luna", "GPT-6 Luna", "very_low", "very_fast"),
            _current("gpt-6-astra", "GPT-6 Astra", "high", "medium"),
            _leaving("gpt-4o-mini", "GPT-4o mini", 128_000, 16_384, "gpt-6-luna", cost="very_low"),
            _leaving("gpt-4o", "GPT-4o", 128_000, 16_384, "gpt-6-luna", cost="medium"),
            _leaving("gpt-4.1", "GPT-4.1", 1_000_000, 32_768, "gpt-6-luna", cost="medium"),
            _leaving("gpt-4.1-mini", "GPT-4.1 mini", 1_000_000, 32_768, "gpt-6-luna"),
            _leaving("gpt-4-turbo", "GPT-4 Turbo", 128_000, 4_096, "gpt-6.1-sol", cost="high", retired=True),
            _leaving("gpt-4", "GPT-4", 8_192, 8_192, "gpt-6.1-sol", cost="high", retired=True),
            _leaving("gpt-3.5-turbo", "GPT-3.5 Turbo", 16_385, 4_096, "gpt-6.1-terra", retired=True),
            _embeds("text-embedding-3-small", "Text Embedding 3 small", 1536, "very_low"),
            _embeds("text-embedding-3-large", "Text Embedding 3 large", 3072, "low"),
        ),
        default_model="gpt-6.1-terra",
        cheapest_model="gpt-6-luna",
        default_embedding_model="text-embedding-3-small",
        capabilities=THINKS | EMBEDS,
        hue=160,
        env_key_names=("OPENAI_API_KEY",),
        env_prefix="OPENAI",
        price_provider="openai",
        dialect={
            "max_tokens": "max_completion_tokens",
            "fixed_sampling_models": ("o1", "o3", "o4", "gpt-5", "gpt-6"),
            "developer": True,
            "reasoning_taken": (),
            "raw_arguments": True,
            "strict_schema": "chat_strict",
            "loose_schema": "chat_object",
            "embedding_format": "base64",
            "embeds_tokens": True,
            "embedding_models": ("text-embedding", "text-similarity", "text-search"),
            "other_models": (
                "ada",
                "babbage",
                "curie",
                "davinci",
                "chatgpt-image",
                "code-",
                "dall-e",
                "gpt-audio",
                "gpt-image",
                "gpt-live",
                "gpt-realtime",
                "gpt-transcribe",
                "omni-moderation",
                "sora",
                "text-",
                "tts",
                "whisper",
            ),
        },
    ),
)

"""Anthropic's spec."""

from __future__ import annotations

from datetime import date

from llm_credentials.providers.spec import SEES, THINKS, Cost, ModelFacts, ProviderSpec, Speed

_OVERVIEW = "https://platform.claude.com/docs/en/about-claude/models/overview"
_DEPRECATIONS = "https://platform.claude.com/docs/en/about-claude/model-deprecations"
_AS_OF = date(2026, 11, 21)


def _model(
    id_: str, label: str, window: int, most: int, cost: Cost, speed: Speed, *, fixed: bool, successor: str | None = None
) -> ModelFacts:
    """``successor``: for a model whose retirement is announced."""
    return ModelFacts(
        id=id_,
        label=label,
        capabilities=THINKS,
        context_window=window,
        max_output_tokens=most,
        cost=cost,
        speed=speed,
        fixed_sampling=fixed,
        successor=successor,
        source=_OVERVIEW,
        as_of=_AS_OF,
    )


_CURRENT = (
    _model("claude-sonnet-5-5", "Claude Sonnet 5.5", 1_000_000, 128_000, "medium", "fast", fixed=True),
    _model("claude-opus-5-5", "Claude Opus 5.5", 1_000_000, 128_000, "high", "medium", fixed=True),
    _model("claude-haiku-5-5", "Claude Haiku 5.5", 1_000_000, 128_000, "very_low", "very_fast", fixed=True),
    _model("claude-fable-5-2", "Claude Fable 5.2", 1_000_000, 128_000, "high", "medium", fixed=True),
)
_EARLIER = (
    _model("claude-fable-5-1", "Claude Fable 5.1", 1_000_000, 128_000, "high", "medium", fixed=True),
    _model("claude-opus-5", "Claude Opus 5", 1_000_000, 128_000, "high", "medium", fixed=True),
    _model("claude-sonnet-5", "Claude Sonnet 5", 1_000_000, 128_000, "medium", "fast", fixed=True),
    _model("claude-opus-4-8", "Claude Opus 4.8", 1_000_000, 128_000, "high", "medium", fixed=True),
    _model("claude-opus-4-7", "Claude Opus 4.7", 1_000_000, 128_000, "high", "medium", fixed=True),
    _model("claude-opus-4-6", "Claude Opus 4.6", 1_000_000, 128_000, "high", "medium", fixed=False),
    _model("claude-sonnet-4-6", "Claude Sonnet 4.6", 1_000_000, 64_000, "medium", "fast", fixed=False),
    _model("claude-opus-4-5", "Claude Opus 4.5", 200_000, 64_000, "high", "medium", fixed=False),
    _model(
        "claude-sonnet-4-5",
        "Claude Sonnet 4.5",
        200_000,
        64_000,
        "medium",
        "fast",
        fixed=False,
        successor="claude-sonnet-5-5",
    ),
    _model("claude-haiku-4-5", "Claude Haiku 4.5", 200_000, 64_000, "low", "very_fast", fixed=False),
)


def _retired(id_: str, label: str, most: int, successor: str, *, cost: Cost, speed: Speed) -> ModelFacts:
    return ModelFacts(
        id=id_,
        label=label,
        capabilities=SEES,
        context_window=200_000,
        max_output_tokens=most,
        cost=cost,
        speed=speed,
        retired=True,
        successor=successor,
        source=_DEPRECATIONS,
        as_of=_AS_OF,
    )


_SONNET, _HAIKU, _OPUS = "claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5-5"
_RETIRED = (
    _retired("claude-opus-4-1", "Claude Opus 4.1", 32_000, _OPUS, cost="high", speed="medium"),
    _retired("claude-sonnet-4", "Claude Sonnet 4", 64_000, _SONNET, cost="medium", speed="fast"),
    _retired("claude-sonnet-4-0", "Claude Sonnet 4", 64_000, _SONNET, cost="medium", speed="fast"),
    _retired("claude-sonnet-4-20250514", "Claude Sonnet 4", 64_000, _SONNET, cost="medium", speed="fast"),
    _retired("claude-opus-4", "Claude Opus 4", 32_000, _OPUS, cost="high", speed="medium"),
    _retired("claude-opus-4-0", "Claude Opus 4", 32_000, _OPUS, cost="high", speed="medium"),
    _retired("claude-3-7-sonnet", "Claude 3.7 Sonnet", 64_000, _SONNET, cost="medium", speed="fast"),
    _retired("claude-3-5-sonnet", "Claude 3.5 Sonnet", 8_192, _SONNET, cost="medium", speed="fast"),
    _retired("claude-3-5-sonnet-20241022", "Claude 3.5 Sonnet", 8_192, _SONNET, cost="medium", speed="fast"),
    _retired("claude-3-5-haiku", "Claude 3.5 Haiku", 8_192, _HAIKU, cost="low", speed="very_fast"),
    _retired("claude-3-5-haiku-20241022", "Claude 3.5 Haiku", 8_192, _HAIKU, cost="low", speed="very_fast"),
    _retired("claude-3-opus", "Claude 3 Opus", 4_096, _OPUS, cost="high", speed="medium"),
    _retired("claude-3-opus-20240229", "Claude 3 Opus", 4_096, _OPUS, cost="high", speed="medium"),
    _retired("claude-3-haiku", "Claude 3 Haiku", 4_096, _HAIKU, cost="low", speed="very_fast"),
    _retired("claude-3-haiku-20240307", "Claude 3 Haiku", 4_096, _HAIKU, cost="low", speed="very_fast"),
)

SPECS = (
    ProviderSpec(
        slug="anthropic",
        label="Anthropic",
        client="llm_credentials.providers.adapters._messages.client:MessagesClient",
        base_url="https://api.anthropic.com",
        base_url_help="Only for a gateway of your own that speaks the Messages API. Without /v1 at its end.",
        description="The Claude models: careful writing, long documents, code and agents.",
        best_for="Long context, reasoning, code",
        cost="medium",
        speed="fast",
        docs_url="https://platform.claude.com/docs/en/api/overview",
        key_url="https://platform.claude.com/settings/keys",
        key_hint="sk-ant-…",
        key_prefixes=("sk-ant-api03-", "sk-ant-"),
        models=_CURRENT + _EARLIER + _RETIRED,
        default_model="claude-sonnet-5-5",
        cheapest_model="claude-haiku-5-5",
        capabilities=THINKS,
        hue=25,
        env_key_names=("ANTHROPIC_API_KEY",),
        env_prefix="ANTHROPIC",
        price_provider="anthropic",
        dialect={
            "schema_by_tool": frozenset(facts.id for facts in _RETIRED),
            "shown_thinking": frozenset(facts.id for facts in _CURRENT)
            | {"claude-fable-5-1", "claude-opus-5", "claude-sonnet-5"},
            "unforced_tools": frozenset(
                {"claude-sonnet-5-5", "claude-opus-5-5", "claude-fable-5-1", "claude-fable-5-2"}
            ),
        },
    ),
)

"""Describes providers as data, not code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal, TypeAlias

Cost: TypeAlias = Literal["free_tier", "very_low", "low", "medium", "high"]
Speed: TypeAlias = Literal["medium", "fast", "very_fast"]
Capability: TypeAlias = Literal["chat", "stream", "tools", "vision", "json", "reasoning", "embeddings"]

CHAT: frozenset[str] = frozenset({"chat", "stream", "tools", "json"})
SEES: frozenset[str] = CHAT | {"vision"}
THINKS: frozenset[str] = SEES | {"reasoning"}
EMBEDS: frozenset[str] = frozenset({"embeddings"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What the catalogue knows about a model; ``source`` and ``as_of`` say from where and when."""

    id: str
    label: str
    capabilities: frozenset[str] = CHAT
    context_window: int | None = None
    """Tokens."""
    max_output_tokens: int | None = None
    cost: Cost = "medium"
    speed: Speed = "fast"
    retired: bool = False
    successor: str | None = None
    """The same provider's replacement for a retired model."""
    fixed_sampling: bool = False
    """The model rejects ``temperature`` and ``top_p``: they are left out."""
    embedding_dimensions: int | None = None
    source: str = ""
    as_of: date | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OptionField:
    """An additional field of a provider's settings form, such as an API version."""

    name: str
    label: str
    help_text: str = ""
    placeholder: str = ""
    default: str = ""
    required: bool = False
    secret: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderSpec:
    slug: str
    label: str
    client: str
    """``module:Class`` of the LLMClient, imported on first use."""
    base_url: str | None
    """The address if the user gives none; ``None``: each key has its own, or the site sets it (see below)."""
    site_address_setting: str = ""
    """Name of the site's setting with the address; if it is empty, the provider does not exist."""
    base_url_editable: bool = True
    base_url_help: str = ""
    description: str = ""
    best_for: str = ""
    cost: Cost = "medium"
    speed: Speed = "fast"
    free_tier: bool = False
    docs_url: str = ""
    key_url: str = ""
    """The page on which a user creates a key."""
    key_hint: str = ""
    """What a key looks like, such as ``sk-…``."""
    key_prefixes: tuple[str, ...] = ()
    """Prefixes of its keys, longest first, to recognise the provider of a pasted key."""
    key_required: bool = True
    self_hosted: bool = False
    """Usually runs at a private address: reachable only if the egress policy lists it."""
    options: tuple[OptionField, ...] = ()
    models: tuple[ModelFacts, ...] = ()
    default_model: str = ""
    """The balanced current model; empty: the user must name one."""
    cheapest_model: str = ""
    default_embedding_model: str = ""
    capabilities: frozenset[str] = CHAT
    hue: int = 265
    """Colour of its monogram tile, 0 to 359."""
    env_key_names: tuple[str, ...] = ()
    """Environment variables for the system's key; the first one set wins."""
    env_prefix: str = ""
    """Prefix of ``_MODEL`` and ``_BASE_URL`` in the environment."""
    price_provider: str = ""
    """The provider's id in genai-prices; empty: prices unknown."""
    dialect: Mapping[str, Any] = field(default_factory=dict)
    """Deviations from the plain wire format; the format's client documents the names."""

    def model_facts(self, model: str) -> ModelFacts | None:
        """The catalogue's facts about a model; a fine-tune has those of its base model."""
        for facts in self.models:
            if facts.id == model:
                return facts
        base = model.split(":")[1] if model.startswith("ft:") and model.count(":") >= 1 else ""
        return self.model_facts(base) if base else None

    @property
    def key_shapes(self) -> tuple[str, ...]:
        """Possible prefixes of a key, including those shared with other providers."""
        hint = self.key_hint.removesuffix("…")
        return self.key_prefixes or ((hint,) if hint != self.key_hint and " " not in hint else ())

    @property
    def needs_base_url(self) -> bool:
        return self.base_url is None and not self.site_address_setting

    @property
    def monogram(self) -> str:
        words = [word for word in self.label.replace("-", " ").split() if word[:1].isalnum()]
        return (words[0][0] + words[1][0] if len(words) > 1 else self.label[:2]).upper()

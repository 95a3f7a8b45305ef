"""What is known about a provider before it is called: data, not code."""

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
    """What the catalogue knows about one model; ``source`` and ``as_of`` say where from and when."""

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
    """The model to use instead, of the same provider, when this one is retired."""
    fixed_sampling: bool = False
    """The model refuses ``temperature`` and ``top_p``: they are left out."""
    embedding_dimensions: int | None = None
    source: str = ""
    as_of: date | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OptionField:
    """A further field of a provider's settings form, such as an API version."""

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
    """``module:Class`` of the LLMClient, imported at first use only."""
    base_url: str | None
    """The address when the user gives none; ``None``: each key names its own, or the site does (see below)."""
    site_address_setting: str = ""
    """Name of the site's setting that holds the address; without a value there the provider does not exist."""
    base_url_editable: bool = True
    base_url_help: str = ""
    description: str = ""
    best_for: str = ""
    cost: Cost = "medium"
    speed: Speed = "fast"
    free_tier: bool = False
    docs_url: str = ""
    key_url: str = ""
    """The page on which a user makes a key."""
    key_hint: str = ""
    """How a key looks, such as ``sk-…``."""
    key_prefixes: tuple[str, ...] = ()
    """What a key begins with, longest first, to recognise the provider of a pasted key."""
    key_required: bool = True
    self_hosted: bool = False
    """Runs at a private address as a rule: reachable only where the egress policy lists it."""
    options: tuple[OptionField, ...] = ()
    models: tuple[ModelFacts, ...] = ()
    default_model: str = ""
    """The balanced current model; empty: the user must name one."""
    cheapest_model: str = ""
    default_embedding_model: str = ""
    capabilities: frozenset[str] = CHAT
    hue: int = 265
    """0 to 359, of its monogram tile."""
    env_key_names: tuple[str, ...] = ()
    """Environment variables of the system's key, the first one set wins."""
    env_prefix: str = ""
    """Before ``_MODEL`` and ``_BASE_URL`` in the environment."""
    price_provider: str = ""
    """The provider's id in genai-prices; empty: prices unknown."""
    dialect: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the wire's plain form; the wire's client documents the names."""

    def model_facts(self, model: str) -> ModelFacts | None:
        """The catalogue's facts about a model; a fine-tune takes those of its base model."""
        for facts in self.models:
            if facts.id == model:
                return facts
        base = model.split(":")[1] if model.startswith("ft:") and model.count(":") >= 1 else ""
        return self.model_facts(base) if base else None

    @property
    def key_shapes(self) -> tuple[str, ...]:
        """What a key may begin with, even if other providers' begin so, too."""
        hint = self.key_hint.removesuffix("…")
        return self.key_prefixes or ((hint,) if hint != self.key_hint and " " not in hint else ())

    @property
    def needs_base_url(self) -> bool:
        return self.base_url is None and not self.site_address_setting

    @property
    def monogram(self) -> str:
        words = [word for word in self.label.replace("-", " ").split() if word[:1].isalnum()]
        return (words[0][0] + words[1][0] if len(words) > 1 else self.label[:2]).upper()

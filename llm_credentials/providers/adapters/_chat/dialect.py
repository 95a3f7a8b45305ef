"""The differences between providers of the chat-completions wire format, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llm_credentials.providers.spec import ModelFacts, ProviderSpec
from llm_credentials.providers.wire import IdRule

REASONING = ("reasoning_content", "reasoning", "reasoning_details")
"""Fields for reasoning in an assistant message; they are not part of OpenAI's format."""
PLAIN_IDS = IdRule(pattern=re.compile(r"[a-zA-Z0-9_-]{1,40}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """The names that a spec's ``dialect`` may set."""

    max_tokens: str = "max_tokens"
    """The parameter's name."""
    fixed_sampling_models: tuple[str, ...] = ()
    """Id prefixes of models that reject ``temperature`` and ``top_p``, in addition to those whose facts say so. They
    accept their limit only as ``max_completion_tokens``.
    """
    max_temperature: float = 2.0
    seed: str = "seed"
    required_tool: str = "required"
    """The ``tool_choice`` that requires a tool call."""
    stream_usage: bool = True
    """Whether ``stream_options`` is supported; providers without it send usage always, or never."""
    schema: Literal["json_schema", "json_object", "tool"] = "json_schema"
    """How to get an answer with a given schema: the schema itself, JSON and the schema in words, or a required tool."""
    strict_schema: str = "strict"
    """The dialect of JSON Schema (see ``schema.DIALECTS``) for strict mode."""
    strict_models: tuple[str, ...] = ("",)
    """Id prefixes of models with a strict mode."""
    loose_schema: str = "chat"
    """The dialect of JSON Schema outside strict mode."""
    loose_schema_models: tuple[str, ...] = ()
    """Id prefixes of models that accept only ``json_object``, although the provider's others accept ``json_schema``."""
    ids: IdRule = PLAIN_IDS
    results_answered: bool = False
    """Whether an assistant message is required between tool results and the user."""
    named_results: bool = False
    """Whether a tool result has the tool's name."""
    image_urls: bool = True
    """Whether the provider fetches images itself."""
    reasoning_field: str = ""
    """The field in which assistant messages with tool calls must return reasoning; empty: the one in which it came."""
    reasoning_taken: tuple[str, ...] = REASONING
    """The reasoning fields that are accepted in a client's assistant messages; others are rejected."""
    developer: bool = False
    """Whether the ``developer`` role is supported; else it becomes ``system``."""
    several_answers: bool = True
    """Whether ``n`` is supported."""
    drops: tuple[str, ...] = ()
    """Parameters that this provider rejects and that do not affect the answer."""
    raw_arguments: bool = False
    """Whether arguments that are not JSON may be sent back unchanged."""
    embeds_tokens: bool = False
    """Whether texts to embed may be given as tokens."""
    embedding_format: str = "float"
    dimensions: str = "dimensions"
    """The parameter's name; empty: the length of vectors is fixed."""
    other_models: tuple[str, ...] = ()
    """Id prefixes of listed models for speech, images or moderation."""
    embedding_models: tuple[str, ...] = ()
    """Id prefixes of listed embedding models."""

    def samples_fixed(self, model: str, facts: ModelFacts | None) -> bool:
        return bool(facts and facts.fixed_sampling) or _begins(model, self.fixed_sampling_models)

    def takes_schema(self, model: str) -> str:
        return "json_object" if _begins(model, self.loose_schema_models) else self.schema

    def strict_dialect(self, model: str) -> str | None:
        """The dialect of JSON Schema for this model's strict mode; fine-tunes support less than their bases."""
        if not _begins(model, self.strict_models):
            return None
        return "strict" if model.startswith("ft:") else self.strict_schema

    def capabilities(self, model: str, default: frozenset[str]) -> frozenset[str]:
        """Of a listed model that is not in the catalogue."""
        if _begins(model, self.embedding_models):
            return frozenset({"embeddings"})
        return frozenset() if _begins(model, self.other_models) else default - {"embeddings"}


def _begins(model: str, beginnings: tuple[str, ...]) -> bool:
    """Whether the id has one of these prefixes, possibly after ``vendor/``, a fine-tune's ``ft:``, or both."""
    name = model.rpartition("/")[2].removeprefix("ft:")
    return bool(beginnings) and (name.startswith(beginnings) or model.startswith(beginnings))


_known: dict[str, tuple[Mapping[str, Any], Dialect]] = {}


def dialect_of(spec: ProviderSpec) -> Dialect:
    """Raises TypeError for an unknown name."""
    known = _known.get(spec.slug)
    if known is None or known[0] is not spec.dialect:
        known = _known[spec.slug] = (spec.dialect, Dialect(**spec.dialect))
    return known[1]

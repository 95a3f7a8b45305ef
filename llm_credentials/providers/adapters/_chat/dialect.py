"""What differs between those who speak the chat-completions wire, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llm_credentials.providers.spec import ModelFacts, ProviderSpec
from llm_credentials.providers.wire import IdRule

REASONING = ("reasoning_content", "reasoning", "reasoning_details")
"""Where a turn of the assistant says what was thought; no part of the wire as its maker has it."""
PLAIN_IDS = IdRule(pattern=re.compile(r"[a-zA-Z0-9_-]{1,40}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """The names that a row's ``dialect`` may set."""

    max_tokens: str = "max_tokens"
    """The parameter's name."""
    fixed_sampling_models: tuple[str, ...] = ()
    """What ids begin with of models that refuse ``temperature`` and ``top_p``, beside those whose facts say so. They
    take their limit as ``max_completion_tokens`` alone."""
    max_temperature: float = 2.0
    seed: str = "seed"
    required_tool: str = "required"
    """How ``tool_choice`` says that some tool must be called."""
    stream_usage: bool = True
    """Whether ``stream_options`` is known; those who do not know it send the usage anyway, or never."""
    schema: Literal["json_schema", "json_object", "tool"] = "json_schema"
    """The way to an answer in a given shape: its schema, JSON with the schema in words, or a tool to be called."""
    strict_schema: str = "strict"
    """The dialect of JSON Schema (see ``schema.DIALECTS``) that strict mode takes."""
    strict_models: tuple[str, ...] = ("",)
    """What ids begin with of models that have a strict mode."""
    loose_schema: str = "chat"
    """The dialect of JSON Schema outside strict mode."""
    loose_schema_models: tuple[str, ...] = ()
    """What ids begin with of models that take ``json_object`` only, although others there take ``json_schema``."""
    ids: IdRule = PLAIN_IDS
    results_answered: bool = False
    """Whether the assistant has to speak between the results of tools and the user."""
    named_results: bool = False
    """Whether the result of a tool carries the tool's name."""
    image_urls: bool = True
    """Whether the provider fetches images itself."""
    reasoning_field: str = ""
    """The field in which an assistant's turn that called tools carries its reasoning back, compulsory there; empty: it
    goes back in the field in which it came."""
    reasoning_taken: tuple[str, ...] = REASONING
    """The fields for reasoning that a program's turns of the assistant may have; others are refused there."""
    developer: bool = False
    """Whether the role of that name is known; else it is the system's."""
    several_answers: bool = True
    """Whether ``n`` is known."""
    drops: tuple[str, ...] = ()
    """Parameters of the wire that are refused here, and that no answer hangs on."""
    raw_arguments: bool = False
    """Whether arguments that are no JSON may be sent back as they were."""
    embeds_tokens: bool = False
    """Whether texts to embed may come as the tokens that they are for the model."""
    embedding_format: str = "float"
    dimensions: str = "dimensions"
    """The parameter's name; empty: vectors have the length they have."""
    other_models: tuple[str, ...] = ()
    """What ids begin with of listed models that are for speech, images or moderation."""
    embedding_models: tuple[str, ...] = ()
    """What ids begin with of listed models that make embeddings."""

    def samples_fixed(self, model: str, facts: ModelFacts | None) -> bool:
        return bool(facts and facts.fixed_sampling) or _begins(model, self.fixed_sampling_models)

    def takes_schema(self, model: str) -> str:
        return "json_object" if _begins(model, self.loose_schema_models) else self.schema

    def strict_dialect(self, model: str) -> str | None:
        """The dialect of JSON Schema of this model's strict mode; fine-tunes take less of it than their bases."""
        if not _begins(model, self.strict_models):
            return None
        return "strict" if model.startswith("ft:") else self.strict_schema

    def capabilities(self, model: str, default: frozenset[str]) -> frozenset[str]:
        """Of a listed model that the catalogue does not know."""
        if _begins(model, self.embedding_models):
            return frozenset({"embeddings"})
        return frozenset() if _begins(model, self.other_models) else default - {"embeddings"}


def _begins(model: str, beginnings: tuple[str, ...]) -> bool:
    """Whether the id begins so, also behind ``vendor/``, a fine-tune's ``ft:``, or both."""
    name = model.rpartition("/")[2].removeprefix("ft:")
    return bool(beginnings) and (name.startswith(beginnings) or model.startswith(beginnings))


_known: dict[str, tuple[Mapping[str, Any], Dialect]] = {}


def dialect_of(spec: ProviderSpec) -> Dialect:
    """Raises TypeError for a name that the wire does not know."""
    known = _known.get(spec.slug)
    if known is None or known[0] is not spec.dialect:
        known = _known[spec.slug] = (spec.dialect, Dialect(**spec.dialect))
    return known[1]

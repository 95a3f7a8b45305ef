"""What each wire format accepts of JSON Schema, as data for the compiler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

_SHAPE = frozenset({"type", "properties", "required", "items", "enum", "anyOf", "title", "description"})
_BOUNDS = frozenset({"minimum", "maximum"})
_NUMBERS = _BOUNDS | {"exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_LENGTHS = frozenset({"minLength", "maxLength"})
_COUNTS = frozenset({"minItems", "maxItems"})
_SIZES = frozenset({"minProperties", "maxProperties", "uniqueItems"})
_REFERENCES = frozenset({"$ref", "$defs"})

_SCALARS = frozenset({"string", "integer", "number", "boolean"})
_OPENAI_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    keywords: frozenset[str]
    """Keywords allowed in a compiled schema; ``additionalProperties`` only as ``false`` unless it is listed here."""
    formats: frozenset[str] | None = frozenset()
    """Accepted values of ``format``; None: any."""
    enums: frozenset[str] = _SCALARS
    """The types whose values ``enum`` may list."""
    object_root: bool = False
    """Whether the root must be an object without ``anyOf``."""
    untyped: Literal["keep", "spell", "refuse"] = "keep"
    """A schema without ``type`` but with keywords of some type is kept, becomes a union of all types, or is refused."""
    objects: Literal["open", "closed", "close"] = "open"
    """``closed``: every object must list its properties and forbid others. ``close``: the same, and an object that
    lists properties and does not mention others is closed, as the provider's own SDK does.
    """
    all_required: bool = False
    """Whether every property must be required; an optional one becomes nullable, see ``restore``."""
    recursion: Literal["keep", "unroll", "refuse"] = "keep"
    max_depth: int = 48
    max_properties: int = 5000
    max_enum_values: int = 5000
    max_optional: int = 5000
    max_unions: int = 5000


_PLAIN = Rules(
    keywords=_SHAPE | _NUMBERS | _LENGTHS | _COUNTS | _SIZES | _REFERENCES
    | {"pattern", "format", "default", "additionalProperties"},
    formats=None,
)  # fmt: skip


def _object_root(rules: Rules) -> Rules:
    return Rules(**{**{name: getattr(rules, name) for name in Rules.__slots__}, "object_root": True})


_STRICT = Rules(
    keywords=_SHAPE - {"title"},
    object_root=True,
    untyped="refuse",
    objects="closed",
    all_required=True,
    recursion="refuse",
    max_depth=5,
    max_properties=100,
    max_enum_values=500,
)
"""The subset that every strict mode accepts."""

_GEMINI = Rules(
    keywords=_SHAPE | _BOUNDS | _COUNTS | {"format", "prefixItems", "additionalProperties"},
    formats=frozenset({"date-time", "date", "time", "duration", "int32", "int64", "float", "double"}),
    enums=frozenset({"string", "integer", "number"}),
    untyped="spell",
    recursion="unroll",
)

DIALECTS: Mapping[str, Rules] = {
    # For any provider of chat completions. Tools are not strict, because their optional arguments would all be null.
    "chat": _PLAIN,
    "chat_object": _object_root(_PLAIN),
    # https://developers.openai.com/api/docs/guides/structured-outputs, "Supported schemas"
    "chat_strict": Rules(
        keywords=_SHAPE | _NUMBERS | _COUNTS | _REFERENCES | {"pattern", "format"},
        formats=_OPENAI_FORMATS,
        object_root=True,
        untyped="refuse",
        objects="closed",
        all_required=True,
        max_depth=10,
        max_enum_values=1000,
    ),
    # https://learn.microsoft.com/azure/ai-services/openai/how-to/structured-outputs: no bounds, patterns or formats
    "strict": _STRICT,
    # google.genai.types.GenerateContentConfig.response_json_schema lists what is used; the rest is rejected or ignored
    "contents": _GEMINI,
    "contents_object": _object_root(_GEMINI),
    # https://platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations"
    "messages": Rules(
        keywords=_SHAPE | {"format", "minItems"},
        formats=_OPENAI_FORMATS | {"uri"},
        untyped="refuse",
        objects="close",
        recursion="refuse",
        max_optional=24,
        max_unions=16,
    ),
    "messages_object": _object_root(_PLAIN),
}

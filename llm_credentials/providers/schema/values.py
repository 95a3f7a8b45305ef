"""Types and values of JSON, and the keywords that are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

JSON: TypeAlias = dict[str, Any]

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


def kinds_of(schema: JSON) -> tuple[str, ...]:
    """The types that the schema allows; empty: any. ``("none",)``: it accepts nothing."""
    given = schema.get("type")
    names = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    if names == ["none"]:
        return ("none",)
    known = [name for name in dict.fromkeys(str(name).lower() for name in names) if name in _TYPES]
    if len(known) < len(set(map(str, names))):
        return ()  # not a type of JSON: better to accept anything than the wrong thing
    return tuple(name for name in known if not (name == "integer" and "number" in known))


def kind_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def same(first: Any, second: Any) -> bool:
    """Equal as JSON: true is not 1, and 1 is 1.0."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(value, second[name]) for name, value in first.items())
    return bool(first == second)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


_SOUND: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _is_count),
    **dict.fromkeys(("title", "description", "pattern", "format"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("properties", "patternProperties"), lambda value: isinstance(value, dict)),
    **dict.fromkeys(("anyOf", "oneOf", "allOf"), lambda value: isinstance(value, list) and bool(value)),
    **dict.fromkeys(("enum", "prefixItems"), lambda value: isinstance(value, list)),
    "required": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "multipleOf": lambda value: _is_number(value) and value > 0,
    "uniqueItems": lambda value: value is True,
    **dict.fromkeys(("type", "items", "additionalItems", "additionalProperties"), lambda value: value is not None),
    "default": lambda value: value is not None,
}
"""The keywords that are used, each with a check of its value; with an invalid value a keyword is ignored."""


def sound(name: str, value: Any) -> bool:
    return name in _SOUND and _SOUND[name](value)

"""Merges two schemas for the same instance: what cannot be merged is dropped from the second, which accepts more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_credentials.providers.schema.values import JSON, kinds_of, same

_OBJECT = frozenset({"properties", "patternProperties", "additionalProperties", "required"})
_TUPLE = frozenset({"items", "prefixItems", "additionalItems"})


def joined(first: Any, second: Any) -> Any:
    if first is False or second is False:
        return False
    both = {**second, **first}
    for name in first.keys() & second.keys() & _JOINS.keys():
        both[name] = _JOINS[name](first[name], second[name])
    if "type" in first and "type" in second:
        both["type"] = _common_types(kinds_of(first), kinds_of(second))
    if _OBJECT & first.keys() and _OBJECT & second.keys():
        both = {name: value for name, value in both.items() if name not in _OBJECT - {"required"}}
        both |= _joined_objects(first, second)
    if _TUPLE & first.keys() and _TUPLE & second.keys():
        both = {name: value for name, value in both.items() if name not in _TUPLE}
        lists = any("prefixItems" in one or isinstance(one.get("items"), list) for one in (first, second))
        both |= {name: first[name] for name in _TUPLE & first.keys()}
        if not lists:
            both["items"] = both_of(first.get("items", True), second.get("items", True))
    return both


_JOINS: Mapping[str, Callable[[Any, Any], Any]] = {
    "required": lambda first, second: [*dict.fromkeys((*first, *second))],
    "enum": lambda first, second: [one for one in first if any(same(one, other) for other in second)],
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}


def _joined_objects(first: JSON, second: JSON) -> JSON:
    mine, theirs = first.get("properties", {}), second.get("properties", {})
    my_rest, their_rest = rest_of(first), rest_of(second)
    names = [*mine, *(name for name in theirs if name not in mine)]
    properties = {name: both_of(mine.get(name, my_rest), theirs.get(name, their_rest)) for name in names}
    rest = both_of(my_rest, their_rest)
    return {"properties": properties} | ({} if rest is True else {"additionalProperties": rest})


def rest_of(schema: JSON) -> Any:
    """The schema of properties that are not listed by name. With patterns, which are not followed, anything goes."""
    return True if schema.get("patternProperties") else schema.get("additionalProperties", True)


def both_of(first: Any, second: Any) -> Any:
    if first is False or second is False:
        return False
    if first is True or first == second:
        return second
    return first if second is True else {"allOf": [first, second]}


def _common_types(first: tuple[str, ...], second: tuple[str, ...]) -> list[str]:
    if not first or not second:
        return list(first or second)
    wide = {*second, *(["integer"] if "number" in second else [])}
    found = [kind for kind in first if kind in wide]
    if "number" in first and "integer" in second and "integer" not in found:
        found.append("integer")
    return found or ["none"]

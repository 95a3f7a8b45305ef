"""Combines several schemas: unions, and objects wide enough for all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import orjson

from llm_credentials.providers.schema.values import JSON

Node: TypeAlias = "JSON | bool"
"""A compiled schema; False accepts nothing."""

NOTES = ("title", "description", "default")


def any_of(options: Iterable[Node]) -> Node:
    """The union of compiled schemas, flat and without duplicates."""
    flat: list[JSON] = []
    for option in options:
        if not isinstance(option, dict):
            continue
        flat += (one for one in (option["anyOf"] if list(option) == ["anyOf"] else [option]) if one not in flat)
    if any(not set(option) - set(NOTES) for option in flat):
        return {}
    if len(flat) < 2:
        return flat[0] if flat else False
    return {"anyOf": flat}


def object_of(option: JSON) -> JSON | None:
    """The objects among what an option accepts; None if there are none."""
    if option.get("type", "object") != "object":
        return None
    if "enum" in option or "$ref" in option:
        return {"type": "object", "properties": {}}
    names = ("properties", "required", "additionalProperties", "minProperties", "maxProperties", *NOTES)
    return {"type": "object", "properties": {}, **{name: option[name] for name in names if name in option}}


def widened(options: Sequence[JSON]) -> JSON:
    """One object that accepts everything that any of these objects accepts."""
    properties: JSON = {}
    for name in dict.fromkeys(name for option in options for name in option["properties"]):
        properties[name] = any_of(option["properties"].get(name, _others_of(option)) for option in options)
    common = [name for name in properties if all(name in option.get("required", ()) for option in options)]
    closed = all(option.get("additionalProperties") is False for option in options)
    return {
        "type": "object",
        "properties": properties,
        **({"required": common} if common else {}),
        **({"additionalProperties": False} if closed else {}),
    }


def _others_of(option: JSON) -> Node:
    others: Node = option.get("additionalProperties", {})
    return others


def alternatives(options: Sequence[JSON], description: str | None) -> str:
    said = f"One of these: {orjson.dumps(options).decode()[:4000]}"
    return f"{description}\n{said}" if description else said


def nullable(schema: JSON) -> JSON:
    options = schema.get("anyOf", [schema])
    if any(option.get("type") == "null" for option in options):
        return schema
    notes = {name: schema[name] for name in NOTES if name in schema} if "anyOf" in schema else {}
    return {"anyOf": [*options, {"type": "null"}], **notes}

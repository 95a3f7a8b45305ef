"""JSON Schemas and instances of them, for hypothesis."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
from hypothesis import strategies as st

from llm_credentials.providers.schema import DIALECTS

NAMES = st.sampled_from(["a", "b", "c", "de/f", "~g"])
TEXTS = st.sampled_from(["", "x", "two words", "2026-01-02", "ΩΩ"])
NUMBERS = st.one_of(st.integers(-5, 12), st.sampled_from([0.5, 1.0, -2.5, 3.0]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=5,
)
DEFINITIONS = ("leaf", "tree", "pair")


@st.composite
def _objects(draw: Any, inner: Any) -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, inner, max_size=3))
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    schema["required"] = draw(st.lists(st.sampled_from([*properties, "a"]), unique=True, max_size=3))
    if draw(st.booleans()):
        schema["additionalProperties"] = draw(st.one_of(st.booleans(), st.just(False), inner))
    extra = {
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "."]), inner, max_size=1),
        "propertyNames": st.just({"maxLength": 3}),
        "minProperties": st.integers(0, 1),
        "maxProperties": st.integers(2, 4),
        "dependentRequired": st.just({"a": ["b"]}),
    }
    return schema | draw(_some(extra))


@st.composite
def _arrays(draw: Any, inner: Any) -> dict[str, Any]:
    extra = {
        "items": st.one_of(inner, st.booleans()),
        "prefixItems": st.lists(inner, min_size=1, max_size=2),
        "minItems": st.integers(0, 2),
        "maxItems": st.integers(1, 3),
        "uniqueItems": st.just(True),
        "contains": inner,
    }
    return {"type": "array"} | draw(_some(extra))


@st.composite
def _combined(draw: Any, inner: Any) -> dict[str, Any]:
    schema = draw(inner) if draw(st.booleans()) else {}
    schema = {} if isinstance(schema, bool) else dict(schema)
    keyword = draw(st.sampled_from(["anyOf", "oneOf", "allOf", "not", "if"]))
    if keyword == "not":
        return schema | {"not": draw(inner)}
    if keyword == "if":
        return schema | {"if": draw(inner), "then": draw(inner), "else": draw(inner)}
    return schema | {keyword: draw(st.lists(inner, min_size=1, max_size=3))}


@st.composite
def _some(draw: Any, extra: dict[str, Any]) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(extra)), unique=True, max_size=2))
    return {name: draw(extra[name]) for name in names}


_STRINGS = _some(
    {
        "minLength": st.integers(0, 2),
        "maxLength": st.integers(2, 9),
        "pattern": st.sampled_from(["^x", "[0-9]", "(?i)x"]),
        "format": st.sampled_from(["date", "email", "binary"]),
    }
).map(lambda extra: {"type": "string", **extra})
_NUMBER_KEYWORDS = _some(
    {
        "minimum": st.integers(-3, 3),
        "maximum": st.integers(3, 9),
        "exclusiveMinimum": st.sampled_from([-2, 0.5]),
        "exclusiveMaximum": st.sampled_from([4, 5.5]),
        "multipleOf": st.sampled_from([0.5, 2]),
    }
)
_NUMBERS = st.tuples(st.sampled_from(["integer", "number"]), _NUMBER_KEYWORDS).map(lambda p: {"type": p[0], **p[1]})
_LEAVES = st.one_of(
    _STRINGS,
    _NUMBERS,
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}, True, False]),
    st.sampled_from([{"type": ["string", "null"], "minLength": 1}, {"type": ["integer", "number", "array"]}]),
    st.sampled_from([{"properties": {"a": {"type": "string"}}}, {"minLength": 2}, {"minimum": 3, "title": "More"}]),
    VALUES.map(lambda value: {"const": value}),
    st.lists(VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    st.sampled_from(DEFINITIONS).map(lambda name: {"$ref": f"#/$defs/{name}"}),
    st.just({"$ref": "#/$defs/leaf", "description": "A leaf", "minLength": 1}),
)
SCHEMAS = st.recursive(
    _LEAVES, lambda inner: st.one_of(_objects(inner), _objects(inner), _arrays(inner), _combined(inner)), max_leaves=8
)
_TREE = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
    "required": ["a"],
    "additionalProperties": False,
}


@st.composite
def documents(draw: Any, schemas: Any = SCHEMAS) -> dict[str, Any]:
    """A whole schema, with definitions, one of which refers to itself."""
    root = draw(schemas)
    root = {"allOf": [root]} if isinstance(root, bool) else root
    pair = {"anyOf": [{"$ref": "#/$defs/leaf"}, draw(_LEAVES)]}
    notes = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com/it", "title": "It"}
    return {**notes, **root, "$defs": {"leaf": {"type": ["string", "integer"]}, "tree": _TREE, "pair": pair}}


@st.composite
def _closed_objects(draw: Any, inner: Any) -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, inner, min_size=1, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_CLOSED_LEAVES = st.one_of(
    _STRINGS,
    _NUMBERS,
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {"$ref": "#/$defs/leaf"}]),
    st.lists(st.one_of(st.none(), NUMBERS, TEXTS), min_size=1, max_size=4).map(lambda values: {"enum": values}),
)
CLOSED_SCHEMAS = _closed_objects(
    st.recursive(
        _CLOSED_LEAVES,
        lambda inner: st.one_of(
            _closed_objects(inner),
            inner.map(lambda one: {"type": "array", "items": one, "maxItems": 4}),
            st.lists(inner, min_size=2, max_size=3).map(lambda options: {"anyOf": options}),
        ),
        max_leaves=5,
    )
)
"""What strict modes can say: objects that name all that they hold."""


@st.composite
def instances(draw: Any, schema: Any, root: Any, depth: int = 0) -> Any:
    """Something that the schema may well accept."""
    if not isinstance(schema, dict) or depth > 5:
        return draw(VALUES)
    if isinstance(reference := schema.get("$ref"), str):
        return draw(instances(root["$defs"][reference.rpartition("/")[2]], root, depth + 1))
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema and (len(schema) < 4 or draw(st.booleans())):
            return draw(instances(draw(st.sampled_from(schema[keyword])), root, depth + 1))
    kind = schema.get("type")
    kind = draw(st.sampled_from(kind)) if isinstance(kind, list) else kind
    match kind:
        case "object":
            return draw(_object_instances(schema, root, depth))
        case "array":
            items, prefix = schema.get("items", True), schema.get("prefixItems", [])
            size = draw(st.integers(schema.get("minItems", 0), 3))
            return [draw(instances((prefix + [items] * 4)[place], root, depth + 1)) for place in range(size)]
        case "string":
            return draw(TEXTS)
        case "integer" | "number":
            return draw(NUMBERS)
        case "boolean":
            return draw(st.booleans())
        case "null":
            return None
    return draw(VALUES)


@st.composite
def _object_instances(draw: Any, schema: dict[str, Any], root: Any, depth: int) -> dict[str, Any]:
    properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
    required = schema.get("required", ())
    found = {}
    for name in dict.fromkeys([*properties, *required]):
        if name in required or draw(st.booleans()):
            found[name] = draw(instances(properties.get(name, rest), root, depth + 1))
    if rest is not False and draw(st.booleans()):
        found["z"] = draw(instances(rest, root, depth + 1))
    return found


OPEN = sorted(name for name, rules in DIALECTS.items() if rules.objects == "open")
CLOSED = sorted(set(DIALECTS) - set(OPEN))


def accepts(schema: Any, instance: Any) -> bool:
    return jsonschema_rs.validator_for(schema).is_valid(instance)

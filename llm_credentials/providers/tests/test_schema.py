"""Schemas as each wire takes them: property-tested against a real validator, and each construct by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llm_credentials.providers import RequestRejected, UnsupportedContent
from llm_credentials.providers.schema import DIALECTS, compile_schema, restore
from llm_credentials.providers.tests.schemas import CLOSED, CLOSED_SCHEMAS, OPEN, accepts, documents, instances

STRICT = sorted(name for name, rules in DIALECTS.items() if rules.all_required)
LOOSE = settings(max_examples=100, suppress_health_check=list(HealthCheck), deadline=None)


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """A compiled schema and all in it."""
    yield schema
    for name in ("properties", "$defs"):
        for one in schema.get(name, {}).values():
            yield from nodes(one)
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from nodes(schema[name])
    for name in ("anyOf", "prefixItems"):
        for one in schema.get(name, ()):
            yield from nodes(one)


def filled(instance: Any, schema: Any, root: Any) -> Any:
    """The instance as a model in strict mode would write it: null for what is absent."""
    if "$ref" in schema:
        return filled(instance, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    for option in schema.get("anyOf", ()):
        found = filled(instance, option, root)
        if accepts({**option, "$defs": root.get("$defs", {})}, found):
            return found
    if isinstance(instance, dict):
        return {
            name: filled(instance[name], one, root) if name in instance else None
            for name, one in schema.get("properties", {}).items()
        }
    if isinstance(instance, list) and isinstance(schema.get("items"), dict):
        return [filled(value, schema["items"], root) for value in instance]
    return instance


# What holds of every schema


# Schemas take longer to think of than to compile: each is tried in every dialect.


@LOOSE
@given(data=st.data())
def test_compiled_schema_accepts_whatever_the_original_accepts(data: Any) -> None:
    schema = data.draw(documents())
    instance = data.draw(instances(schema, schema))
    accepted = accepts(schema, instance)
    for dialect in OPEN:
        try:
            compiled = compile_schema(schema, dialect)
        except UnsupportedContent:
            # Only what has no instance, or no object where an object is wanted, has no form here.
            assert not (isinstance(instance, dict) and accepted), dialect
            continue
        if accepted and (isinstance(instance, dict) or not DIALECTS[dialect].object_root):
            assert accepts(compiled, instance), dialect


@LOOSE
@given(data=st.data())
def test_closed_schema_comes_back_valid(data: Any) -> None:
    schema = data.draw(documents(CLOSED_SCHEMAS))
    instance = data.draw(instances(schema, schema))
    assume(accepts(schema, instance))
    for dialect in CLOSED:
        try:
            compiled = compile_schema(schema, dialect)
        except UnsupportedContent:
            continue
        written = filled(instance, compiled, compiled) if dialect in STRICT else instance
        assert accepts(compiled, written), dialect
        assert accepts(schema, restore(written, schema)), dialect


@LOOSE
@given(schema=st.one_of(documents(), documents(CLOSED_SCHEMAS)))
def test_compiled_schema_has_only_what_the_wire_takes(schema: dict[str, Any]) -> None:
    for dialect in sorted(DIALECTS):
        try:
            compiled = compile_schema(schema, dialect)
        except UnsupportedContent:
            continue
        only_what_the_wire_takes(compiled, dialect)


def only_what_the_wire_takes(compiled: dict[str, Any], dialect: str) -> None:
    rules = DIALECTS[dialect]
    jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **compiled})
    assert compile_schema(compiled, dialect) == compiled, dialect
    assert not rules.object_root or (compiled["type"] == "object" and "properties" in compiled), dialect
    for node in nodes(compiled):
        others = node.get("additionalProperties")
        assert set(node) - {"additionalProperties"} <= rules.keywords, dialect
        assert others in (None, False) or "additionalProperties" in rules.keywords, dialect
        assert node.get("type") is None or isinstance(node["type"], str), dialect
        assert rules.formats is None or node.get("format", "date") in rules.formats | {"date"}, dialect
        assert "enum" not in node or node["type"] in rules.enums, dialect
        if node.get("type") == "array":
            assert "items" in node, dialect
        if node.get("type") == "object" and rules.objects != "open":
            assert others is False, dialect
        if node.get("type") == "object" and rules.all_required:
            assert set(node["required"]) == set(node["properties"]), dialect
        if rules.untyped == "refuse":
            assert {"type", "anyOf", "$ref"} & set(node), dialect


@LOOSE
@given(data=st.data())
def test_restore_leaves_valid_answers_as_they_are(data: Any) -> None:
    schema = data.draw(documents())
    instance = data.draw(instances(schema, schema))
    assume(accepts(schema, instance))
    assert restore(instance, schema) is instance


# Each construct

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
    "additionalProperties": False,
}


def one(schema: Any, dialect: str = "contents_object") -> Any:
    """The compiled form of a schema inside an object."""
    return compile_schema({"type": "object", "properties": {"it": schema}}, dialect)["properties"]["it"]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "array"}, {"type": "array", "items": {}}),
        ({"type": "array", "items": [{"type": "string"}]}, {"type": "array", "prefixItems": [{"type": "string"}]}),
        ({"const": "x"}, {"type": "string", "enum": ["x"]}),
        ({"const": None}, {"type": "null"}),
        ({"const": True}, {"type": "boolean"}),
        ({"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"enum": [1, "x", 1]}, {"anyOf": [{"type": "integer", "enum": [1]}, {"type": "string", "enum": ["x"]}]}),
        ({"type": "string", "enum": ["x", 7]}, {"type": "string", "enum": ["x"]}),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": "string", "format": "uri"}, {"type": "string", "description": "(format: uri)"}),
        ({"type": "string", "pattern": "^x"}, {"type": "string", "description": "(pattern: ^x)"}),
        ({"type": "integer", "exclusiveMinimum": 0}, {"type": "integer", "minimum": 1}),
        ({"type": "number", "exclusiveMaximum": 1.5}, {"type": "number", "maximum": 1.5}),
        ({"allOf": [{"type": "number"}, {"type": "integer", "minimum": 2}]}, {"type": "integer", "minimum": 2}),
        ({"type": "string", "not": {"const": "x"}, "default": "y", "examples": ["z"]}, {"type": "string"}),
        ({"type": "string", "nullable": True, "x-own": 1, "$comment": "c"}, {"type": "string"}),
        ({"type": "STRING"}, {"type": "string"}),
        ({"type": "any"}, {}),
        (True, {}),
        ({"type": "object", "patternProperties": {"^a": {}}}, {"type": "object", "properties": {}}),
        ({"type": "object", "propertyNames": {"pattern": "^a"}}, {"type": "object", "properties": {}}),
    ],
)
def test_construct_is_rewritten(schema: Any, expected: Any) -> None:
    found = dict(one(schema))
    if "exclusive" in str(schema):
        found.pop("description")
    if "prefixItems" in expected:
        found.pop("items")
    assert found == expected


def test_free_form_map_keeps_the_schema_of_its_values() -> None:
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    assert one(schema)["additionalProperties"] == {"type": "integer"}
    with pytest.raises(UnsupportedContent, match="at /properties/it it takes properties that it does not name"):
        one(schema, "messages")


def test_property_that_may_not_be_is_left_out() -> None:
    found = one({"type": "object", "properties": {"a": False, "b": True}, "required": ["b", "c"]})
    assert found == {"type": "object", "properties": {"b": {}, "c": {}}, "required": ["b", "c"]}


def test_strict_mode_requires_every_property_and_lets_optional_ones_be_null() -> None:
    compiled = compile_schema(PERSON, "chat_strict")
    assert compiled["required"] == ["name", "age"]
    assert compiled["properties"]["age"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert restore({"name": "Ada", "age": None}, PERSON) == {"name": "Ada"}


@pytest.mark.parametrize("dialect", STRICT)
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "string"}}},
        {**PERSON, "properties": {"a": {}}},
        {**PERSON, "properties": {"a": {"type": "array"}}},
        {**PERSON, "patternProperties": {"^x": {}}},
        {"anyOf": [PERSON, {"type": "object", "properties": {}, "additionalProperties": False}]},
        {"type": "array", "items": PERSON},
    ],
)
def test_strict_mode_does_not_take_what_would_become_stricter(dialect: str, schema: Any) -> None:
    with pytest.raises(UnsupportedContent):
        compile_schema(schema, dialect)


def test_union_at_the_root_becomes_one_wider_object() -> None:
    other = {"type": "object", "properties": {"name": {"type": "null"}, "id": {"type": "integer"}}, "required": ["id"]}
    compiled = compile_schema({"oneOf": [PERSON, {**other, "additionalProperties": False}]}, "messages_object")
    assert compiled["properties"] == {
        "name": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "age": {"type": "integer"},
        "id": {"type": "integer"},
    }
    assert "required" not in compiled
    assert compiled["additionalProperties"] is False
    assert compiled["description"].startswith("One of these: [{")


@pytest.mark.parametrize("schema", [{"type": "array"}, {"type": "string"}, {"anyOf": [{"type": "null"}]}])
def test_root_that_is_no_object_is_refused_where_one_is_needed(schema: Any) -> None:
    for dialect, rules in DIALECTS.items():
        if rules.object_root and not rules.all_required:
            with pytest.raises(UnsupportedContent, match="at its root it is no object"):
                compile_schema(schema, dialect)


@pytest.mark.parametrize(
    "schema", [{"not": {}, "enum": []}, {"type": "object", "required": ["a"], "properties": {"a": False}}]
)
def test_schema_that_nothing_fits_is_refused(schema: Any) -> None:
    with pytest.raises(UnsupportedContent, match="accepts nothing"):
        compile_schema(schema, "chat")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": None}},
        {"type": "object", "properties": {"a": "string"}},
        {"type": "array", "items": 5},
        {"anyOf": [7]},
        {"$dynamicRef": "#meta"},
    ],
)
def test_what_is_no_schema_is_named(schema: Any) -> None:
    with pytest.raises(UnsupportedContent, match="This JSON Schema cannot be used"):
        compile_schema(schema, "chat")


def test_keywords_with_senseless_values_are_passed_over() -> None:
    schema = {
        "type": "object",
        "properties": [],
        "required": True,
        "title": 7,
        "minProperties": "1",
        "enum": None,
        "anyOf": [],
        "description": None,
    }
    assert compile_schema(schema, "chat") == {"type": "object", "properties": {}}


def test_sizes_and_depths_are_limited() -> None:
    deep: Any = {"type": "string"}
    for _ in range(200):
        deep = {"type": "array", "items": deep}
    wide = {f"d{n}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(20)}
    bomb = {"$ref": "#/$defs/d0", "$defs": {**wide, "d20": {"type": "string"}}}
    large = {"enum": ["x" * 1000 + str(n) for n in range(600)]}
    for schema, why in ((deep, "nested too deeply"), (bomb, "too large once its references"), (large, "too large")):
        with pytest.raises(UnsupportedContent, match=why):
            compile_schema(schema, "chat")


def test_schema_nested_beyond_all_measure_is_an_error_of_ours() -> None:
    deep: Any = {}
    for _ in range(20_000):
        deep = {"not": deep}
    with pytest.raises(RequestRejected):
        compile_schema(deep, "chat")


def test_strict_mode_has_its_own_limits() -> None:
    many = {f"p{n}": {"type": "string"} for n in range(101)}
    schema = {"type": "object", "properties": many, "additionalProperties": False}
    with pytest.raises(UnsupportedContent, match="more properties than are taken"):
        compile_schema(schema, "strict")
    assert len(compile_schema(schema, "chat_strict")["required"]) == 101


def test_schema_that_was_changed_in_place_is_compiled_anew() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    first = compile_schema(schema, "chat")
    schema["properties"]["a"] = {"type": "string"}
    assert compile_schema(schema, "chat") != first
    assert compile_schema(dict(schema), "chat") is compile_schema(schema, "chat")


def test_compiled_schema_is_the_same_bytes_in_every_process() -> None:
    words = {"type": "string", "minLength": 1, "maxLength": 9, "pattern": "^x", "format": "date"}
    number = {"type": "number", "minimum": 1, "maximum": 9, "multipleOf": 0.5, "exclusiveMinimum": 0}
    schema = {"type": "object", "properties": {"a": words, "b": number}, "minProperties": 1, "maxProperties": 2}
    program = (
        "import json; from llm_credentials.providers.schema import DIALECTS, compile_schema\n"
        f"print(json.dumps([compile_schema({schema}, name) for name in DIALECTS if DIALECTS[name].objects == 'open']))"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[3],
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    ]
    assert len(set(told)) == 1
    assert told[0]


# Answers


@pytest.mark.parametrize(
    ("instance", "expected"),
    [
        ({"name": "Ada", "age": None}, {"name": "Ada"}),
        ({"name": "Ada", "age": 36}, {"name": "Ada", "age": 36}),
        ({"name": None, "age": None}, {"name": None, "age": None}),
        ([None], [None]),
        (None, None),
    ],
)
def test_restore_drops_only_nulls_that_stand_for_nothing(instance: Any, expected: Any) -> None:
    assert restore(instance, PERSON) == expected


def test_restore_looks_through_references_unions_and_lists() -> None:
    schema = {
        "type": "object",
        "properties": {
            "people": {"type": "array", "items": {"$ref": "#/$defs/P"}},
            "boss": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/P"}]},
            "pet": {"oneOf": [{"allOf": [{"$ref": "#/$defs/P"}]}, {"type": "string"}]},
        },
        "required": ["people", "boss"],
        "$defs": {"P": PERSON},
    }
    ada = {"name": "Ada", "age": None}
    found = restore({"people": [ada, ada], "boss": None, "pet": ada}, schema)
    assert found == {"people": [{"name": "Ada"}] * 2, "boss": None, "pet": {"name": "Ada"}}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "https://example.com/never-fetched"}}},
        {"type": "object", "properties": {"a": {"type": "no such type"}}, "required": 5},
        {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}},
        {"properties": {"a": {"type": "string", "pattern": "("}}, "required": ["b"]},
    ],
)
def test_restore_leaves_the_answer_alone_under_a_broken_schema(schema: Any) -> None:
    answer = {"a": None}
    assert restore(answer, schema) in (answer, {})

"""References in JSON Schema, also those that lead back to themselves."""

from __future__ import annotations

import pytest

from llm_credentials.providers import UnsupportedContent
from llm_credentials.providers.schema import DIALECTS, compile_schema
from llm_credentials.providers.tests.schemas import CLOSED, accepts


def test_references_are_put_in_place() -> None:
    definitions = {"$defs": {"Name": {"type": "string", "description": "A name"}}}
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/Name", "description": "Of a cat"}}, **definitions}
    assert compile_schema(schema, "chat_object") == {
        "type": "object",
        "properties": {"a": {"type": "string", "description": "Of a cat"}},
    }


@pytest.mark.parametrize(
    "reference",
    ["#/definitions/n~1ame", "#/definitions/n%2Fame".replace("%2F", "~1"), "#name", "https://example.com/name"],
)
def test_references_by_pointer_anchor_and_id_are_followed(reference: str) -> None:
    named = {"$id": "https://example.com/name", "$anchor": "name", "type": "string"}
    schema = {"type": "object", "properties": {"a": {"$ref": reference}}, "definitions": {"n/ame": named}}
    assert compile_schema(schema, "contents_object")["properties"] == {"a": {"type": "string"}}


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("https://example.com/other.json", "refers to another document"),
        ("other.json#/a", "refers to another document"),
        ("file:///etc/passwd", "refers to another document"),
        ("#/$defs/missing", "refers to something that it does not hold"),
        ("#/properties/a", "refers to itself and says nothing else"),
    ],
)
@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_reference_that_leads_nowhere_is_named(reference: str, why: str, dialect: str) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": reference}}, "additionalProperties": False}
    with pytest.raises(UnsupportedContent, match=f"at /properties/a it {why}"):
        compile_schema(schema, dialect)


TREE = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "value": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            },
            "required": ["value", "children"],
            "additionalProperties": False,
        }
    },
}
DEEP = {"value": "1", "children": [{"value": "2", "children": [{"value": "3", "children": []}] * 2}]}


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_schema_that_refers_to_itself(dialect: str) -> None:
    if DIALECTS[dialect].recursion == "refuse":
        with pytest.raises(UnsupportedContent, match="refers to itself"):
            compile_schema(TREE, dialect)
        return
    compiled = compile_schema(TREE, dialect)
    assert accepts(compiled, DEEP)
    assert not accepts(compiled, {"value": 1, "children": []})
    assert ("$defs" in compiled) is (DIALECTS[dialect].recursion == "keep")


@pytest.mark.parametrize("dialect", sorted(set(DIALECTS) - set(CLOSED)))
def test_root_that_refers_to_itself_beside_more(dialect: str) -> None:
    schema = {
        "type": "object",
        "properties": {"next": {"$ref": "#", "minProperties": 1}, "n": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
    }
    compiled = compile_schema(schema, dialect)
    assert accepts(compiled, {"next": {"next": {"n": None}}, "n": {"next": {"n": {"n": None}}}})


def test_draft_7_ignores_what_stands_beside_a_reference() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"a": {"$ref": "#/definitions/x", "maxLength": 1, "const": "no"}},
        "definitions": {"x": {"type": "string"}},
    }
    assert compile_schema(schema, "chat_object")["properties"] == {"a": {"type": "string"}}

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from llm_credentials.providers.sandbox.arithmetic import find_expression, solve
from llm_credentials.providers.sandbox.instances import Hints, instance
from llm_credentials.providers.sandbox.modifiers import Fault, parse

SCHEMAS: list[dict[str, Any]] = [
    {},
    {"type": "object"},
    {"type": "string", "minLength": 30, "maxLength": 31},
    {"type": "string", "pattern": r"^[A-Z]{3}-\d{4}$"},
    {"type": "string", "pattern": r"^(foo|bar)+[^\s]\w?$", "minLength": 12},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "email", "maxLength": 40},
    {"type": "integer", "minimum": 5, "exclusiveMaximum": 7},
    {"type": "integer", "multipleOf": 7, "minimum": 15},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
    {"type": "number", "maximum": -3},
    {"type": ["null", "boolean"]},
    {"enum": [None, 3, "x"]},
    {"const": {"a": [1]}},
    {"type": "array", "items": {"type": "integer"}, "minItems": 3, "uniqueItems": True},
    {"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 3, "uniqueItems": True},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
    {"type": "array", "maxItems": 0},
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a", "b"], "minProperties": 4},
    {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False},
    {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}]},
    {"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"required": ["b"]}], "type": "object"},
    {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["name", "children"],
            }
        },
    },
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_instance_is_valid_and_always_the_same(schema: dict[str, Any]) -> None:
    made = instance(schema, Hints("Oslo 6 days"))
    Draft202012Validator(schema).validate(made)
    assert made == instance(schema, Hints("Oslo 6 days"))


@given(
    st.recursive(
        st.sampled_from(
            [
                {"type": "string", "minLength": 2},
                {"type": "integer", "minimum": -4, "maximum": 9},
                {"type": "number"},
                {"type": "boolean"},
                {"type": "null"},
                {"enum": ["red", 2, None]},
            ]
        ),
        lambda inner: st.one_of(
            st.fixed_dictionaries({"type": st.just("array"), "items": inner, "minItems": st.integers(0, 3)}),
            st.builds(
                lambda parts: {"type": "object", "properties": parts, "required": sorted(parts)},
                st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
            ),
            st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3)),
        ),
        max_leaves=8,
    ),
    st.text(max_size=30),
)
@settings(max_examples=80, deadline=None)
def test_instance_of_any_schema_is_valid(schema: dict[str, Any], text: str) -> None:
    Draft202012Validator(schema).validate(instance(schema, Hints(text)))


def test_instance_takes_what_the_text_has() -> None:
    schema = {
        "type": "object",
        "properties": {
            "merchant": {"type": "string"},
            "amount": {"type": "number"},
            "kind": {"enum": ["travel", "food", "other"]},
            "day": {"type": "string", "format": "date"},
        },
    }
    made = instance(schema, Hints('Paid 12.5 at "Café Central" on 2026-03-04 for food'))
    assert made == {"merchant": "Café Central", "amount": 12.5, "kind": "food", "day": "2026-03-04"}


@pytest.mark.parametrize(
    "schema", [{"$ref": "#/$defs/none"}, {"$ref": "#"}, {"type": "object", "properties": None}, {"pattern": "("}, "no"]
)
def test_instance_of_a_senseless_schema_is_something(schema: Any) -> None:
    json.dumps(instance(schema))


@pytest.mark.parametrize(
    ("sentence", "result"),
    [
        ("what is 17 * 23", "391"),
        ("(2+3)*4 please", "20"),
        ("-4 + 6", "2"),
        ("7 divided by 2", "3.5"),
        ("10/4 = ?", "2.5"),
        ("1 / 3", "0.333333"),
        ("what is 3\u00d74", "12"),
        ("1/0", None),
        ("9999**9999", None),
        ("((((1 + 2", None),
    ],
)
def test_arithmetic_solves_small_sums(sentence: str, result: str | None) -> None:
    expression = find_expression(sentence)
    assert (solve(expression) if expression else None) == result


@pytest.mark.parametrize("sentence", ["call 555-1234", "on 2024-05-06", "open 24/7", "no sum", "", "on 12/05/2026"])
def test_arithmetic_leaves_dates_and_numbers_alone(sentence: str) -> None:
    assert find_expression(sentence) is None


@pytest.mark.parametrize(
    "text",
    [
        "sandbox-chat~delay=50~fault=429@2,retry-after=1~fault:reset~wait:2",
        "sandbox-chat+delay:50+fault:429@2+retry-after:1+fault:reset+wait:2",
    ],
)
def test_modifiers_are_taken_apart(text: str) -> None:
    named = parse(text)
    assert named.base == "sandbox-chat"
    assert named.settings == {"delay": 50.0, "wait": 2.0}
    assert named.faults == (Fault("429", 2, {"retry-after": "1"}), Fault("reset", None, {}))


@pytest.mark.parametrize(
    "text", ["", "~", "a~~~", "a~fault", "a~fault=", "a~fault=@", "a~x", "a~delay=soon", "a~fault=500@x"]
)
def test_modifiers_that_make_no_sense_are_passed_over(text: str) -> None:
    assert parse(text).base == text.partition("~")[0]
    assert parse(text).settings in ({}, {"delay": 0.0})

"""Generates instances of a JSON schema, deterministically, with values from a text where they fit."""

from __future__ import annotations

import math
import re
from typing import Any

from llm_credentials.providers.sandbox.patterns import matching

MAX_DEPTH = 12
MAX_ITEMS = 1_000
MAX_LENGTH = 100_000
MAX_WHOLE = 2**53
"""Larger integers are written as floats."""
_KINDS: dict[str, tuple[type, ...]] = {
    "properties": (dict,),
    **dict.fromkeys(("required", "enum", "allOf", "anyOf", "oneOf", "prefixItems"), (list,)),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"), (int,)),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), (int, float)),
    **dict.fromkeys(("pattern", "format", "$ref"), (str,)),
}
_FORMATS = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "idn-email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uri-reference": "/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "json-pointer": "",
    "regex": ".*",
}
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w])")
_QUOTED = re.compile(r"[\"“«„]([^\"”»“]{1,400})[\"”»“]|(?<!\w)'([^']{1,400})'(?!\w)")
_URL = re.compile(r"https?://[^\s\"'<>)]+")
_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
_EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]+\b")
_IN_TEXT = {"uri": _URL, "url": _URL, "date": _DATE, "email": _EMAIL}


class Hints:
    """The values that a text offers: its numbers and quoted parts, each used once and in order, and the whole text."""

    def __init__(self, text: str = "", rest: str | None = None) -> None:
        self.text = text
        self.rest = (text if rest is None else rest).strip()
        self.numbers = [float(number) for number in _NUMBER.findall(text)[:50]]
        self.quoted = [first or second for first, second in _QUOTED.findall(text)[:50]]

    def names(self, value: str) -> bool:
        return bool(value) and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", self.text, re.I) is not None


def instance(schema: Any, hints: Hints | None = None) -> Any:
    """An instance of `schema`, or something close to one if no instance exists."""
    return _Maker(schema if isinstance(schema, dict) else {}, hints or Hints()).make(schema, 0, "")


class _Maker:
    def __init__(self, root: dict[str, Any], hints: Hints) -> None:
        self.root = root
        self.hints = hints

    def make(self, schema: Any, depth: int, name: str) -> Any:
        if not isinstance(schema, dict):
            return None
        schema = self.flat(schema)
        if "const" in schema:
            return schema["const"]
        if isinstance(values := schema.get("enum"), list) and values:
            return next((value for value in values if isinstance(value, str) and self.hints.names(value)), values[0])
        match self.kind(schema):
            case "object":
                return self.object(schema, depth)
            case "array":
                return self.array(schema, depth, name)
            case "string":
                return self.string(schema, name)
            case "integer":
                return self.number(schema, whole=True)
            case "number":
                return self.number(schema, whole=False)
            case "boolean":
                return True
            case _:
                return None

    def flat(self, schema: dict[str, Any]) -> dict[str, Any]:
        """`schema` with references followed, allOf merged, and the first usable branch of anyOf or oneOf taken."""
        for _ in range(MAX_DEPTH):
            schema = _cleaned(schema)
            if isinstance(reference := schema.get("$ref"), str):
                schema = {**self.resolve(reference), **{key: schema[key] for key in schema if key != "$ref"}}
            elif joined := [part for part in schema.get("allOf") or () if isinstance(part, dict)]:
                schema = _joined([{key: schema[key] for key in schema if key != "allOf"}, *map(self.flat, joined)])
            elif branches := schema.get("anyOf") or schema.get("oneOf"):
                rest = {key: schema[key] for key in schema if key not in ("anyOf", "oneOf")}
                real = [part for part in branches if isinstance(part, dict) and part.get("type") != "null"]
                schema = _joined([rest, (real or [{"type": "null"}])[0]])
            else:
                break
        return _cleaned(schema)

    def resolve(self, reference: str) -> dict[str, Any]:
        node: Any = self.root
        for step in reference.lstrip("#").strip("/").split("/"):
            if step:
                node = node.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(node, dict) else {}
        return node if isinstance(node, dict) else {}

    def kind(self, schema: dict[str, Any]) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), "null")
        if isinstance(kind, str):
            return kind.lower()  # generateContent has types in upper case
        for key, implied in (("properties", "object"), ("items", "array"), ("pattern", "string"), ("format", "string")):
            if key in schema:
                return implied
        return "number" if "minimum" in schema or "maximum" in schema else "string"

    def object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = [name for name in schema.get("required") or () if isinstance(name, str)]
        wanted = required if depth >= 3 else [*properties, *(name for name in required if name not in properties)]
        if isinstance(most := schema.get("maxProperties"), int):
            wanted = (required + [name for name in wanted if name not in required])[: max(most, len(required))]
        if depth >= MAX_DEPTH:
            return {}
        extra = schema.get("additionalProperties")
        made = {
            name: self.make(properties.get(name, extra if isinstance(extra, dict) else {}), depth + 1, name)
            for name in wanted
        }
        for number in range(min(schema.get("minProperties") or 0, MAX_ITEMS) - len(made)):
            made[f"item_{number + 1}"] = self.make(extra if isinstance(extra, dict) else {}, depth + 1, "")
        return made

    def array(self, schema: dict[str, Any], depth: int, name: str) -> list[Any]:
        first = [self.make(item, depth + 1, name) for item in schema.get("prefixItems") or ()]
        least = min(schema.get("minItems") or 0, MAX_ITEMS)
        most = schema.get("maxItems")
        wanted = max(least, 0 if depth >= 3 else 1)
        if isinstance(most, int):
            wanted = min(wanted, most)
        items = schema.get("items", {})
        if items is False or depth >= MAX_DEPTH:
            return first
        while len(first) < wanted:
            made = self.make(items, depth + 1, name)
            first.append(_apart(made, first, items) if schema.get("uniqueItems") else made)
        return first

    def string(self, schema: dict[str, Any], name: str) -> str:
        if isinstance(pattern := schema.get("pattern"), str):
            return matching(pattern, min(schema.get("minLength") or 0, MAX_LENGTH))
        shape = str(schema.get("format") or ("uri" if name in ("url", "uri", "link") else ""))
        if found := shape in _IN_TEXT and _IN_TEXT[shape].search(self.hints.text):
            return found[0]
        if shape in _FORMATS:
            return _FORMATS[shape]
        text = self.hints.quoted.pop(0) if self.hints.quoted else self.hints.rest or "sandbox"
        least, most = min(schema.get("minLength") or 0, MAX_LENGTH), schema.get("maxLength")
        text = text if len(text) >= least else text.ljust(least, ".")
        return text[:most] if isinstance(most, int) else text[:2_000]

    def number(self, schema: dict[str, Any], *, whole: bool) -> float | int:
        step: float | None = schema.get("multipleOf")
        low, high = _bounds(schema, whole)
        for index, number in enumerate(self.hints.numbers):
            fits = low <= number <= high and (not whole or number.is_integer())
            if fits and (not step or math.isclose(number / step, round(number / step))):
                del self.hints.numbers[index]
                return int(number) if number.is_integer() and abs(number) <= MAX_WHOLE else number
        value = min(max(1.0, low), high)
        if step:
            value = step * (math.ceil(low / step) if math.isfinite(low / step) else math.floor(value / step))
            value = step if low <= step <= high else value
        if abs(value) > MAX_WHOLE:
            return float(value)
        return int(value) if whole or float(value).is_integer() else value


def _cleaned(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` without keywords whose values are invalid."""
    return {key: value for key, value in schema.items() if key not in _KINDS or _fits(key, value)}


def _fits(key: str, value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if key == "multipleOf":
        return isinstance(value, int | float) and value > 0
    return isinstance(value, _KINDS[key])


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if key == "properties" and key in whole:
                whole[key] = {**whole[key], **value}
            elif key == "required" and key in whole:
                whole[key] = [*whole[key], *value]
            else:
                whole[key] = value
    return whole


def _bounds(schema: dict[str, Any], whole: bool) -> tuple[float, float]:
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    gap = 1.0 if whole else 1e-6
    if isinstance(above := schema.get("exclusiveMinimum"), int | float) and not isinstance(above, bool):
        low = max(low, above + (gap if whole else max(gap, abs(above) * 1e-9)))
    if isinstance(below := schema.get("exclusiveMaximum"), int | float) and not isinstance(below, bool):
        high = min(high, below - (gap if whole else max(gap, abs(below) * 1e-9)))
    return (math.ceil(low), math.floor(high)) if whole and math.isfinite(low) and math.isfinite(high) else (low, high)


def _apart(made: Any, others: list[Any], schema: Any) -> Any:
    """`made`, modified until it differs from every other item."""
    values = schema.get("enum") if isinstance(schema, dict) else None
    if isinstance(values, list):
        return next((value for value in values if value not in others), made)
    number = 1
    changed = made
    while changed in others:
        number += 1
        if isinstance(made, str):
            changed = f"{made} {number}"
        elif isinstance(made, bool):
            return not made
        elif isinstance(made, int | float):
            changed = made + number
        elif isinstance(made, dict) and (key := next((k for k in made if isinstance(made[k], str)), None)):
            changed = {**made, key: f"{made[key]} {number}"}
        else:
            return made
    return changed

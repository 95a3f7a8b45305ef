"""Converts answers back to the caller's own schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llm_credentials.providers.schema.references import References
from llm_credentials.providers.schema.values import JSON
from llm_credentials.providers.wire import encode_json


def restore(instance: Any, schema: Mapping[str, Any]) -> Any:
    """The instance without the nulls that stand for absent properties, if that makes it valid; else unchanged."""
    if not _has_null(instance):
        return instance
    found = _Restorer(orjson.loads(encode_json(schema))).restored(instance)
    return instance if found is None else found[0]


def _has_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_null, value.values()))
    if isinstance(value, list):
        return any(map(_has_null, value))
    return value is None


def restore_text(text: str, schema: Mapping[str, Any]) -> str:
    """``restore`` for an answer as text, which is returned unchanged unless something is dropped."""
    if "null" not in text:
        return text
    try:
        instance = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    found = restore(instance, schema)
    return text if found is instance else orjson.dumps(found).decode()


class _Restorer:
    def __init__(self, schema: Any) -> None:
        self.schema = schema
        self.references = References(schema)
        self.validator = _validator(schema)

    def restored(self, instance: Any) -> tuple[Any] | None:
        """The result in a tuple, as it may be null; None if nothing was to be done, or nothing helped."""
        try:
            if self.validator.is_valid(instance):
                return None
            found = self.without(instance, self.schema, ())
            return (found,) if self.validator.is_valid(found) else None
        except Exception:
            # A schema may be malformed in more ways than can be listed; then the answer is left unchanged.
            return None

    def fits(self, instance: Any, schema: Any) -> bool:
        return bool(self.validator.evolve(schema=schema).is_valid(instance))

    def without(self, instance: Any, schema: Any, following: tuple[str, ...]) -> Any:
        if not isinstance(schema, dict) or not isinstance(instance, dict | list):
            return instance
        if isinstance(reference := schema.get("$ref"), str) and reference not in following:
            target = self.references.find(reference)
            instance = self.without(instance, target[0], (*following, reference)) if target else instance
        for part in _list(schema.get("allOf")):
            instance = self.without(instance, part, following)
        for name in ("anyOf", "oneOf"):
            tried = (self.without(instance, branch, following) for branch in _list(schema.get(name)))
            fitting = (
                found for found, branch in zip(tried, _list(schema.get(name)), strict=True) if self.fits(found, branch)
            )
            instance = next(fitting, instance)
        return self.of_object(instance, schema) if isinstance(instance, dict) else self.of_list(instance, schema)

    def of_object(self, instance: JSON, schema: JSON) -> JSON:
        required, properties = _list(schema.get("required")), schema.get("properties")
        named = properties if isinstance(properties, dict) else {}
        found: JSON = {}
        for name, value in instance.items():
            own = named.get(name, schema.get("additionalProperties", True))
            if value is None and name in named and name not in required and not self.fits(None, own):
                continue
            found[name] = self.without(value, own, ())
        return found

    def of_list(self, instance: list[Any], schema: JSON) -> list[Any]:
        items, prefix = schema.get("items"), _list(schema.get("prefixItems"))
        if isinstance(items, list):
            prefix, items = items, schema.get("additionalItems")
        return [
            self.without(value, prefix[place] if place < len(prefix) else items, ())
            for place, value in enumerate(instance)
        ]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _validator(schema: Any) -> Any:
    from jsonschema.validators import Draft202012Validator, validator_for  # type: ignore[import-untyped]
    from referencing import Registry

    # Its own registry: without one, a reference to another document would be fetched from the network.
    return validator_for(schema, Draft202012Validator)(schema, registry=Registry())

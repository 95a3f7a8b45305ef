"""Converts JSON Schema to what each wire format accepts.

``compile_schema`` rewrites a schema of any draft since 6 into a wire format's subset of JSON Schema (rules.py). The
result accepts everything that the original accepts, or more: references are inlined, ``allOf`` is merged, ``oneOf``
becomes ``anyOf``, lists of types become unions, and what cannot be expressed is moved to the description. It never
accepts less, except for objects silent about further properties on a format that only has closed objects. Callers
validate answers against their own schema.

``restore`` undoes the one way in which an answer may differ from the original: nulls for optional properties, where a
format's strict mode requires every property.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from llm_credentials.providers.errors import UnsupportedContent
from llm_credentials.providers.schema.compiler import Compiler
from llm_credentials.providers.schema.restoring import restore, restore_text
from llm_credentials.providers.schema.rules import DIALECTS, Rules
from llm_credentials.providers.wire import encode_json

__all__ = ["DIALECTS", "Rules", "compile_schema", "is_any_object", "restore", "restore_text"]

MAX_SCHEMA_BYTES = 512 * 1024
_KEPT = 512


def compile_schema(schema: Mapping[str, Any], dialect: str) -> dict[str, Any]:
    """The schema in this dialect (a name in ``DIALECTS``). The result is shared: do not modify it.

    Raises UnsupportedContent, naming the place by its JSON pointer, for what the dialect cannot express;
    RequestRejected for what is not JSON.
    """
    found = _compiled(encode_json(schema), dialect)
    if isinstance(found, str):
        raise UnsupportedContent(found)
    return found


def is_any_object(schema: Mapping[str, Any]) -> bool:
    """Whether the schema asks for an object without saying more: the conversation describes its content."""
    about = schema.keys() - {"$schema", "title", "description", "additionalProperties"}
    return about == {"type"} and schema["type"] == "object" and schema.get("additionalProperties") in (None, True, {})


@lru_cache(maxsize=_KEPT)
def _compiled(schema: bytes, dialect: str) -> dict[str, Any] | str:
    """Cached by content, so that a schema modified in place is compiled again. Returns the reason for a failure."""
    if len(schema) > MAX_SCHEMA_BYTES:
        return "This JSON Schema is too large."
    try:
        return Compiler(orjson.loads(schema), DIALECTS[dialect]).root()
    except UnsupportedContent as fault:
        return str(fault)
    except (orjson.JSONDecodeError, RecursionError):
        return "This JSON Schema is nested too deeply."

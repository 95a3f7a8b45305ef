"""JSON Schema as each wire takes it.

``compile_schema`` rewrites a schema of any draft since 6 into the part of JSON Schema that a wire takes (rules.py).
What the result accepts is what the original accepts, or more: references are put in place, ``allOf`` is joined,
``oneOf`` becomes ``anyOf``, lists of types become unions, and what then has no place is dropped and said in the
description. It is never less, but for silent objects on a wire that has closed ones only. Callers validate answers
against their own schema.

``restore`` undoes the one thing by which an answer may differ from the original: nulls in the place of properties that
are optional there, where a wire's strict mode requires every property.
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
    """The schema as this dialect (a name in ``DIALECTS``) takes it. The result is shared: it is not to be changed.

    Raises UnsupportedContent, naming the place by its JSON pointer, for what cannot be said there; RequestRejected for
    what is no JSON.
    """
    found = _compiled(encode_json(schema), dialect)
    if isinstance(found, str):
        raise UnsupportedContent(found)
    return found


def is_any_object(schema: Mapping[str, Any]) -> bool:
    """Whether an object is wanted of which nothing is said: what it has to hold stands in the conversation."""
    about = schema.keys() - {"$schema", "title", "description", "additionalProperties"}
    return about == {"type"} and schema["type"] == "object" and schema.get("additionalProperties") in (None, True, {})


@lru_cache(maxsize=_KEPT)
def _compiled(schema: bytes, dialect: str) -> dict[str, Any] | str:
    """By content, so that a schema that is changed in place is compiled anew. The reason, where it cannot be."""
    if len(schema) > MAX_SCHEMA_BYTES:
        return "This JSON Schema is too large."
    try:
        return Compiler(orjson.loads(schema), DIALECTS[dialect]).root()
    except UnsupportedContent as fault:
        return str(fault)
    except (orjson.JSONDecodeError, RecursionError):
        return "This JSON Schema is nested too deeply."

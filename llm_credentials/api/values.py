"""Values as the document describes them: what a catalogue or a rule says, told before anybody sends it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema

from llm_credentials.models import PersonalAccessToken
from llm_credentials.notices.kinds import ALERTS
from llm_credentials.providers.registry import specs
from llm_credentials.routing import kinds


class OneOf:
    """A text of a list that is whole once the site has started. Only the document says so: services judge."""

    def __init__(self, known: Callable[[], Iterable[str]]) -> None:
        self.known = known

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.known())}


def _slugs() -> list[str]:
    return [spec.slug for spec in specs()]


Provider = Annotated[str, OneOf(_slugs)]
ProviderOrNone = Annotated[str, OneOf(lambda: ["", *_slugs()])]
"""Empty: none is named."""
Task = Annotated[str, OneOf(lambda: [kind.slug for kind in kinds.all()])]
Scope = Annotated[str, OneOf(lambda: PersonalAccessToken.Scope.values)]
AlertKind = Annotated[str, OneOf(lambda: [kind.value for kind in ALERTS])]


def _whole(value: Any) -> Any:
    """To JSON 2.0 is a whole number, too."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


Whole = Annotated[int, BeforeValidator(_whole), Field(strict=True)]
"""A number that was sent as one: neither "5" nor true."""
Flag = Annotated[bool, Field(strict=True)]
_AMOUNT = re.compile(r"[0-9]{1,7}(\.[0-9]{1,2})?")


def _amount(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, str) and not _AMOUNT.fullmatch(value)):
        raise ValueError("Write an amount in US dollars, such as 20 or 12.50")
    return value


Budget = Annotated[
    Decimal,
    BeforeValidator(_amount),
    Field(ge=0, le=10_000_000),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 10_000_000},
                {"type": "string", "pattern": f"^{_AMOUNT.pattern}$"},
            ]
        }
    ),
]
"""US dollars, rounded to cents."""
Address = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^https://([a-z0-9]{1,20}\.){1,4}[a-z]{2,10}(/[A-Za-z0-9._~-]{1,40}){0,4}$",
            "maxLength": 2048,
            "description": "Of a public server; private ones and http only as far as this site's staff allow them.",
        }
    ),
]

"""Values as the document describes them: what a catalogue or a rule says, told before anybody sends it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Annotated, Any, Final

from django.utils import timezone
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import CoreSchema

from llm_credentials.models import PersonalAccessToken
from llm_credentials.notices.kinds import ALERTS
from llm_credentials.preferences import MAX_TOKENS
from llm_credentials.providers.registry import specs
from llm_credentials.routing import kinds
from llm_credentials.token_limits import LINE, NAME_LENGTH

_SIGNS = "A-Za-z0-9!$&'()*+,:;=_~-"
_PUBLIC = rf"^https://([a-z0-9]{{1,20}}\.){{1,4}}[a-z]{{2,10}}(/[{_SIGNS}][.{_SIGNS}]{{0,40}}){{0,4}}/?$"
_PRIVATE_TOO = "Of a public server; private ones and http only as far as this site's staff allow them."


class Described:
    """Words of JSON Schema beside those of the type. Only the document says so: services judge."""

    def __init__(self, **words: Any) -> None:
        self.words = words

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), **self.words}


DAY = "(0[1-9]|1[0-9]|2[0-8])"
YEARS_BACK: Final = 2


class Future:
    """A moment that has not come yet: in one of the next months, or years."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        now = timezone.now()
        months = _months(now.year, range(now.month + 1, 13), range(now.year + 1, now.year + 10))
        time = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](Z|[+-]0[0-9]:[0-5][0-9])"
        return {**handler(schema), "pattern": f"^{months}-{DAY}T{time}$"}


class Past:
    """A day that is over: in one of the last months, or years."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        now = timezone.now()
        months = _months(now.year, range(1, now.month), range(now.year - YEARS_BACK, now.year))
        return {**handler(schema), "format": "date", "pattern": f"^{months}-{DAY}$"}


def _months(year: int, months: Iterable[int], years: Iterable[int]) -> str:
    """A pattern of these months of this year, and of all of those years."""
    own = [f"{year}-{month:02}" for month in months]
    others = "|".join(str(each) for each in years)
    return f"({'|'.join([*own, f'({others})-(0[1-9]|1[0-2])'])})"


class DeclaredOptions:
    """The further fields that the catalogue's providers declare, each a text on one line."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        text = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,40}$"}
        names = sorted({option.name for spec in specs() for option in spec.options if not option.secret})
        return {"type": "object", "properties": dict.fromkeys(names, text), "additionalProperties": False}


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


Whole = Annotated[int, Field(strict=True), BeforeValidator(_whole)]
"""A number that was sent as one: neither "5" nor true."""
Priority = Annotated[int, Field(strict=True, ge=0, le=10_000), BeforeValidator(_whole)]
Version = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1), BeforeValidator(_whole)]
Tokens = Annotated[int, Field(strict=True, ge=1, le=MAX_TOKENS), BeforeValidator(_whole)]
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


def _visible(text: str) -> str:
    if not all("!" <= character <= "~" for character in text.strip()):
        raise ValueError("An address has no spaces, and other characters only as %XX")
    return text


Address = Annotated[str, AfterValidator(_visible), Described(pattern=_PUBLIC, maxLength=2048, description=_PRIVATE_TOO)]
AddressOrNone = Annotated[
    str, AfterValidator(_visible), Described(pattern=f"^$|{_PUBLIC}", maxLength=2048, description=_PRIVATE_TOO)
]
"""Empty: the provider's own."""
Key = Annotated[str, Described(pattern=r"^$|^[A-Za-z0-9][!-~]{7,199}$")]
"""Of a provider, as it gives keys. Empty: none is typed."""
Model = Annotated[str, Described(pattern=r"^([A-Za-z0-9]{1,20}([._:@+~=,/-][A-Za-z0-9]{1,20}){0,8})?$")]
"""Empty: the provider's default."""
Line = Annotated[str, StringConstraints(pattern=LINE, max_length=NAME_LENGTH)]
KEY_NAME = "^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$"
KeyName = Annotated[str, StringConstraints(pattern=KEY_NAME)]
PastDay = Annotated[str, StringConstraints(max_length=200), Past()]
Moment = Annotated[AwareDatetime, Future()]
Options = Annotated[dict[str, str], DeclaredOptions()]

"""Database fields of the agents' rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.db import models

from agents.parts import dump_parts, load_parts
from llm_credentials.providers.messages import Part

if TYPE_CHECKING:
    _Base = models.TextField[Iterable[Part], tuple[Part, ...]]
else:
    _Base = models.TextField


class PartsField(_Base):
    """The parts of one LLMMessage, as a tuple; stored as ASCII JSON text (see agents.parts)."""

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> tuple[Part, ...] | None:
        return None if value is None else load_parts(value)

    def to_python(self, value: Any) -> Any:
        return load_parts(value) if isinstance(value, str) else tuple(value)

    def get_prep_value(self, value: Any) -> Any:
        return value if value is None or isinstance(value, str) else dump_parts(value)

    def value_to_string(self, obj: models.Model) -> str:
        return dump_parts(self.value_from_object(obj))

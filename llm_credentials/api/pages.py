"""Pages of lists: the same two numbers and the same four names everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from ninja import Schema
from pydantic import Field

MAX_PAGE = 10_000


class PageIn(Schema):
    page: int = Field(1, ge=1, le=MAX_PAGE)
    page_size: int = Field(50, ge=1, le=200)


class PageOut(Schema):
    """Beside ``items``."""

    count: int = Field(description="Of all pages.")
    page: int
    page_size: int


def page_of(rows: QuerySet[Any], where: PageIn, out: Callable[[Any], Any]) -> dict[str, Any]:
    begin = (where.page - 1) * where.page_size
    return {
        "items": [out(row) for row in rows[begin : begin + where.page_size]],
        "count": rows.count(),
        "page": where.page,
        "page_size": where.page_size,
    }

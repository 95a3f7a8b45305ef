"""``/api/user/audit-events``: what happened to the caller's own keys and account."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from ninja import Query, Router, Schema
from pydantic import Field

from llm_credentials.api.auth import ApiRequest, only
from llm_credentials.api.errors import REFUSALS
from llm_credentials.api.pages import PageIn, PageOut, page_of
from llm_credentials.audit.history import seen_by
from llm_credentials.models import AuditEvent

router = Router()


class AuditEventOut(Schema):
    id: UUID
    at: datetime
    action: str
    what: str
    about: str = Field(description="The provider, where the event is about a key.")
    by: str = Field(description="`you`, `staff`, `somebody` or `the site`.")
    result: str
    channel: str
    ip: str = Field(description="The network that it came from, not the very address.")


class AuditEventList(PageOut):
    items: list[AuditEventOut]


@router.get("", response={200: AuditEventList, **REFUSALS}, url_name="audit_event_list", auth=only("read"))
def audit_event_list(request: ApiRequest, where: Query[PageIn]) -> dict[str, Any]:
    """Newest first."""
    events = AuditEvent.objects.for_user(request.user).recent_first()
    return page_of(events, where, lambda event: asdict(seen_by(request.user, event)))

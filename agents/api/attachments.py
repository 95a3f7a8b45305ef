"""``/api/attachments``: files for agents."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import Http404, HttpResponse
from django.urls import reverse
from ninja import File, Query, Router, Schema
from ninja.files import UploadedFile
from ninja.responses import Status
from pydantic import Field

from agents import attachments
from agents.api.shared import ACTING, READING, caller
from agents.attachments import Attachment
from agents.views.attachments import download
from llm_credentials import limits
from llm_credentials.api.auth import ApiRequest
from llm_credentials.api.errors import REFUSALS
from llm_credentials.api.pages import PageIn, PageOut, page_of

router = Router()
BYTES: dict[str, Any] = {
    "responses": {200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}
}


class AttachmentOut(Schema):
    id: UUID
    name: str
    media_type: str = Field(description="Found in the content.")
    size_bytes: int
    sha256: str
    created_at: datetime
    content_url: str


class AttachmentList(PageOut):
    items: list[AttachmentOut]


def attachment_out(row: Attachment) -> AttachmentOut:
    plain = {name: getattr(row, name) for name in AttachmentOut.model_fields if name != "content_url"}
    return AttachmentOut(**plain, content_url=reverse("api:attachment_read", kwargs={"attachment_id": row.pk}))


def find_attachment(request: ApiRequest, attachment_id: UUID) -> Attachment:
    """Without its content. Raises Http404."""
    found = Attachment.objects.for_user(caller(request)).without_content().filter(pk=attachment_id).first()
    if found is None:
        raise Http404
    return found


@router.get("", response={200: AttachmentList, **REFUSALS}, url_name="attachment_list", auth=READING)
def attachment_list(request: ApiRequest, where: Query[PageIn]) -> dict[str, Any]:
    """Newest first."""
    rows = Attachment.objects.for_user(caller(request)).without_content().recent_first()
    return page_of(rows, where, attachment_out)


@router.post("", response={201: AttachmentOut, **REFUSALS}, url_name="attachment_create", auth=ACTING)
def attachment_create(request: ApiRequest, file: File[UploadedFile]) -> Any:
    """`multipart/form-data` with the file as `file`. Messages and runs name it by its id; one that none has named is
    removed after a week. The same limits as on the page: size, kind, and no stored key in it.
    """
    limits.admit("upload", request.user)
    return Status(201, attachment_out(attachments.store(caller(request), file)))


@router.get("/{uuid:attachment_id}", response={200: AttachmentOut, **REFUSALS}, url_name="attachment_get", auth=READING)
def attachment_get(request: ApiRequest, attachment_id: UUID) -> AttachmentOut:
    return attachment_out(find_attachment(request, attachment_id))


@router.get(
    "/{uuid:attachment_id}/content",
    response={200: None, **REFUSALS},
    url_name="attachment_read",
    openapi_extra=BYTES,
    auth=READING,
)
def attachment_read(request: ApiRequest, attachment_id: UUID) -> HttpResponse:
    """The bytes as they were sent."""
    return download(caller(request), attachment_id)


@router.delete("/{uuid:attachment_id}", response={204: None, **REFUSALS}, url_name="attachment_delete", auth=ACTING)
def attachment_delete(request: ApiRequest, attachment_id: UUID) -> HttpResponse:
    """A message that it went along with says from then on that it is gone."""
    attachments.remove(caller(request), find_attachment(request, attachment_id).pk)
    return HttpResponse(status=204)

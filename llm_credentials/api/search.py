"""``/api/user/search-credentials``: the services that search the web for the caller's agents."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from asgiref.sync import async_to_sync
from django.http import Http404, HttpResponse
from ninja import Router, Schema
from ninja.responses import Status
from pydantic import Field

from llm_credentials import limits
from llm_credentials.api.auth import ApiRequest, require_proof, require_scope
from llm_credentials.api.body import StrictSchema
from llm_credentials.api.errors import EDITED, REFUSALS
from llm_credentials.api.values import Flag, KeyName, Whole
from llm_credentials.models import SearchCredential
from llm_credentials.search_keys import (
    TEST_RATE,
    SearchDraft,
    changes_search_key,
    search_key_delete,
    search_key_save,
    search_key_test,
    stored_key,
)

router = Router()


class SearchCredentialIn(StrictSchema):
    provider: str = Field(description="The service: `searxng`, `brave` or `tavily`.")
    api_key: str | None = Field(None, description="Left out or empty: the stored key stays.")
    base_url: str | None = Field(None, description="Empty: the service's own address.")
    is_active: Flag | None = None
    version: Whole | None = Field(None, description="Change it only if it is still this version; else 409.")


class SearchCredentialOut(Schema):
    provider: str
    last4: str
    base_url: str
    is_active: bool
    status: str
    status_detail: str
    tested_at: datetime | None
    last_used_at: datetime | None
    request_count: int
    version: int


class SearchCredentialList(Schema):
    items: list[SearchCredentialOut]
    count: int


def search_credential_out(row: SearchCredential) -> dict[str, Any]:
    names = [name for name in SearchCredentialOut.model_fields if not name.startswith("status")]
    shown = {"status": row.shown_status, "status_detail": row.shown_detail}
    return {name: getattr(row, name) for name in names} | shown


def _owned(request: ApiRequest, provider: str) -> SearchCredential:
    row = stored_key(request.user, provider)
    if row is None:
        raise Http404
    return row


@router.get("", response={200: SearchCredentialList, **REFUSALS}, url_name="search_credential_list")
def search_credential_list(request: ApiRequest) -> dict[str, Any]:
    require_scope(request, "read")
    items = [search_credential_out(row) for row in SearchCredential.objects.for_user(request.user).in_order()]
    return {"items": items, "count": len(items)}


@router.post(
    "",
    response={200: SearchCredentialOut, 201: SearchCredentialOut, **REFUSALS, **EDITED},
    url_name="search_credential_save",
)
def search_credential_save(request: ApiRequest, payload: SearchCredentialIn) -> Any:
    """Add a service, or change a stored one. It is tested by itself: `POST …/{service}/test`."""
    require_scope(request, "credentials")
    draft = SearchDraft(api_key=payload.api_key, base_url=payload.base_url, is_active=payload.is_active)
    if changes_search_key(user=request.user, provider=payload.provider, draft=draft):
        require_proof(request)
    row, created, _ = search_key_save(
        user=request.user, provider=payload.provider, draft=draft, version=payload.version
    )
    return Status(201 if created else 200, search_credential_out(row))


@router.get("/{service}", response={200: SearchCredentialOut, **REFUSALS}, url_name="search_credential_get")
def search_credential_get(request: ApiRequest, service: KeyName) -> dict[str, Any]:
    require_scope(request, "read")
    return search_credential_out(_owned(request, service))


@router.delete("/{service}", response={204: None, **REFUSALS}, url_name="search_credential_delete")
def search_credential_delete(request: ApiRequest, service: KeyName) -> Any:
    """Remove it. Its sealed text is gone at once."""
    require_scope(request, "credentials")
    _owned(request, service)
    require_proof(request)
    search_key_delete(user=request.user, provider=service)
    return HttpResponse(status=204)


@router.post("/{service}/test", response={200: SearchCredentialOut, **REFUSALS}, url_name="search_credential_test")
def search_credential_test(request: ApiRequest, service: KeyName) -> dict[str, Any]:
    """Search once with it; `status` and `status_detail` say what came of it. It takes 15 seconds at most."""
    require_scope(request, "credentials")
    row = _owned(request, service)
    limits.use("search-test", str(request.user.pk), TEST_RATE)
    try:
        return search_credential_out(async_to_sync(search_key_test)(row))
    except SearchCredential.DoesNotExist:
        raise Http404 from None

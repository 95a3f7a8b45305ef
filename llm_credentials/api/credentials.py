"""``/api/user/llm-credentials``: the caller's own keys. A key goes in and never comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.http import Http404, HttpResponse
from ninja import Body, Query, Router
from ninja.responses import Status

from llm_credentials import connection_tests, removal, replacement, services, waiting
from llm_credentials.api.auth import ApiRequest, only, require_proof, token_id_of
from llm_credentials.api.errors import EDITED, QUEUED, REFUSALS, ApiError, ErrorOut
from llm_credentials.api.idempotency import IdempotencyKey, once
from llm_credentials.api.preconditions import IfMatch, held, matched_version, tell_etag
from llm_credentials.api.schemas import (
    CredentialChange,
    CredentialFields,
    CredentialIn,
    CredentialList,
    CredentialOut,
    CredentialSaved,
    TestOut,
    connection_test_out,
    credential_out,
)
from llm_credentials.api.values import KeyName, Provider
from llm_credentials.connection_tests import QueueUnavailable, TestBusy
from llm_credentials.limits import LimitReached
from llm_credentials.models import ConnectionTest, LLMSettings, UserCredential
from llm_credentials.services import Draft, VersionConflict
from llm_credentials.tasks import enqueue_connection_test
from llm_credentials.validation import KEY_NEEDED

router = Router()

Undo = Annotated[bool, Query(description="For ten seconds it can be brought back: see `removed-credentials`.")]
WaitS = Annotated[
    float, Query(ge=0, le=10, description="Seconds to wait for its end; 503 if no worker has taken it by then.")
]

NOTHING = CredentialFields.model_construct()
"""Of a request without a body."""


def _stored(request: ApiRequest, provider: str, name: str) -> UserCredential | None:
    if "\0" in provider + name:
        return None
    return UserCredential.objects.for_user(request.user).filter(provider=provider, name=name).first()


def _owned(request: ApiRequest, provider: str, name: str) -> UserCredential:
    credential = _stored(request, provider, name)
    if credential is None:
        raise Http404
    return credential


def default_of(request: ApiRequest) -> UserCredential | None:
    return _first_asked(request, UserCredential.objects.for_user(request.user).in_order())


def _first_asked(request: ApiRequest, in_order: Iterable[UserCredential]) -> UserCredential | None:
    """The key of the provider that the caller chose, else the first of their chain."""
    active = [key for key in in_order if key.is_active]
    chosen = LLMSettings.of(request.user).default_provider
    return next((key for key in active if key.provider == chosen), active[0] if active else None)


@router.get("", response={200: CredentialList, **REFUSALS}, url_name="credential_list", auth=only("read"))
def credential_list(request: ApiRequest) -> dict[str, Any]:
    removal.destroy_due(request.user)
    rows = list(UserCredential.objects.for_user(request.user).in_order())
    default = _first_asked(request, rows)
    return {"items": [credential_out(row, default) for row in rows], "count": len(rows)}


@router.post(
    "",
    response={200: CredentialSaved, 201: CredentialSaved, **REFUSALS, **EDITED},
    url_name="credential_save",
    auth=only("credentials"),
)
def credential_save(
    request: ApiRequest, payload: CredentialIn, response: HttpResponse, if_match: IfMatch = None
) -> Any:
    """Add a key, or change what is said of a stored one. A new key is tested at once.

    With the header `If-Match` only if a stored one is still the one of its `ETag`.
    """
    version = matched_version(if_match, _stored(request, payload.provider, payload.name))
    draft = Draft(**payload.dict(include=set(CredentialFields.model_fields)))
    with _key_was_due():
        changes_key = services.changes_key(user=request.user, provider=payload.provider, name=payload.name, draft=draft)
    if changes_key:
        require_proof(request)
    with held(if_match), _key_was_due():
        saved = services.credential_save(user=request.user, version=version, **payload.dict())
    tell_etag(response, saved.credential)
    test = start_test(request, saved.credential) if saved.key_changed else None
    body = credential_out(saved.credential, default_of(request)) | {"test": test}
    return Status(201 if saved.created else 200, body)


@contextmanager
def _key_was_due() -> Iterator[None]:
    """What is new comes with its key, as the document says."""
    try:
        yield
    except ValidationError as error:
        errors = error.error_dict.get("api_key", ()) if hasattr(error, "error_dict") else ()
        if any(each.code == KEY_NEEDED for each in errors):
            raise ApiError(422, "invalid_value", error.message_dict["api_key"][0], "body.api_key") from None
        raise


def start_test(request: ApiRequest, credential: UserCredential) -> dict[str, Any] | None:
    """The test of a key that was just saved; its key is saved whether or not a test can start now."""
    try:
        test = connection_tests.test_start(
            user=request.user, provider=credential.provider, name=credential.name, token_id=token_id_of(request)
        )
        enqueue_connection_test(test)
    except (LimitReached, TestBusy, QueueUnavailable):
        return None
    return connection_test_out(test)


@router.get(
    "/tests/{uuid:test_id}", response={200: TestOut, **REFUSALS}, url_name="connection_test_get", auth=only("read")
)
def connection_test_get(request: ApiRequest, test_id: UUID) -> dict[str, Any]:
    test = ConnectionTest.objects.for_user(request.user).filter(pk=test_id).first()
    if test is None:
        raise Http404
    if not test.is_finished and connection_tests.expire_abandoned(test_id=test_id):
        test.refresh_from_db()
    return connection_test_out(test)


@router.post(
    "/tests/{uuid:test_id}/save",
    response={200: CredentialOut, **REFUSALS, 409: ErrorOut},
    url_name="replacement_save",
    auth=only("credentials"),
)
def replacement_save(request: ApiRequest, test_id: UUID) -> dict[str, Any]:
    """Use a new key that did not pass its test, or was overtaken by another change, all the same."""
    if not ConnectionTest.objects.for_user(request.user).filter(pk=test_id).exists():
        raise Http404
    require_proof(request)
    saved = replacement.replacement_save(user=request.user, test_id=test_id)
    return credential_out(saved, default_of(request))


@router.post(
    "/{provider}/test",
    response={200: TestOut, 202: TestOut, **REFUSALS, **QUEUED, **EDITED},
    url_name="connection_test_start",
    auth=only("credentials"),
)
def connection_test_start(
    request: ApiRequest,
    provider: Provider,
    response: HttpResponse,
    payload: Annotated[CredentialFields, Body()] = NOTHING,
    name: KeyName = "default",
    wait: WaitS = 0.0,
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
) -> Any:
    """Test the stored key (no body), or fields that are not saved. The answer comes at ``status_url``; with ``wait``
    it is the answer to this, 200, if the test ends in time. With the header `If-Match` only if the stored key is still
    the one of its `ETag`.
    """

    def start() -> tuple[int, TestOut]:
        matched_version(if_match, _stored(request, provider, name))
        unsaved = Draft(**payload.dict()) if payload.dict(exclude_none=True) else None
        test = connection_tests.test_start(
            user=request.user, provider=provider, name=name, unsaved=unsaved, token_id=token_id_of(request)
        )
        enqueue_connection_test(test)
        if wait:
            waiting.wait_finished(test, wait)
        return 200 if test.is_finished else 202, TestOut(**connection_test_out(test))

    return once(request, idempotency_key, response, start)


@router.get("/{provider}", response={200: CredentialOut, **REFUSALS}, url_name="credential_get", auth=only("read"))
def credential_get(
    request: ApiRequest, provider: str, response: HttpResponse, name: KeyName = "default"
) -> dict[str, Any]:
    """With an `ETag`, which a later change may send as `If-Match`."""
    credential = _owned(request, provider, name)
    tell_etag(response, credential)
    return credential_out(credential, default_of(request))


@router.patch(
    "/{provider}",
    response={200: CredentialSaved, 202: TestOut, **REFUSALS, **QUEUED, **EDITED},
    url_name="credential_change",
    auth=only("credentials"),
)
def credential_change(
    request: ApiRequest,
    provider: str,
    payload: CredentialChange,
    response: HttpResponse,
    name: KeyName = "default",
    if_match: IfMatch = None,
) -> Any:
    """Change what is said of a stored key, or replace the key: at once, or with `test_first` only if it works.

    With the header `If-Match` only if it is still the one of its `ETag`; else 412, and nothing is changed.
    """
    matched = matched_version(if_match, _owned(request, provider, name))
    if matched is not None and payload.version not in (None, matched):
        raise VersionConflict
    version = payload.version if matched is None else matched
    draft = Draft(**payload.dict(include=set(CredentialFields.model_fields)))
    if services.changes_key(user=request.user, provider=provider, name=name, draft=draft):
        require_proof(request)
    with held(if_match):
        if payload.test_first:
            return _replace_if_it_works(request, provider, name, payload, version)
        changes = payload.dict(exclude={"test_first", "version"})
        saved = services.credential_save(user=request.user, provider=provider, name=name, version=version, **changes)
    tell_etag(response, saved.credential)
    started = start_test(request, saved.credential) if saved.key_changed else None
    return Status(200, credential_out(saved.credential, default_of(request)) | {"test": started})


def _replace_if_it_works(
    request: ApiRequest, provider: str, name: str, payload: CredentialChange, version: int | None
) -> Any:
    if payload.is_active is not None or payload.priority is not None:
        raise ApiError(409, "not_together", "Change these by themselves, without test_first.", "body.test_first")
    unsaved = Draft(**payload.dict(include=set(CredentialFields.model_fields)))
    test = replacement.replacement_start(
        user=request.user,
        provider=provider,
        name=name,
        unsaved=unsaved,
        version=version,
        token_id=token_id_of(request),
    )
    enqueue_connection_test(test)
    return Status(202, connection_test_out(test))


@router.delete(
    "/{provider}",
    response={204: None, **REFUSALS, 412: ErrorOut},
    url_name="credential_delete",
    auth=only("credentials"),
)
def credential_delete(
    request: ApiRequest, provider: str, name: KeyName = "default", undo: Undo = False, if_match: IfMatch = None
) -> Any:
    """Remove the key. Its sealed text is gone at once, or with `undo` ten seconds later.

    With the header `If-Match` only if it is still the one of its `ETag`.
    """
    version = matched_version(if_match, _owned(request, provider, name))
    require_proof(request)
    remove = removal.remove if undo else services.credential_delete
    with held(if_match):
        remove(user=request.user, provider=provider, name=name, version=version)
    return HttpResponse(status=204)

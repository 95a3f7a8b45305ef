"""Writes search-service keys. No other code opens them.

Requests to a service go through the guarded fetch under the tools egress policy: a key is sent only to the address for
which it was saved, and private addresses are reached only where staff allow them for what agents read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from llm_credentials import canary, conf, egress, keyring
from llm_credentials.audit import Action, note
from llm_credentials.audit.opening import announce_opening
from llm_credentials.live.changes import user_changed
from llm_credentials.models import SearchCredential
from llm_credentials.notices import Kind, notify
from llm_credentials.notices.keys import key_facts
from llm_credentials.providers import CredentialUnreadable, EgressBlocked, transport
from llm_credentials.providers.egress import EgressPolicy
from llm_credentials.providers.search import SEARCH_SPECS, SearchFailed, SearchSpec, WebSearch, site_search
from llm_credentials.services import NO_RING, VersionConflict, credential_target
from llm_credentials.validation import REENTER, clean_api_key, clean_flag, collect
from llm_credentials.wall import acting_for

NAME: Final = "default"
TEST_QUERY: Final = "weather"
TEST_RATE: Final = "10/m"
_KEY_COLUMNS: Final = ("api_key", "last4", "fingerprint", "status", "status_detail", "tested_at")
Status = SearchCredential.Status


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchDraft:
    """Unsaved fields as the user typed them; None: as stored."""

    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    is_active: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Checked:
    api_key: str | None = field(repr=False)
    base_url: str
    is_active: bool


def clean_service(slug: object) -> SearchSpec:
    """Raises ValidationError on ``provider``."""
    spec = SEARCH_SPECS.get(slug) if isinstance(slug, str) else None
    if spec is None:
        raise ValidationError({"provider": [_("There is no such search service. Choose one from the list.")]})
    return spec


def stored_key(user: AbstractBaseUser, provider: str) -> SearchCredential | None:
    if "\0" in provider:
        return None
    return SearchCredential.objects.for_user(user).filter(provider=provider, name=NAME).first()


def changes_search_key(*, user: AbstractBaseUser, provider: str, draft: SearchDraft) -> bool:
    """Whether saving this adds or replaces a key or changes its address, which requires step-up authentication.

    Raises ValidationError.
    """
    spec, stored = clean_service(provider), stored_key(user, provider)
    checked = _check(spec, stored, draft)
    return stored is None or checked.api_key is not None or checked.base_url != stored.base_url


@sensitive_variables()
def search_key_save(
    *, user: AbstractBaseUser, provider: str, draft: SearchDraft, version: int | None = None
) -> tuple[SearchCredential, bool, bool]:
    """(row, created, key or address changed). Raises ValidationError, and VersionConflict if ``version`` differs."""
    spec = clean_service(provider)
    for _attempt in range(3):
        try:
            with transaction.atomic():
                return _save_once(user, spec, draft, version)
        except IntegrityError:
            continue  # a concurrent first save won; retry as a change
    raise ValidationError({"provider": [_("This was just changed somewhere else. Reload and try again.")]})


@sensitive_variables()
def _save_once(
    user: AbstractBaseUser, spec: SearchSpec, draft: SearchDraft, version: int | None
) -> tuple[SearchCredential, bool, bool]:
    rows = SearchCredential.objects.for_user(user).filter(provider=spec.slug, name=NAME)
    stored = rows.select_for_update().first()
    if version is not None and (stored is None or stored.version != version):
        raise VersionConflict
    checked = _check(spec, stored, draft)
    row = stored or SearchCredential(user_id=user.pk, provider=spec.slug, name=NAME)
    changes: dict[str, Any] = {}
    for name, value in (("base_url", checked.base_url), ("is_active", checked.is_active)):
        if getattr(row, name) != value:
            changes[name] = value
            setattr(row, name, value)
    if checked.api_key is not None:
        changes |= _replaced_key(row, checked.api_key)
    elif "base_url" in changes:
        row.status, row.status_detail, row.tested_at = Status.UNVERIFIED, "", None
        changes |= {"status": row.status, "status_detail": "", "tested_at": None}
    if stored is None:
        row.save(force_insert=True)
    elif changes:
        SearchCredential.objects.filter(pk=row.pk).update(
            **changes, version=F("version") + 1, updated_at=timezone.now()
        )
        row.refresh_from_db()
    if stored is None or changes:
        _tell(row, created=stored is None, key=checked.api_key is not None, changed=changes)
        user_changed(user.pk, noted=True)
    return row, stored is None, stored is None or checked.api_key is not None or "base_url" in changes


@sensitive_variables()
def _check(spec: SearchSpec, stored: SearchCredential | None, draft: SearchDraft) -> _Checked:
    errors: dict[str, list[str]] = {}
    has_key = stored is not None and stored.has_key
    api_key = collect(errors, lambda: clean_api_key(draft.api_key, stored=has_key))
    base_url = collect(errors, lambda: _address(spec, draft.base_url, stored)) or ""
    is_active = stored.is_active if stored is not None else True
    if draft.is_active is not None:
        is_active = bool(collect(errors, lambda: clean_flag(draft.is_active, "is_active")))
    if "base_url" not in errors and not base_url and not spec.default_url:
        errors["base_url"] = [_("Enter the address of your %(service)s instance.") % {"service": spec.label}]
    if api_key is None and not errors:
        if has_key and stored is not None and base_url != stored.base_url:
            errors["api_key"] = [REENTER]
        elif not has_key and spec.key_required:
            errors["api_key"] = [_("Enter your %(service)s key.") % {"service": spec.label}]
    if errors:
        raise ValidationError(errors)
    return _Checked(api_key=api_key, base_url=base_url, is_active=is_active)


def _address(spec: SearchSpec, typed: str | None, stored: SearchCredential | None) -> str:
    if typed is None:
        return stored.base_url if stored is not None else ""
    if not isinstance(typed, str) or not typed.strip():
        return ""
    fault = ""
    try:
        address = transport.check_url(typed.strip().rstrip("/").removesuffix("/search"), egress.policy("tools"))
    except EgressBlocked as blocked:
        fault = str(blocked)
    if fault:
        raise ValidationError({"base_url": [fault]})
    return "" if address == spec.default_url else address


@sensitive_variables()
def _replaced_key(row: SearchCredential, api_key: str) -> dict[str, Any]:
    try:
        canary.plant()
        row.seal(api_key)
    except keyring.KeyringError:
        raise ValidationError({"api_key": [NO_RING]}) from None
    row.status, row.status_detail, row.tested_at = Status.UNVERIFIED, "", None
    return {name: getattr(row, name) for name in _KEY_COLUMNS}


def _tell(row: SearchCredential, *, created: bool, key: bool, changed: Mapping[str, Any]) -> None:
    address = row.base_url if created or "base_url" in changed else ""
    if created:
        _note(row, Action.CREDENTIAL_CREATE)
        notify(row.user_id, Kind.KEY_ADDED, **key_facts(row), address=address)
    elif key:
        _note(row, Action.CREDENTIAL_REPLACE)
        notify(row.user_id, Kind.KEY_REPLACED, **key_facts(row), address=address)
    elif "base_url" in changed:
        _note(row, Action.CREDENTIAL_CHANGE)
        notify(row.user_id, Kind.ADDRESS_CHANGED, **key_facts(row), address=address or "the service's own address")
    if not created and "is_active" in changed:
        _note(row, Action.CREDENTIAL_TOGGLE, "on" if row.is_active else "off")


def _note(row: SearchCredential, action: Action, result: str = "ok") -> None:
    note(action=action, subject=row.owner_ref(), target=credential_target(row), result=result)


def search_key_delete(*, user: AbstractBaseUser, provider: str, version: int | None = None) -> None:
    """Destroy it at once. Raises SearchCredential.DoesNotExist, VersionConflict."""
    with transaction.atomic():
        row = stored_key(user, provider)
        if row is None:
            raise SearchCredential.DoesNotExist
        if version is not None and row.version != version:
            raise VersionConflict
        _note(row, Action.CREDENTIAL_DELETE)
        notify(row.user_id, Kind.KEY_REMOVED, **key_facts(row))
        row.delete()
        user_changed(user.pk, noted=True)


# Searching


async def searches_for(user: AbstractBaseUser) -> list[WebSearch]:
    """This user's search services, else the one that the operator offers to everybody.

    Nothing is cached between calls, so a removed key is never used. Raises AuditUnavailable, RuntimeError inside a
    transaction.
    """
    rows = await sync_to_async(_active)(user)
    policy = await egress.apolicy("tools")
    own = [search for row in rows if (search := await _opened(row, policy, user.pk)) is not None]
    if own:
        await sync_to_async(_count)(user, [row.pk for row in rows])
    address = conf.searxng_url()
    return own or ([site_search(address)] if address else [])


def _active(user: AbstractBaseUser) -> list[SearchCredential]:
    if user.pk is None:
        return []
    with acting_for(user.pk):
        return list(SearchCredential.objects.for_user(user).active().in_order())


def _count(user: AbstractBaseUser, ids: list[Any]) -> None:
    with acting_for(user.pk):
        rows = SearchCredential.objects.for_user(user).filter(pk__in=ids)
        rows.update(request_count=F("request_count") + 1, last_used_at=timezone.now())


@sensitive_variables()
async def _opened(row: SearchCredential, policy: EgressPolicy, user_id: Any) -> WebSearch | None:
    """None for a key that no longer opens; the page shows that to its owner."""
    spec = row.spec_or_none
    if spec is None:
        return None
    try:
        if row.has_key:
            await sync_to_async(announce_opening)(row, user_id)
        return WebSearch(spec, key=row.reveal(), base_url=row.base_url, egress=policy)
    except CredentialUnreadable:
        await sync_to_async(_mark)(row, Status.NEEDS_REENTRY, CredentialUnreadable.user_message)
        return None


async def search_key_test(row: SearchCredential) -> SearchCredential:
    """Run one search with the key and store the result. Raises AuditUnavailable."""
    search = await _opened(row, await egress.apolicy("tools"), row.user_id)
    if search is not None:
        try:
            hits = await search.search(TEST_QUERY, count=3)
            status, detail = (Status.VALID, "") if hits else (Status.ERROR, _("It answered, but found nothing."))
        except SearchFailed as failed:
            status, detail = Status.INVALID if failed.is_refusal else Status.ERROR, str(failed)
        except EgressBlocked as blocked:
            status, detail = Status.ERROR, str(blocked)
        await sync_to_async(_mark)(row, status, detail)
    return await sync_to_async(_again)(row)


def _mark(row: SearchCredential, status: SearchCredential.Status, detail: str) -> None:
    """Skipped if the row has changed meanwhile."""
    with acting_for(row.user_id):
        same = SearchCredential.objects.filter(pk=row.pk, version=row.version)
        same.update(status=status, status_detail=detail[:500], tested_at=timezone.now())


def _again(row: SearchCredential) -> SearchCredential:
    """Re-reads the row. Raises SearchCredential.DoesNotExist when it was removed meanwhile."""
    with acting_for(row.user_id):
        return SearchCredential.objects.get(pk=row.pk)

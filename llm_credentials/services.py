"""Writes keys, settings and tokens. Invalid input raises ValidationError with ``{field: [text]}``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeVar

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from llm_credentials import canary, keyring
from llm_credentials.access_tokens import token_authenticate, token_create, token_facts, token_revoke
from llm_credentials.audit import Action, note, target_of
from llm_credentials.drafts import NO_RING, CheckedCredential, Draft, changes_key, credential_check
from llm_credentials.live.changes import site_changed, user_changed
from llm_credentials.models import ConnectionTest, SystemConfig, SystemCredential, UserCredential
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.notices import Kind, notify
from llm_credentials.notices.keys import key_facts
from llm_credentials.policies import check_own_key, policy_of
from llm_credentials.preferences import (
    Overtaken,
    chain_arrange,
    chain_order,
    settings_update,
    task_override_delete,
    task_override_set,
    version_of,
)
from llm_credentials.routing.policy import Policy
from llm_credentials.token_limits import ALL_SCOPES
from llm_credentials.validation import clean_flag, clean_name, clean_priority, clean_provider, validate_destination

__all__ = [
    "ALL_SCOPES",
    "NO_RING",
    "CheckedCredential",
    "Draft",
    "Overtaken",
    "SavedCredential",
    "VersionConflict",
    "chain_arrange",
    "chain_order",
    "changes_key",
    "credential_check",
    "credential_delete",
    "credential_save",
    "credential_swap",
    "settings_update",
    "site_allowance_set",
    "system_credential_delete",
    "system_credential_save",
    "task_override_delete",
    "task_override_set",
    "token_authenticate",
    "token_create",
    "token_facts",
    "token_revoke",
    "validate_destination",
    "version_of",
]

_KEY_COLUMNS: Final = ("api_key", "last4", "fingerprint", "status", "status_detail", "tested_at", "abilities")
"""The columns that change with a key."""

Row = TypeVar("Row", UserCredential, SystemCredential)


# Credentials


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedCredential:
    credential: UserCredential
    created: bool
    key_changed: bool


class VersionConflict(Exception):
    """The stored key is not the version that was to be changed. Nothing was changed."""

    def __init__(self) -> None:
        super().__init__(_("The stored key was changed or removed meanwhile, so nothing was done. Look at it again."))


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedSystemCredential:
    credential: SystemCredential
    created: bool
    key_changed: bool


@sensitive_variables()
def credential_save(
    *,
    user: AbstractBaseUser,
    provider: str,
    name: str = "default",
    api_key: str | None = None,
    model: str | None = None,
    base_url: str | None = None,
    options: Mapping[str, Any] | None = None,
    is_active: bool | None = None,
    priority: int | None = None,
    version: int | None = None,
) -> SavedCredential:
    """Create or change the user's credential of this provider and name; ``None`` leaves a field unchanged.

    ``version``: the version to change; raises VersionConflict if the stored one differs.

    A new key starts as unverified. Refused: a changed address without a new key, and anything that the organisation's
    policy forbids. A stored key can always be turned off or reordered. Raises ValidationError.
    """
    draft = Draft(api_key=api_key, model=model, base_url=base_url, options=options)
    row, created, key_changed = _save(
        UserCredential, {"user_id": user.pk}, provider, name, draft, is_active, priority, policy_of(user), version
    )
    return SavedCredential(credential=row, created=created, key_changed=key_changed)


@sensitive_variables()
def system_credential_save(
    *,
    provider: str,
    name: str = "default",
    api_key: str | None = None,
    model: str | None = None,
    base_url: str | None = None,
    options: Mapping[str, Any] | None = None,
    is_active: bool | None = None,
    priority: int | None = None,
) -> SavedSystemCredential:
    """As ``credential_save``, for a key of the site. The caller has checked that this is staff."""
    draft = Draft(api_key=api_key, model=model, base_url=base_url, options=options)
    row, created, key_changed = _save(SystemCredential, {}, provider, name, draft, is_active, priority)
    return SavedSystemCredential(credential=row, created=created, key_changed=key_changed)


@sensitive_variables()
def _save(
    model: type[Row],
    owner: Mapping[str, Any],
    provider: str,
    name: str,
    draft: Draft,
    is_active: bool | None,
    priority: int | None,
    policy: Policy | None = None,
    version: int | None = None,
) -> tuple[Row, bool, bool]:
    """(row, created, key changed). Of two concurrent first saves, the second becomes a change of the row made by the
    first.
    """
    provider = clean_provider(provider).slug
    name = clean_name(name)
    plain: dict[str, Any] = {}
    if is_active is not None:
        plain["is_active"] = clean_flag(is_active, "is_active")
    if priority is not None:
        plain["priority"] = clean_priority(priority)
    for _attempt in range(3):
        try:
            with transaction.atomic():
                identity = {**owner, "provider": provider, "name": name}
                return _save_once(model, identity, draft, plain, policy, version)
        except (IntegrityError, model.DoesNotExist):
            continue
    raise ValidationError({"name": [_("This key was just changed somewhere else. Reload and try again.")]})


@sensitive_variables()
def _save_once(
    model: type[Row],
    identity: Mapping[str, Any],
    draft: Draft,
    plain: Mapping[str, Any],
    policy: Policy | None,
    version: int | None,
) -> tuple[Row, bool, bool]:
    """Raises IntegrityError or DoesNotExist when a concurrent save won, and VersionConflict."""
    rows: models.QuerySet[Row] = model._default_manager.filter(**identity)
    stored: Row | None = rows.select_for_update(no_key=True).first()
    if version is not None and (stored is None or stored.version != version):
        raise VersionConflict
    if stored is not None and draft == Draft() and plain and not plain.get("is_active"):
        # Turning a key off or reordering it must work even if the stored values are invalid.
        checked = CheckedCredential(
            spec=stored.spec, model=stored.model, base_url=stored.base_url, options=stored.options, api_key=None
        )
    else:
        checked = credential_check(provider=identity["provider"], name=identity["name"], stored=stored, draft=draft)
    if policy is not None and (stored is None or draft != Draft()):
        check_own_key(policy, checked.spec, model=checked.model, base_url=checked.base_url)
    wanted = {"model": checked.model, "base_url": checked.base_url, "options": checked.options, **plain}
    row: Row = stored if stored is not None else model(**identity)
    changes = {name: value for name, value in wanted.items() if getattr(row, name) != value}
    for name, value in changes.items():
        setattr(row, name, value)
    key_changed = checked.api_key is not None
    if checked.api_key is not None:
        changes |= _replace_key(row, checked.api_key)
    if stored is None:
        row.save(force_insert=True)
    elif changes:
        _write_changes(row, changes)
    if stored is None or changes:
        _note_save(row, created=stored is None, key_changed=key_changed, changed=changes)
        _tell_saved(row, created=stored is None, key_changed=key_changed, address_changed="base_url" in changes)
    return row, stored is None, key_changed


def credential_swap(test: ConnectionTest, *, version: int | None) -> UserCredential:
    """Replace the stored key with the new key of this test, including its model, address and options.

    Runs inside the caller's transaction. ``version``: the version to replace; None: any. Raises VersionConflict,
    CredentialUnreadable.
    """
    rows = UserCredential.objects.filter(user_id=test.user_id, pk__in=[test.replaces_id])
    row = rows.select_for_update(no_key=True).first()
    if row is None or (version is not None and row.version != version):
        raise VersionConflict
    wanted = {"model": test.model, "base_url": test.base_url, "options": dict(test.options)}
    changes = {name: value for name, value in wanted.items() if getattr(row, name) != value}
    for name, value in changes.items():
        setattr(row, name, value)
    test.hand_key_to(row)
    works = test.state == ConnectionTest.State.VALID
    row.status = LLMCredential.Status.VALID if works else LLMCredential.Status.UNVERIFIED
    row.status_detail, row.tested_at = (test.detail, test.finished_at) if works else ("", None)
    row.abilities = test.abilities
    _write_changes(row, {**changes, **{name: getattr(row, name) for name in _KEY_COLUMNS}})
    _note_save(row, created=False, key_changed=True, changed=changes)
    _tell_saved(row, created=False, key_changed=True, address_changed="base_url" in changes)
    return row


def _note_save(row: LLMCredential, *, created: bool, key_changed: bool, changed: Collection[str]) -> None:
    if created:
        _note(Action.CREDENTIAL_CREATE, row)
    elif key_changed:
        _note(Action.CREDENTIAL_REPLACE, row)
    elif "is_active" in changed:
        _note(Action.CREDENTIAL_TOGGLE, row, "on" if row.is_active else "off")
    if not created and {"model", "base_url", "options", "priority"} & set(changed):
        _note(Action.CREDENTIAL_CHANGE, row)


def _tell_saved(row: LLMCredential, *, created: bool, key_changed: bool, address_changed: bool) -> None:
    if not isinstance(row, UserCredential):
        return
    address = row.base_url if address_changed else ""
    if created:
        notify(row.user_id, Kind.KEY_ADDED, **key_facts(row), address=address)
    elif key_changed:
        notify(row.user_id, Kind.KEY_REPLACED, **key_facts(row), address=address)
    elif address_changed:
        notify(row.user_id, Kind.ADDRESS_CHANGED, **key_facts(row), address=address or "the provider's own address")


def _note(action: Action, row: LLMCredential, result: str = "ok") -> None:
    note(action=action, subject=row.owner_ref(), target=credential_target(row), result=result)


def credential_target(row: LLMCredential) -> str:
    """Its name in the audit trail."""
    return target_of("credential", row.provider, row.pk)


@sensitive_variables()
def _replace_key(row: LLMCredential, api_key: str) -> dict[str, Any]:
    """Seal the key into the row. Returns the columns that changed with it."""
    try:
        canary.plant()
        row.seal(api_key)
    except keyring.KeyringError:
        raise ValidationError({"api_key": [_(NO_RING)]}) from None
    row.status, row.status_detail, row.tested_at = LLMCredential.Status.UNVERIFIED, "", None
    row.abilities = {}
    return {name: getattr(row, name) for name in _KEY_COLUMNS}


def _write_changes(row: Row, changes: Mapping[str, Any]) -> None:
    """Writes only the changed columns and increments the version, whatever it is by now. Raises DoesNotExist."""
    now = timezone.now()
    rows = type(row)._default_manager.filter(pk=row.pk)
    if not rows.update(**changes, version=F("version") + 1, updated_at=now):
        raise type(row).DoesNotExist
    row.refresh_from_db(fields=["version", "updated_at"])
    if isinstance(row, UserCredential):
        user_changed(row.user_id, noted=True)
    else:
        site_changed(noted=True)


def credential_delete(
    *, user: AbstractBaseUser, provider: str, name: str = "default", version: int | None = None
) -> None:
    """Destroy the key at once; ``removal.remove`` allows undo for some seconds. Raises DoesNotExist.

    ``version``: the version to delete; raises VersionConflict if the stored one differs.
    """
    _delete(UserCredential, {"user_id": user.pk}, provider, name, version)


def system_credential_delete(*, provider: str, name: str = "default") -> None:
    """Raises SystemCredential.DoesNotExist."""
    _delete(SystemCredential, {}, provider, name)


def _delete(model: type[Row], owner: Mapping[str, Any], provider: str, name: str, version: int | None = None) -> None:
    """Also deletes a row whose provider this site no longer has."""
    # No row contains a NUL, and a database may reject a query with one.
    if "\0" in provider + name:
        raise model.DoesNotExist
    with transaction.atomic():
        rows: models.QuerySet[Row] = model._default_manager.filter(**owner, provider=provider, name=name)
        row: Row | None = rows.select_for_update().first()
        if row is not None and version is not None and row.version != version:
            raise VersionConflict
        if row is None or not model._default_manager.filter(pk=row.pk).delete()[0]:
            raise model.DoesNotExist
        _note(Action.CREDENTIAL_DELETE, row)
        if isinstance(row, UserCredential):
            notify(row.user_id, Kind.KEY_REMOVED, **key_facts(row))


# Allowance for everybody


def site_allowance_set(
    *, daily_usd_per_user: Decimal | None, daily_usd_total: Decimal | None, unpriced_models: bool
) -> None:
    """Daily spending limits on the site's keys; ``None``: no limit. The caller has checked that this is staff.

    Raises ValidationError.
    """
    amounts = {"daily_usd_per_user": daily_usd_per_user, "daily_usd_total": daily_usd_total}
    for name, amount in amounts.items():
        if amount is not None and not (amount.is_finite() and amount >= 0):
            raise ValidationError({name: [_("This is an amount in US dollars, 0 or more.")]})
    # JSON numbers, as staff would write them by hand.
    value = {name: None if amount is None else float(amount) for name, amount in amounts.items()}
    with transaction.atomic():
        SystemConfig.objects.update_or_create(
            category="llm",
            key="system_allowance",
            defaults={"value": {**value, "unpriced_models": clean_flag(unpriced_models, "unpriced_models")}},
        )
        target = target_of("config", "llm", "system_allowance")
        note(action=Action.CONFIG_CHANGE, subject="system", target=target)

"""Writes model preferences: settings, task overrides and the order of keys.

Part of ``services``; callers import it from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from llm_credentials.audit import Action, note, target_of
from llm_credentials.models import Alert, LLMSettings, TaskOverride, UserCredential
from llm_credentials.notices.kinds import ALERTS
from llm_credentials.policies import check_choice, policy_of
from llm_credentials.providers import ProviderSpec
from llm_credentials.routing import kinds
from llm_credentials.validation import clean_flag, clean_model, clean_provider

MAX_TEMPERATURE: Final = 2.0
MAX_TOKENS: Final = 1_000_000
MAX_BUDGET_USD: Final = Decimal(10_000_000)


class Overtaken(Exception):
    """The stored version is not the one the caller last saw. Nothing was changed."""


def version_of(row: LLMSettings | TaskOverride | None) -> str:
    """A version token that differs after each change; empty while nothing is stored."""
    return "" if row is None or row._state.adding else row.updated_at.isoformat()


def _not_overtaken(seen: str | None, row: LLMSettings | TaskOverride | None) -> None:
    if seen is not None and seen != version_of(row):
        raise Overtaken


def settings_update(*, user: AbstractBaseUser, seen: str | None = None, **changes: Any) -> LLMSettings:
    """Change the named settings and leave the others, if the stored version is the one in ``seen``.

    Raises ValidationError, also for an unknown setting, and Overtaken.
    """
    errors: dict[str, list[str]] = {}
    cleaned: dict[str, Any] = {}
    for name, value in changes.items():
        clean = _SETTINGS.get(name)
        if clean is None:
            errors[name] = [_("There is no such setting.")]
            continue
        try:
            cleaned[name] = clean(value)
        except ValidationError as error:
            errors[name] = error.messages
    if cleaned.get("default_provider"):
        spec = clean_provider(cleaned["default_provider"])
        if refusal := policy_of(user).refusal_of_provider(spec):
            errors["default_provider"] = [refusal]
    if errors:
        raise ValidationError(errors)
    with transaction.atomic():
        row, created = LLMSettings.objects.select_for_update().get_or_create(user_id=user.pk, defaults=cleaned)
        _not_overtaken(seen, None if created else row)
        changed = [name for name, value in cleaned.items() if getattr(row, name) != value]
        if changed and not created:
            for name in changed:
                setattr(row, name, cleaned[name])
            row.save(update_fields=[*changed, "updated_at"])
        if "monthly_budget_usd" in changed:
            # Alerts about the old budget no longer apply.
            Alert.objects.for_user(user).exclude(period="").delete()
        if changed or created:
            names = ",".join(sorted(cleaned if created else changed))
            note(action=Action.SETTINGS_CHANGE, subject=str(user.pk), target=target_of("settings", names))
    return row


def _flag(value: object) -> bool:
    return clean_flag(value, "value")


def clean_temperature(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValidationError(_("The temperature is a number."))
    if not 0 <= value <= MAX_TEMPERATURE:
        raise ValidationError(
            _("The temperature is between 0 and %(temperature)s.") % {"temperature": f"{MAX_TEMPERATURE:g}"}
        )
    return float(value)


def clean_max_tokens(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_TOKENS:
        raise ValidationError(_("The token limit is a whole number from 1 to %(tokens)s.") % {"tokens": MAX_TOKENS})
    return value


def _strategy(value: object) -> str:
    if value not in LLMSettings.Strategy.values:
        raise ValidationError(_("Choose one of: %(value)s.") % {"value": ", ".join(LLMSettings.Strategy.values)})
    return str(value)


def clean_budget(value: object) -> Decimal | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not math.isfinite(value):
        raise ValidationError(_("The budget is an amount in US dollars."))
    amount = Decimal(str(value))
    if not 0 <= amount <= MAX_BUDGET_USD:
        raise ValidationError(_("The budget is between 0 and %(usd)s US dollars.") % {"usd": MAX_BUDGET_USD})
    return amount.quantize(Decimal("0.01"))


def _muted(value: object) -> list[str]:
    known = {kind.value for kind in ALERTS}
    if not isinstance(value, list) or not all(isinstance(kind, str) for kind in value) or not known.issuperset(value):
        raise ValidationError(_("Name any of: %(value)s.") % {"value": ", ".join(sorted(known))})
    return sorted(set(value))


_SETTINGS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "default_provider": lambda value: clean_provider(value).slug if value else "",
    "fallback_to_system": _flag,
    "temperature": clean_temperature,
    "max_tokens": clean_max_tokens,
    "strategy": _strategy,
    "monthly_budget_usd": clean_budget,
    "run_budget_usd": clean_budget,
    "budget_stops": _flag,
    "alerts": _flag,
    "muted": _muted,
}


# Task overrides


def task_override_set(
    *,
    user: AbstractBaseUser,
    task: str,
    credential: UUID | str | None = None,
    provider: str = "",
    model: str = "",
    temperature: float | None = None,
    max_tokens: int | None = None,
    fallback_to_system: bool | None = None,
    seen: str | None = None,
) -> TaskOverride | None:
    """Replace the override for this task as a whole. Returns None if the result is empty.

    Raises ValidationError, and Overtaken if the stored version is not the one in ``seen``.
    """
    _known_task(task)
    wanted = _override(user, credential, provider, model, temperature, max_tokens, fallback_to_system)
    if not any(value is not None and value != "" for value in wanted.values()):
        _drop_override(user, task, seen)
        return None
    with transaction.atomic():
        # Lock the key before any other row, in the same order as removing a key does.
        _own_key(user, wanted["credential_id"], hold=True)
        row, created = TaskOverride.objects.select_for_update().get_or_create(
            user_id=user.pk, task=task, defaults=wanted
        )
        _not_overtaken(seen, None if created else row)
        changed = [name for name, value in wanted.items() if getattr(row, name) != value]
        if changed:
            for name in changed:
                setattr(row, name, wanted[name])
            row.save(update_fields=[*changed, "updated_at"])
        if changed or created:
            note(action=Action.SETTINGS_CHANGE, subject=str(user.pk), target=target_of("override", task))
    return row


def task_override_delete(*, user: AbstractBaseUser, task: str, seen: str | None = None) -> None:
    """Remove the override, so that the defaults apply again. Raises TaskOverride.DoesNotExist and Overtaken."""
    if not _drop_override(user, task, seen):
        raise TaskOverride.DoesNotExist


def _drop_override(user: AbstractBaseUser, task: str, seen: str | None = None) -> bool:
    # No row contains a NUL, and a database may reject a query with one.
    if "\0" in task:
        return False
    with transaction.atomic():
        row = TaskOverride.objects.for_user(user).select_for_update().filter(task=task).first()
        _not_overtaken(seen, row)
        if row is None:
            return False
        row.delete()
        note(action=Action.SETTINGS_CHANGE, subject=str(user.pk), target=target_of("override", task), result="removed")
    return True


def _known_task(task: str) -> kinds.TaskKind:
    kind = kinds.get(task)
    if kind is None:
        raise ValidationError({"task": [_("There is no such task.")]})
    return kind


def _override(
    user: AbstractBaseUser,
    credential: UUID | str | None,
    provider: str,
    model: str,
    temperature: float | None,
    max_tokens: int | None,
    fallback_to_system: bool | None,
) -> dict[str, Any]:
    """The columns as they would be stored. Raises ValidationError."""
    errors: dict[str, list[str]] = {}
    key: UserCredential | None = None
    spec: ProviderSpec | None = None
    cleaned: dict[str, Any] = {}
    cleaners: Mapping[str, Callable[[], Any]] = {
        "model": lambda: clean_model(model),
        "temperature": lambda: clean_temperature(temperature),
        "max_tokens": lambda: clean_max_tokens(max_tokens),
        "fallback_to_system": lambda: None if fallback_to_system is None else _flag(fallback_to_system),
    }
    for name, clean in cleaners.items():
        try:
            cleaned[name] = clean()
        except ValidationError as error:
            errors[name] = error.messages
    try:
        key = _own_key(user, credential)
        if key is not None and provider:
            raise ValidationError({"provider": [_("Choose a key or a provider, not both.")]})
        spec = key.spec_or_none if key is not None else clean_provider(provider) if provider else None
        check_choice(policy_of(user), spec, cleaned.get("model", ""))
    except ValidationError as error:
        errors |= error.message_dict
    if errors:
        raise ValidationError(errors)
    return {**cleaned, "credential_id": key.pk if key else None, "provider": spec.slug if spec and not key else ""}


def _own_key(user: AbstractBaseUser, credential: UUID | str | None, *, hold: bool = False) -> UserCredential | None:
    """``hold``: lock the row until the transaction ends. Raises ValidationError."""
    if credential is None or credential == "":
        return None
    try:
        wanted = UUID(str(credential))
    except ValueError:
        wanted = None
    keys = UserCredential.objects.for_user(user)
    found = (keys.select_for_update(no_key=True) if hold else keys).filter(pk=wanted).first() if wanted else None
    if found is None:
        raise ValidationError({"credential": [_("You have no such key.")]})
    return found


# The order of the keys

PRIORITY_STEP: Final = 10


def chain_order(*, user: AbstractBaseUser, credentials: Sequence[UUID]) -> None:
    """Put these keys in this order; unnamed keys follow in their previous order.

    Raises ValidationError for a key that is not the user's, or is named twice.
    """
    with transaction.atomic():
        rows = {row.pk: row for row in UserCredential.objects.for_user(user).select_for_update(no_key=True).in_order()}
        if not set(credentials) <= rows.keys() or len(set(credentials)) != len(credentials):
            raise ValidationError(
                {"order": [_("The keys have changed meanwhile. Reload the page and order them again.")]}
            )
        order = [*credentials, *(pk for pk in rows if pk not in set(credentials))]
        moved = [
            (rows[pk], place * PRIORITY_STEP)
            for place, pk in enumerate(order, 1)
            if rows[pk].priority != place * PRIORITY_STEP
        ]
        for row, priority in moved:
            row.priority = priority
            row.version += 1
            row.save(update_fields=["priority", "version", "updated_at"])
        if moved:
            note(action=Action.SETTINGS_CHANGE, subject=str(user.pk), target=target_of("settings", "order"))


def chain_arrange(*, user: AbstractBaseUser, credentials: Sequence[UUID]) -> None:
    """As ``chain_order``, and clear the default provider where it contradicts this order.

    The first key's provider is then the default. Raises ValidationError.
    """
    with transaction.atomic():
        chain_order(user=user, credentials=credentials)
        chosen = LLMSettings.of(user).default_provider
        providers = dict(UserCredential.objects.for_user(user).active().values_list("pk", "provider"))
        others_before = [providers[pk] != chosen for pk in credentials if pk in providers]
        if chosen and others_before != sorted(others_before):
            settings_update(user=user, default_provider="")

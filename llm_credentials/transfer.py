"""Exports and imports a user's settings as a document: preferences, tasks, details of keys, but never a key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, TypeAlias
from uuid import UUID

import orjson
import pydantic
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from pydantic import BaseModel, ConfigDict, Field

from llm_credentials.models import LLMSettings, TaskOverride, UserCredential
from llm_credentials.routing import kinds
from llm_credentials.services import credential_save, settings_update, task_override_set

FORMAT: Final = "keyswitch-settings"
VERSION: Final = 1
MAX_BYTES: Final = 262_144
Outcome: TypeAlias = Literal["changed", "same", "missing", "refused"]
LABELS: Final[Mapping[str, Any]] = {
    "default_provider": gettext_lazy("Default provider"),
    "fallback_to_system": gettext_lazy("Fall back to the organisation's keys"),
    "temperature": gettext_lazy("Temperature"),
    "max_tokens": gettext_lazy("Most tokens"),
    "strategy": gettext_lazy("Which key goes first"),
    "monthly_budget_usd": gettext_lazy("Monthly budget"),
    "run_budget_usd": gettext_lazy("Budget of one run"),
    "budget_stops": gettext_lazy("Stop at the budget"),
    "alerts": gettext_lazy("Alerts by mail"),
    "muted": gettext_lazy("Muted alerts"),
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


Flag = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]


class SettingsPart(_Part):
    """What is left out stays as it is."""

    default_provider: str = Field("", max_length=40)
    fallback_to_system: Flag = True
    temperature: Number | None = None
    max_tokens: Whole | None = None
    strategy: str = Field("priority", max_length=20)
    monthly_budget_usd: Annotated[Decimal, Field(ge=0, le=10_000_000, max_digits=20, decimal_places=2)] | None = None
    run_budget_usd: Annotated[Decimal, Field(ge=0, le=10_000_000, max_digits=20, decimal_places=2)] | None = None
    budget_stops: Flag = False
    alerts: Flag = True
    muted: list[str] = Field(default=[], max_length=50)


class KeyPart(_Part):
    """What is said of a key. The key itself is entered where it is to be used."""

    provider: str = Field(max_length=40)
    name: str = Field("default", max_length=40)
    model: str = Field("", max_length=200)
    base_url: str = Field("", max_length=2048, description="For people: an address is only taken with its key.")
    options: dict[str, str] = Field(default={}, max_length=20)
    is_active: Flag = True
    priority: Whole = Field(100, ge=0, le=10_000)


class TaskPart(_Part):
    task: str = Field(max_length=60)
    provider: str = Field("", max_length=40)
    name: str | None = Field(None, max_length=40, description="One key of the provider; null: any of them.")
    model: str = Field("", max_length=200)
    temperature: Number | None = None
    max_tokens: Whole | None = None
    fallback_to_system: Flag | None = None


class Document(_Part):
    format: Literal["keyswitch-settings"]
    version: Literal[1]
    exported_at: str = Field("", max_length=40)
    settings: SettingsPart = Field(default_factory=lambda: SettingsPart.model_validate({}))
    keys: list[KeyPart] = Field(default=[], max_length=500)
    tasks: list[TaskPart] = Field(default=[], max_length=500)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One item of a document, with its outcome."""

    what: str
    outcome: Outcome
    words: str = ""


# Export


def settings_export(user: AbstractBaseUser) -> Document:
    row = LLMSettings.of(user)
    overrides = TaskOverride.objects.for_user(user).select_related("credential").order_by("task")
    return Document(
        format="keyswitch-settings",
        version=1,
        exported_at=timezone.now().isoformat(timespec="seconds"),
        settings=SettingsPart(**{name: getattr(row, name) for name in LABELS}),
        keys=[
            KeyPart(**{name: getattr(key, name) for name in KeyPart.model_fields})
            for key in UserCredential.objects.for_user(user).in_order()
        ],
        tasks=[_task_part(each) for each in overrides],
    )


def _task_part(row: TaskOverride) -> TaskPart:
    key = row.credential
    return TaskPart(
        task=row.task,
        provider=key.provider if key else row.provider,
        name=key.name if key else None,
        model=row.model,
        temperature=row.temperature,
        max_tokens=row.max_tokens,
        fallback_to_system=row.fallback_to_system,
    )


# Import


def document_read(text: str | bytes) -> Document:
    """Raises ValidationError on ``document`` that says what is wrong and where, without repeating values."""
    if len(text) > MAX_BYTES:
        raise _refusal(_("This is too long for settings: at most %(count)d KB.") % {"count": MAX_BYTES // 1024})
    try:
        raw = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise _refusal(_("This is not valid JSON.")) from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise _refusal(_("This is no export of settings from here."))
    if raw.get("version") != VERSION:
        raise _refusal(_("This was exported by another version, which cannot be read here."))
    try:
        return Document.model_validate(raw)
    except pydantic.ValidationError as error:
        raise ValidationError({"document": [_fault(each) for each in error.errors()[:10]]}) from None


def _refusal(words: str) -> ValidationError:
    return ValidationError({"document": [words]})


def _fault(error: Any) -> str:
    # The writer chooses the names: repeat one only if it could be a field of ours.
    where = ".".join(str(each) if isinstance(each, int) or each.isidentifier() else "…" for each in error["loc"])[:100]
    if error["type"] == "extra_forbidden" and "key" in where.rpartition(".")[2]:
        return _("%(where)s: keys have no place in this. Take it out.") % {"where": where}
    if error["type"] == "extra_forbidden":
        return _("%(where)s: there is no such setting.") % {"where": where}
    if error["type"] == "missing":
        return _("%(where)s is missing.") % {"where": where}
    return _("%(where)s cannot be that.") % {"where": where}


def settings_import(*, user: AbstractBaseUser, document: Document, dry_run: bool = False) -> list[Line]:
    """Apply as much of the document as is valid. Returns each item with its outcome.

    ``dry_run``: the same without changing anything.
    """
    with transaction.atomic():
        lines = [*_settings(user, document.settings), *_keys(user, document.keys), *_tasks(user, document.tasks)]
        if dry_run:
            transaction.set_rollback(True)
    return lines


def _settings(user: AbstractBaseUser, part: SettingsPart) -> Iterator[Line]:
    row = LLMSettings.of(user)
    for name, value in part.model_dump(exclude_unset=True).items():
        what = str(LABELS[name])
        if getattr(row, name) == value:
            yield Line(what=what, outcome="same")
            continue
        try:
            settings_update(user=user, **{name: value})
        except ValidationError as error:
            yield Line(what=what, outcome="refused", words=" ".join(error.messages))
        else:
            yield Line(what=what, outcome="changed", words=_shown(value))


def _shown(value: object) -> str:
    match value:
        case None | "":
            return _("not set")
        case bool():
            return _("on") if value else _("off")
        case list():
            return ", ".join(map(str, value)) or _("none")
        case _:
            return str(value)


def _keys(user: AbstractBaseUser, parts: list[KeyPart]) -> Iterator[Line]:
    stored = _stored(user)
    for part in parts:
        what = _("Key %(key)s") % {"key": _title(part.provider, part.name)}
        row = stored.get((part.provider, part.name))
        if row is None:
            yield Line(what=what, outcome="missing", words=_("You have no such key here. Add it, then import again."))
            continue
        if part.base_url != row.base_url:
            words = _("Its address stays: a stored key only goes where it was saved for.")
            yield Line(what=what, outcome="refused", words=words)
        wanted = part.model_dump(include={"model", "options", "is_active", "priority"})
        if all(getattr(row, name) == value for name, value in wanted.items()):
            yield Line(what=what, outcome="same")
            continue
        try:
            credential_save(user=user, provider=part.provider, name=part.name, **wanted)
        except ValidationError as error:
            yield Line(what=what, outcome="refused", words=" ".join(error.messages))
        else:
            yield Line(what=what, outcome="changed", words=part.model)


def _tasks(user: AbstractBaseUser, parts: list[TaskPart]) -> Iterator[Line]:
    stored = {key: row.pk for key, row in _stored(user).items()}
    settled = {row.task: _task_part(row) for row in TaskOverride.objects.for_user(user).select_related("credential")}
    for part in parts:
        kind = kinds.get(part.task)
        what = _("Task %(task)s") % {"task": kind.label if kind else _clipped(part.task)}
        if settled.get(part.task) == part:
            yield Line(what=what, outcome="same")
            continue
        try:
            _settle(user, part, stored)
        except ValidationError as error:
            yield Line(what=what, outcome="refused", words=" ".join(error.messages))
        else:
            yield Line(what=what, outcome="changed", words=_title(part.provider, part.name or "default"))


def _settle(user: AbstractBaseUser, part: TaskPart, stored: Mapping[tuple[str, str], UUID]) -> None:
    typed = part.model_dump(exclude={"name"})
    if part.name is not None:
        typed["credential"] = stored.get((part.provider, part.name))
        typed["provider"] = ""
        if typed["credential"] is None:
            raise ValidationError({"name": [_("You have no such key here.")]})
    task_override_set(user=user, **typed)


def _stored(user: AbstractBaseUser) -> dict[tuple[str, str], UserCredential]:
    return {(row.provider, row.name): row for row in UserCredential.objects.for_user(user)}


def _title(provider: str, name: str) -> str:
    return _clipped(provider if name == "default" else f"{provider} · {name}")


def _clipped(text: str) -> str:
    return text[:60]

"""Does this key work? Asked of the provider by a worker, one step after the other, and told in our own words.

A test is a row: the page and the API make it, a worker claims it by its id and runs it, everybody reads it. A key that
is not saved yet waits sealed in that row; it is destroyed when the test ends, or after ``UNSAVED_KEY_TTL_S``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

import structlog
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connections, transaction
from django.db.models import Case, F, Value, When
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from llm_credentials import bridge, limits, probing, services, waiting
from llm_credentials.audit import Action, AuditUnavailable, note, target_of
from llm_credentials.factory import open_client
from llm_credentials.limits import LimitReached
from llm_credentials.live.access import WORDS, Right, lost
from llm_credentials.live.calls import Call, Ended, under_way
from llm_credentials.live.changes import user_changed
from llm_credentials.models import ConnectionTest, SystemCredential, UserCredential
from llm_credentials.models.credentials import EnvironmentCredential, environment_credentials
from llm_credentials.models.sealed import KeyHolder, LLMCredential
from llm_credentials.policies import allows_own_key, check_own_key, may_change_site, policy_of
from llm_credentials.providers import (
    AuthenticationFailed,
    ConnectionFailed,
    CredentialUnreadable,
    DeadlineExceeded,
    EgressBlocked,
    LLMClient,
    LLMError,
    LLMMessage,
    ModelInfo,
    ModelNotFound,
    PermissionDenied,
    ProviderSpec,
    QuotaExhausted,
    RateLimited,
)
from llm_credentials.services import Draft
from llm_credentials.validation import clean_provider
from llm_credentials.wall import acting_for, open_for, owner_of

log = structlog.get_logger(__name__)

STEPS = ("address", "key", "model", "reply")
UNSAVED_KEY_TTL_S = 60
ABANDONED_AFTER_S = 60
"""A test that is not finished by then has lost its worker."""
MODELS_CACHE_S = 600
_WAITING, _KEPT = ConnectionTest.Replacement.WAITING, ConnectionTest.Replacement.KEPT
REMOVED = gettext_noop("The key was removed before it could be tested.")
EMBEDDINGS_ROLE = "embeddings"
"""The name of a test of the site's embeddings: asked for a vector, not for an answer."""
OUR_FAULT = gettext_noop(
    "The test broke off through a fault of this site. Nothing was changed; its operator finds it in the log."
)


SiteKey: TypeAlias = SystemCredential | EnvironmentCredential


class TestBusy(Exception):
    """A test of this credential is under way; ``test`` is it."""

    __test__ = False

    def __init__(self, test: ConnectionTest | None) -> None:
        super().__init__(_("This key is being tested already."))
        self.test = test


class TestLimited(LimitReached):
    """Too many tests by this user, or at this provider."""

    __test__ = False


class QueueUnavailable(Exception):
    """The queue does not answer: jobs cannot be started just now."""

    def __init__(self) -> None:
        super().__init__(_("Background jobs cannot be started just now. Nothing was lost; try again in a moment."))


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelList:
    models: tuple[ModelInfo, ...]
    source: str
    """``provider`` or ``catalogue`` (the provider could not be asked)."""


# Starting one


def test_start(
    *,
    user: AbstractBaseUser,
    provider: str,
    name: str = "default",
    unsaved: Draft | None = None,
    replaces: UserCredential | None = None,
    asked_by: AbstractBaseUser | None = None,
    token_id: UUID | None = None,
) -> ConnectionTest:
    """A queued test row. The caller enqueues it after commit (``tasks.enqueue_connection_test``).

    ``replaces``: the stored key whose place the unsaved one takes if it works (``replacement.py``). ``asked_by``: whose
    rate it counts for, if not its owner's. ``token_id``: of the access token that asks, with which the test ends.

    Raises ValidationError ({field: [text]}), UserCredential.DoesNotExist when there is nothing to test, TestBusy and
    TestLimited.
    """
    spec = clean_provider(provider)
    credential = UserCredential.objects.for_user(user).filter(provider=provider, name=name).first()
    if credential is None and unsaved is None:
        raise UserCredential.DoesNotExist
    _spend("test", asked_by or user, spec)
    expire_abandoned(user)
    draft = _draft(user, spec, name, credential, unsaved)
    draft.token_id = token_id
    if replaces is not None:
        draft.replaces, draft.replaces_version = replaces, replaces.version
        draft.replacement = ConnectionTest.Replacement.WAITING
    check_own_key(policy_of(user), spec, model=draft.model, base_url=draft.base_url)
    return _queued(draft)


test_start.__test__ = False  # type: ignore[attr-defined]


def site_test_start(
    *,
    user: AbstractBaseUser,
    provider: str,
    role: str,
    stored: SiteKey | None,
    unsaved: Draft | None,
    token_id: UUID | None = None,
) -> ConnectionTest:
    """As ``test_start``, of a key of the site, for somebody of whom the caller has checked that they may.

    ``role``: the test's name, by which two of one role are not run at once. Raises ValidationError, TestBusy and
    TestLimited.
    """
    spec = clean_provider(provider)
    _spend("test", user, spec)
    expire_abandoned(user)
    draft = _draft(user, spec, role, stored, unsaved, for_site=True)
    draft.token_id = token_id
    return _queued(draft)


def _queued(draft: ConnectionTest) -> ConnectionTest:
    try:
        with transaction.atomic():
            draft.save(force_insert=True)
            subject = "system" if draft.for_site else str(draft.user_id)
            note(action=Action.TEST_START, subject=subject, target=target_of("test", draft.provider, draft.pk))
            user_changed(draft.user_id)
    except IntegrityError:
        same = ConnectionTest.objects.filter(user_id=draft.user_id, provider=draft.provider, name=draft.name)
        raise TestBusy(same.filter(for_site=draft.for_site).unfinished().first()) from None
    if draft.has_key:
        _destroy_later(draft.pk)
    return draft


def _spend(kind: str, user: AbstractBaseUser, spec: ProviderSpec) -> None:
    try:
        limits.admit(kind, user, provider=spec.slug)
    except LimitReached as reached:
        raise TestLimited(reached.retry_after_s, reached.usage.limit) from None


def _draft(
    user: AbstractBaseUser,
    spec: ProviderSpec,
    name: str,
    credential: UserCredential | SiteKey | None,
    unsaved: Draft | None,
    *,
    for_site: bool = False,
) -> ConnectionTest:
    """The row for this test: the stored key as it is, or the typed one sealed beside its typed destination."""
    given = services.credential_check(provider=spec.slug, name=name, stored=credential, draft=unsaved)
    stored = credential if given.api_key is None else None
    test = ConnectionTest(
        user_id=user.pk,
        credential=stored if isinstance(stored, UserCredential) else None,
        for_site=for_site,
        system_credential_id=stored.pk if isinstance(stored, SystemCredential) else None,
        provider=spec.slug,
        name=name,
        base_url=given.base_url,
        model=given.model,
        options=dict(given.options),
        state=ConnectionTest.State.QUEUED,
        steps=[],
    )
    if given.api_key is not None:
        test.seal(given.api_key)
    return test


def _destroy_later(test_id: UUID) -> None:
    """A key that nobody took up is destroyed by this process; another's polls and workers do it if this one dies."""
    timer = threading.Timer(UNSAVED_KEY_TTL_S, _destroy_key, args=(test_id,))
    timer.daemon = True
    timer.start()


def _destroy_key(test_id: UUID) -> None:
    try:
        with open_for("destroying a key that nobody took up"):
            expire_abandoned(test_id=test_id)
    except Exception as error:
        # The next poll or worker does it; a thread of the clock has nobody to tell but the log.
        log.warning("unsaved_key_not_destroyed", test=str(test_id), error=type(error).__name__)
    finally:
        connections.close_all()


def expire_abandoned(user: AbstractBaseUser | None = None, test_id: UUID | None = None) -> int:
    """Close tests that nobody finished and destroy the keys that waited in them; how many."""
    tests = ConnectionTest.objects.all()
    if user is not None:
        tests = tests.for_user(user)
    if test_id is not None:
        tests = tests.filter(pk=test_id)
    now = timezone.now()
    # New keys that did not get their place are held for somebody who wants them all the same, and no longer.
    tests.filter(api_key__isnull=False, finished_at__lte=now - timedelta(seconds=UNSAVED_KEY_TTL_S)).update(
        api_key=None
    )
    abandoned = tests.unfinished().filter(created_at__lte=now - timedelta(seconds=ABANDONED_AFTER_S))
    return abandoned.update(
        replacement=Case(When(replacement=_WAITING, then=Value(_KEPT)), default=F("replacement")),
        state=ConnectionTest.State.EXPIRED,
        api_key=None,
        detail=_("No worker finished this test. Nothing was changed; try again."),
        finished_at=now,
    )


# Running it


def test_run(test_id: UUID | str) -> None:
    """Run a queued test to its end, in a worker. Twice the same id, an unknown or an expired one: nothing happens."""
    with open_for("closing tests that nobody finished"):
        expire_abandoned()
    with acting_for(owner_of(ConnectionTest.objects.filter(pk=test_id).values_list("user_id", flat=True))):
        _test_run(test_id)


def _test_run(test_id: UUID | str) -> None:
    claimed = ConnectionTest.objects.filter(pk=test_id, state=ConnectionTest.State.QUEUED).update(
        state=ConnectionTest.State.RUNNING, started_at=timezone.now()
    )
    if not claimed:
        return
    test = ConnectionTest.objects.select_related("credential", "user").get(pk=test_id)
    user_changed(test.user_id)
    subject = _subject(test)
    if subject is None:
        _finish(test, _Outcome(state=ConnectionTest.State.ERROR, detail=REMOVED, status=None, steps=[]), None)
        return
    stored = subject if isinstance(subject, LLMCredential) else None
    # What was tried with another model or other options says nothing about the key as it is stored.
    same_model = stored is not None and stored.model == test.model
    about_key = stored is not None and stored.options == test.options and (same_model or test.for_site)
    version = stored.version if stored is not None and about_key else None
    try:
        _check_allowed(test)
    except ValidationError as refusal:
        detail = " ".join(refusal.messages)
        _finish(test, _Outcome(state=ConnectionTest.State.ERROR, detail=detail, status=None, steps=[]), None)
        return
    try:
        outcome = bridge.run(_examine_while_allowed, test, subject)
    except AuditUnavailable as error:
        _finish(
            test, _Outcome(state=ConnectionTest.State.ERROR, detail=error.user_message, status=None, steps=[]), None
        )
        return
    except Exception:
        _finish(test, _Outcome(state=ConnectionTest.State.ERROR, detail=OUR_FAULT, status=None, steps=[]), None)
        raise
    if outcome.status == "error" and not same_model:
        outcome.status = None
    _finish(test, outcome, version)


test_run.__test__ = False  # type: ignore[attr-defined]


def _subject(test: ConnectionTest) -> KeyHolder | EnvironmentCredential | None:
    """What holds the key under test; None: it was removed meanwhile."""
    if test.system_credential_id is not None:
        return SystemCredential.objects.filter(pk=test.system_credential_id).first()
    if test.for_site and not test.has_key:
        place = (test.provider, test.base_url)
        return next((each for each in environment_credentials() if (each.provider, each.base_url) == place), test)
    return test.credential or test


def _check_allowed(test: ConnectionTest) -> None:
    """Still, when the worker takes it up. Raises ValidationError."""
    if not test.for_site:
        check_own_key(policy_of(test.user), test.spec, model=test.model, base_url=test.base_url)
    elif not may_change_site(test.user):
        raise ValidationError(_("You may not test the keys of the site any more."))


@dataclass(kw_only=True, slots=True)
class _Outcome:
    state: str
    detail: str
    status: str | None
    """What the stored credential becomes; None: as it was."""
    steps: list[dict[str, str]]
    abilities: dict[str, Any] = field(default_factory=dict)
    """What was found out about them (``probing.probe``); empty: nothing."""


async def _examine_while_allowed(test: ConnectionTest, subject: KeyHolder | EnvironmentCredential) -> _Outcome:
    """As long as the user is active and the access token that asked is usable."""
    right = Right(test.user_id, token_id=test.token_id)
    try:
        if reason := (await sync_to_async(lost)([right])).get(right):
            raise Ended(reason)
        with under_way(Call(right)) as call, call:
            return await _examine(test, subject)
    except Ended as ended:
        return _Outcome(state=ConnectionTest.State.ERROR, detail=str(WORDS[ended.reason]), status=None, steps=[])


async def _examine(test: ConnectionTest, subject: KeyHolder | EnvironmentCredential) -> _Outcome:
    """All steps within the cap of ``LLM_TEST_TIMEOUT_S``, then what the key can do; whatever happens is an outcome."""
    steps = _Steps(test)
    model = test.model
    try:
        async with asyncio.timeout(settings.LLM_TEST_TIMEOUT_S):
            client = await open_client(subject, model=test.model or None, options=test.options, user_id=test.user_id)
            model = client.model
            lists = await _ask(client, steps)
    except LLMError as error:
        return _failed(error, test, model, steps)
    except TimeoutError:
        return _failed(DeadlineExceeded(provider=test.provider), test, model, steps)
    return _Outcome(
        state=ConnectionTest.State.VALID,
        detail=steps.rows[-1]["text"],
        status="valid",
        steps=steps.rows,
        # A key of the site is tried only for what it is used for.
        abilities={} if test.for_site else await probing.probe(client, lists=lists),
    )


async def _ask(client: LLMClient, steps: _Steps) -> bool:
    """Whether the provider could list its models."""
    listed = await _listed(client)
    if listed is not None:
        await steps.passed("address", _("The provider answered."))
        await steps.passed("key", _("Key accepted."))
        await steps.passed("model", _about_model(client.model, listed))
    started = time.monotonic()
    if steps.test.for_site and steps.test.name == EMBEDDINGS_ROLE:
        await client.embed(["OK"], model=client.model)
    else:
        await client.complete([LLMMessage.user("Reply with the word OK.")], max_tokens=16)
    seconds = time.monotonic() - started
    if listed is None:
        await steps.passed("address", _("The provider answered."))
        await steps.passed("key", _("Key accepted."))
        await steps.passed("model", _("%(model)s exists.") % {"model": client.model})
    await steps.passed(
        "reply", _("Key accepted. %(model)s answered in %(about)s.") % {"model": client.model, "about": _about(seconds)}
    )
    return listed is not None


def _about(seconds: float) -> str:
    if seconds < 0.1:
        return _("under 0.1 s")
    return _("%(number)s s") % {"number": number_format(seconds, decimal_pos=1)}


async def _listed(client: LLMClient) -> list[ModelInfo] | None:
    """The provider's models; None where it keeps no list, which says nothing about the key."""
    try:
        return await client.list_models()
    except LLMError as error:
        if isinstance(error, AuthenticationFailed | ConnectionFailed | DeadlineExceeded | EgressBlocked):
            raise
        return None


def _about_model(model: str, listed: list[ModelInfo]) -> str:
    if any(model in (info.id, info.id.removeprefix("models/")) for info in listed):
        return _("%(model)s is in the provider's list.") % {"model": model}
    return _("%(model)s is not in the provider's list.") % {"model": model}


class _Steps:
    """The steps as they pass, written to the row so that every reader sees them tick."""

    def __init__(self, test: ConnectionTest) -> None:
        self.test = test
        self.rows: list[dict[str, str]] = []

    async def passed(self, name: str, text: str) -> None:
        self.rows.append({"name": name, "state": "ok", "text": text})
        await ConnectionTest.objects.filter(pk=self.test.pk, state=ConnectionTest.State.RUNNING).aupdate(
            steps=self.rows
        )
        await sync_to_async(user_changed)(self.test.user_id)

    def broken(self, failed: str, text: str, *, answered: bool) -> list[dict[str, str]]:
        """All steps: those that passed, the one that failed and why, the rest as skipped.

        ``answered``: the provider itself refused the failed step, so what comes before it did pass.
        """
        seen = {row["name"]: row for row in self.rows}
        before = "ok" if answered else "skipped"
        rows = []
        for name in STEPS:
            if name == failed:
                rows.append({"name": name, "state": "failed", "text": text})
                before = "skipped"
            else:
                rows.append(seen.get(name, {"name": name, "state": before, "text": ""}))
        return rows


def _failed(error: LLMError, test: ConnectionTest, model: str, steps: _Steps) -> _Outcome:
    step, state, status = _verdict(error, {row["name"] for row in steps.rows})
    detail = _words(error, test.spec, model)
    log.info("connection_test_failed", provider=test.provider, test=str(test.pk), error=type(error).__name__)
    return _Outcome(
        state=state,
        detail=detail,
        status=status,
        steps=steps.broken(step, detail, answered=error.status_code is not None),
    )


def _verdict(error: LLMError, passed: set[str]) -> tuple[str, str, str | None]:
    """(the step that failed, state of the test, status of the credential or None for unchanged)."""
    match error:
        case CredentialUnreadable():
            return "key", ConnectionTest.State.INVALID, "needs_reentry"
        case AuthenticationFailed():
            return "key", ConnectionTest.State.INVALID, "invalid"
        case ModelNotFound():
            return "model", ConnectionTest.State.INVALID, "error"
        case QuotaExhausted():
            return "reply", ConnectionTest.State.INVALID, "error"
        case EgressBlocked():
            return "address", ConnectionTest.State.INVALID, "error"
        case RateLimited() | PermissionDenied():
            return "reply", ConnectionTest.State.ERROR, None
        case ConnectionFailed() | DeadlineExceeded():
            return "reply" if "key" in passed else "address", ConnectionTest.State.ERROR, "error"
        case _:
            return "reply", ConnectionTest.State.ERROR, "error"


def _words(error: LLMError, spec: ProviderSpec, model: str) -> str:
    """What failed and how to mend it. Never a word of the provider's own answer."""
    code = f" ({error.status_code})" if error.status_code else ""
    match error:
        case AuthenticationFailed():
            return _("%(provider)s refused this key%(code)s. Mistyped or revoked? Make a new one on its key page.") % {
                "provider": spec.label,
                "code": code,
            }
        case QuotaExhausted():
            return _("The key works, but its account at %(provider)s has no credit or quota left%(code)s.") % {
                "provider": spec.label,
                "code": code,
            }
        case ModelNotFound():
            return _(
                "%(provider)s does not know the model %(model)s%(code)s, or this key may not use it. Choose another."
            ) % {"provider": spec.label, "model": model, "code": code}
        case RateLimited():
            return _("%(provider)s asks for fewer requests just now%(code)s. Try again in a minute.") % {
                "provider": spec.label,
                "code": code,
            }
        case PermissionDenied():
            return _("%(provider)s knows the key but closes a region, model or feature to it%(code)s.") % {
                "provider": spec.label,
                "code": code,
            }
        case EgressBlocked():
            return _("%(error)s Check the address.") % {"error": error}
        case DeadlineExceeded():
            return _("%(provider)s did not answer within %(LLM_TEST_TIMEOUT_S)s s. Check the address.") % {
                "provider": spec.label,
                "LLM_TEST_TIMEOUT_S": f"{settings.LLM_TEST_TIMEOUT_S:g}",
            }
        case ConnectionFailed():
            return _("No connection to the address. Check it, and whether the server is up.")
        case _:
            return f"{error.user_message}{code}"


def _finish(test: ConnectionTest, outcome: _Outcome, version: int | None) -> None:
    now = timezone.now()
    with transaction.atomic():
        row = ConnectionTest.objects.select_for_update().filter(pk=test.pk, state=ConnectionTest.State.RUNNING).first()
        if row is None:
            return
        row.state, row.detail, row.steps, row.finished_at = outcome.state, outcome.detail, outcome.steps, now
        row.abilities = outcome.abilities
        if row.replacement:
            row.replacement = _replaced(row)
        if not row.can_be_saved:
            row.api_key = None
        row.save(update_fields=["state", "detail", "steps", "abilities", "finished_at", "replacement", "api_key"])
        if version is not None and outcome.status:
            found: dict[str, Any] = {"status": outcome.status, "status_detail": outcome.detail, "tested_at": now}
            if outcome.abilities:
                found["abilities"] = outcome.abilities
            if test.system_credential_id is not None:
                SystemCredential.objects.filter(pk=test.system_credential_id, version=version).update(**found)
            elif test.credential_id:
                UserCredential.objects.filter(pk=test.credential_id, version=version).update(**found)
        user_changed(row.user_id)
    waiting.announce(row.pk)
    if row.has_key:
        _destroy_later(row.pk)


def _replaced(test: ConnectionTest) -> ConnectionTest.Replacement:
    """Swap the new key in if it works; what becomes of it."""
    if test.state != ConnectionTest.State.VALID:
        return ConnectionTest.Replacement.KEPT
    try:
        services.credential_swap(test, version=test.replaces_version)
    except services.VersionConflict:
        return ConnectionTest.Replacement.CONFLICT
    except CredentialUnreadable:
        return ConnectionTest.Replacement.KEPT
    return ConnectionTest.Replacement.DONE


# What a key may use


def models_available(
    *, user: AbstractBaseUser, provider: str, name: str = "default", unsaved: Draft | None = None
) -> ModelList:
    """The models of this key as its provider lists them, else what the catalogue knows.

    Without those that the organisation's policy forbids. Kept per credential version for ten minutes. Raises
    ValidationError and TestLimited.
    """
    spec = clean_provider(provider)
    credential = UserCredential.objects.for_user(user).filter(provider=provider, name=name).first()
    policy = policy_of(user)
    if unsaved is not None:
        subject = _draft(user, spec, name, credential, unsaved)
        check_own_key(policy, spec, model=None, base_url=subject.base_url)
        found = _asked(user, spec, subject.credential or subject)
    elif credential is None or not allows_own_key(policy, spec, base_url=credential.base_url):
        found = from_catalogue(spec)
    else:
        found = _models_of(user, spec, credential)
    return replace(found, models=tuple(info for info in found.models if policy.allows_model(spec.slug, info.id)))


def site_models_available(
    *, user: AbstractBaseUser, provider: str, role: str, stored: SiteKey | None, unsaved: Draft | None
) -> ModelList:
    """As ``models_available``, with a key of the site or a typed one; of neither, what the catalogue knows."""
    spec = clean_provider(provider)
    if stored is None and (unsaved is None or not (unsaved.api_key or unsaved.base_url)):
        return from_catalogue(spec)
    subject = _draft(user, spec, role, stored, unsaved, for_site=True)
    return _asked(user, spec, subject if subject.has_key or stored is None else stored)


def _models_of(user: AbstractBaseUser, spec: ProviderSpec, credential: UserCredential) -> ModelList:
    key = f"llm-models:{user.pk}:{credential.pk}:{credential.version}"
    kept: ModelList | None = cache.get(key)
    if kept is None:
        kept = _asked(user, spec, credential)
        if kept.source == "provider":
            cache.set(key, kept, MODELS_CACHE_S)
    return kept


def _asked(user: AbstractBaseUser, spec: ProviderSpec, subject: UserCredential | ConnectionTest | SiteKey) -> ModelList:
    _spend("models", user, spec)
    try:
        models = bridge.run(_list_models, subject, user.pk)
    except (LLMError, TimeoutError):
        return from_catalogue(spec)
    return ModelList(models=tuple(models), source="provider") if models else from_catalogue(spec)


async def _list_models(subject: UserCredential | ConnectionTest | SiteKey, user_id: Any) -> list[ModelInfo]:
    async with asyncio.timeout(settings.LLM_TEST_TIMEOUT_S):
        client: LLMClient = await open_client(subject, user_id=user_id)
        return await client.list_models()


def from_catalogue(spec: ProviderSpec) -> ModelList:
    return ModelList(
        models=tuple(
            ModelInfo(
                id=facts.id, label=facts.label, context_window=facts.context_window, capabilities=facts.capabilities
            )
            for facts in spec.models
            if not facts.retired
        ),
        source="catalogue",
    )

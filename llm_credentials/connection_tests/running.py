"""The worker's part: claims the row, examines its key, stores the result."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from llm_credentials import bridge, services, waiting
from llm_credentials.audit import AuditUnavailable
from llm_credentials.connection_tests.expiring import destroy_later, expire_abandoned
from llm_credentials.connection_tests.steps import Outcome, examine
from llm_credentials.live.access import WORDS, Right, lost
from llm_credentials.live.calls import Call, Ended, under_way
from llm_credentials.live.changes import user_changed
from llm_credentials.models import ConnectionTest, SystemCredential, UserCredential
from llm_credentials.models.credentials import EnvironmentCredential, environment_credentials
from llm_credentials.models.sealed import KeyHolder, LLMCredential
from llm_credentials.policies import check_own_key, may_change_site, policy_of
from llm_credentials.providers import CredentialUnreadable
from llm_credentials.wall import acting_for, open_for, owner_of

REMOVED = gettext_noop("The key was removed before it could be tested.")
OUR_FAULT = gettext_noop(
    "The test broke off through a fault of this site. Nothing was changed; its operator finds it in the log."
)


def test_run(test_id: UUID | str) -> bool:
    """Run a queued test to its end, in a worker. Returns False and does nothing for an id that is unknown, expired or
    already taken.
    """
    with open_for("closing tests that nobody finished"):
        expire_abandoned()
    with acting_for(owner_of(ConnectionTest.objects.filter(pk=test_id).values_list("user_id", flat=True))):
        claimed = ConnectionTest.objects.filter(pk=test_id, state=ConnectionTest.State.QUEUED).update(
            state=ConnectionTest.State.RUNNING, started_at=timezone.now()
        )
        if claimed:
            _test_run(test_id)
    return bool(claimed)


def _test_run(test_id: UUID | str) -> None:
    test = ConnectionTest.objects.select_related("credential", "user").get(pk=test_id)
    user_changed(test.user_id)
    subject = _subject(test)
    if subject is None:
        _finish(test, Outcome(state=ConnectionTest.State.ERROR, detail=REMOVED, status=None, steps=[]), None)
        return
    stored = subject if isinstance(subject, LLMCredential) else None
    # A test with another model or other options says nothing about the stored key.
    same_model = stored is not None and stored.model == test.model
    about_key = stored is not None and stored.options == test.options and (same_model or test.for_site)
    version = stored.version if stored is not None and about_key else None
    try:
        _check_allowed(test)
    except ValidationError as refusal:
        detail = " ".join(refusal.messages)
        _finish(test, Outcome(state=ConnectionTest.State.ERROR, detail=detail, status=None, steps=[]), None)
        return
    try:
        outcome = bridge.run(_examine_while_allowed, test, subject)
    except AuditUnavailable as error:
        _finish(test, Outcome(state=ConnectionTest.State.ERROR, detail=error.user_message, status=None, steps=[]), None)
        return
    except Exception:
        _finish(test, Outcome(state=ConnectionTest.State.ERROR, detail=OUR_FAULT, status=None, steps=[]), None)
        raise
    if outcome.status == "error" and not same_model:
        outcome.status = None
    _finish(test, outcome, version)


test_run.__test__ = False  # type: ignore[attr-defined]


def _subject(test: ConnectionTest) -> KeyHolder | EnvironmentCredential | None:
    """The holder of the key under test; None if it was removed meanwhile."""
    if test.system_credential_id is not None:
        return SystemCredential.objects.filter(pk=test.system_credential_id).first()
    if test.for_site and not test.has_key:
        place = (test.provider, test.base_url)
        return next((each for each in environment_credentials() if (each.provider, each.base_url) == place), test)
    return test.credential or test


def _check_allowed(test: ConnectionTest) -> None:
    """Checked again when the worker takes the test. Raises ValidationError."""
    if not test.for_site:
        check_own_key(policy_of(test.user), test.spec, model=test.model, base_url=test.base_url)
    elif not may_change_site(test.user):
        raise ValidationError(_("You may not test the keys of the site any more."))


async def _examine_while_allowed(test: ConnectionTest, subject: KeyHolder | EnvironmentCredential) -> Outcome:
    """Stops when the user is deactivated or the requesting access token becomes unusable."""
    right = Right(test.user_id, token_id=test.token_id)
    try:
        if reason := (await sync_to_async(lost)([right])).get(right):
            raise Ended(reason)
        with under_way(Call(right)) as call, call:
            return await examine(test, subject)
    except Ended as ended:
        return Outcome(state=ConnectionTest.State.ERROR, detail=str(WORDS[ended.reason]), status=None, steps=[])


def _finish(test: ConnectionTest, outcome: Outcome, version: int | None) -> None:
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
        destroy_later(row.pk)


def _replaced(test: ConnectionTest) -> ConnectionTest.Replacement:
    """Swap the new key in if it works. Returns the outcome."""
    if test.state != ConnectionTest.State.VALID:
        return ConnectionTest.Replacement.KEPT
    try:
        services.credential_swap(test, version=test.replaces_version)
    except services.VersionConflict:
        return ConnectionTest.Replacement.CONFLICT
    except CredentialUnreadable:
        return ConnectionTest.Replacement.KEPT
    return ConnectionTest.Replacement.DONE

"""Creates the row of a test, with the key to be tested in it."""

from __future__ import annotations

from typing import TypeAlias
from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from llm_credentials import limits, services
from llm_credentials.audit import Action, note, target_of
from llm_credentials.connection_tests.expiring import destroy_later, expire_abandoned
from llm_credentials.limits import LimitReached
from llm_credentials.live.changes import user_changed
from llm_credentials.models import ConnectionTest, SystemCredential, UserCredential
from llm_credentials.models.credentials import EnvironmentCredential
from llm_credentials.policies import check_own_key, policy_of
from llm_credentials.providers import ProviderSpec
from llm_credentials.services import Draft
from llm_credentials.validation import clean_provider

SiteKey: TypeAlias = SystemCredential | EnvironmentCredential


class TestBusy(Exception):
    """Another test of this credential (``test``) is in progress."""

    __test__ = False

    def __init__(self, test: ConnectionTest | None) -> None:
        super().__init__(_("This key is being tested already."))
        self.test = test


class TestLimited(LimitReached):
    """Too many tests by this user, or at this provider."""

    __test__ = False


class QueueUnavailable(Exception):
    """The queue is down, so jobs cannot be started."""

    def __init__(self) -> None:
        super().__init__(_("Background jobs cannot be started just now. Nothing was lost; try again in a moment."))


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
    """Create a queued test. The caller enqueues it after commit (``tasks.enqueue_connection_test``).

    ``replaces``: the stored key that the unsaved one replaces if it works (``replacement.py``). ``asked_by``: whose
    rate limit it counts against, if not its owner's. ``token_id``: the requesting access token; the test ends with it.

    Raises ValidationError ({field: [text]}), UserCredential.DoesNotExist when there is nothing to test, TestBusy and
    TestLimited.
    """
    spec = clean_provider(provider)
    credential = UserCredential.objects.for_user(user).filter(provider=provider, name=name).first()
    if credential is None and unsaved is None:
        raise UserCredential.DoesNotExist
    spend("test", asked_by or user, spec)
    expire_abandoned(user)
    draft = draft_of(user, spec, name, credential, unsaved)
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
    """As ``test_start``, for a key of the site. The caller has checked the user's permission.

    ``role``: the test's name; only one test per role runs at a time. Raises ValidationError, TestBusy and TestLimited.
    """
    spec = clean_provider(provider)
    spend("test", user, spec)
    expire_abandoned(user)
    draft = draft_of(user, spec, role, stored, unsaved, for_site=True)
    draft.token_id = token_id
    return _queued(draft)


def _queued(draft: ConnectionTest) -> ConnectionTest:
    try:
        with transaction.atomic():
            if draft.credential_id is not None:
                _hold(draft.credential_id)
            draft.save(force_insert=True)
            subject = "system" if draft.for_site else str(draft.user_id)
            note(action=Action.TEST_START, subject=subject, target=target_of("test", draft.provider, draft.pk))
            user_changed(draft.user_id)
    except IntegrityError:
        same = ConnectionTest.objects.filter(user_id=draft.user_id, provider=draft.provider, name=draft.name)
        raise TestBusy(same.filter(for_site=draft.for_site).unfinished().first()) from None
    if draft.has_key:
        destroy_later(draft.pk)
    return draft


def _hold(credential_id: UUID) -> None:
    """Lock the key before anything else, because saving or removing it also locks it first and writes its event
    afterwards.

    Raises UserCredential.DoesNotExist.
    """
    if UserCredential.objects.filter(pk=credential_id).select_for_update(no_key=True).first() is None:
        raise UserCredential.DoesNotExist


def spend(kind: str, user: AbstractBaseUser, spec: ProviderSpec) -> None:
    try:
        limits.admit(kind, user, provider=spec.slug)
    except LimitReached as reached:
        raise TestLimited(reached.retry_after_s, reached.usage.limit) from None


def draft_of(
    user: AbstractBaseUser,
    spec: ProviderSpec,
    name: str,
    credential: UserCredential | SiteKey | None,
    unsaved: Draft | None,
    *,
    for_site: bool = False,
) -> ConnectionTest:
    """The test's row: the stored key as it is, or the typed one sealed for its typed destination."""
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

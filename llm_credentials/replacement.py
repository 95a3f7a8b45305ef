"""Replaces a stored key with a new one without failing any call in between.

The new key is tested first. It is swapped in, with its model, address and options, only if it works and the stored key
is still the version it was meant to replace. Calls in progress finish with the old key; later calls in every process
use the new one within a second. A new key that was not swapped in is kept sealed for a minute, in case the user wants
to save it anyway, and then destroyed.
"""

from __future__ import annotations

from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from llm_credentials import connection_tests, services
from llm_credentials.connection_tests import test_start
from llm_credentials.models import ConnectionTest, UserCredential
from llm_credentials.policies import check_own_key, policy_of
from llm_credentials.providers import CredentialUnreadable
from llm_credentials.services import Draft, VersionConflict

__all__ = ["ReplacementOver", "VersionConflict", "replacement_save", "replacement_start"]


class ReplacementOver(Exception):
    """There is no new key to save any more."""

    def __init__(self) -> None:
        super().__init__(_("The new key is not held any more, so nothing was changed. Enter it again."))


def replacement_start(
    *,
    user: AbstractBaseUser,
    provider: str,
    name: str = "default",
    unsaved: Draft,
    version: int | None = None,
    token_id: UUID | None = None,
) -> ConnectionTest:
    """Queue a test whose key, if it works, replaces the stored one. The caller enqueues it after commit.

    ``version``: of the stored key, as the caller knows it. Raises ValidationError ({field: [text]}),
    UserCredential.DoesNotExist, VersionConflict, TestBusy and TestLimited.
    """
    stored = UserCredential.objects.for_user(user).filter(provider=provider, name=name).first()
    if stored is None:
        raise UserCredential.DoesNotExist
    if version is not None and stored.version != version:
        raise VersionConflict
    checked = services.credential_check(provider=provider, name=name, stored=stored, draft=unsaved)
    if checked.api_key is None:
        raise ValidationError({"api_key": [_("Enter the new key that is to replace the stored one.")]})
    return test_start(user=user, provider=provider, name=name, unsaved=unsaved, replaces=stored, token_id=token_id)


def replacement_save(*, user: AbstractBaseUser, test_id: UUID) -> UserCredential:
    """Save the new key anyway, over the stored key of any version. Raises ReplacementOver, ValidationError."""
    connection_tests.expire_abandoned(test_id=test_id)
    with transaction.atomic():
        test = ConnectionTest.objects.for_user(user).select_for_update().filter(pk=test_id).first()
        if test is None or not test.can_be_saved:
            raise ReplacementOver
        check_own_key(policy_of(user), test.spec, model=test.model, base_url=test.base_url)
        try:
            row = services.credential_swap(test, version=None)
        except (VersionConflict, CredentialUnreadable):
            raise ReplacementOver from None
        test.replacement, test.api_key = ConnectionTest.Replacement.DONE, None
        test.save(update_fields=["replacement", "api_key"])
    return row

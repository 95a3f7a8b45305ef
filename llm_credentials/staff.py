"""What staff can do with another user's key: test it, turn it off, ask its owner to enter it again.

Nothing here opens a key for staff, changes it, or sends it anywhere other than its owner's address.
"""

from __future__ import annotations

from typing import Final

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from llm_credentials import connection_tests, limits, services
from llm_credentials.audit import Action, note
from llm_credentials.models import ConnectionTest, SystemCredential, UserCredential
from llm_credentials.notices import Kind, notify
from llm_credentials.notices.keys import key_facts

ASK_RATE: Final = "2/d"
"""Per key."""


def retest(credential: UserCredential | SystemCredential, *, by: AbstractBaseUser) -> ConnectionTest:
    """Queue a test of the stored key in its owner's name; it counts against the rate limit of ``by``.

    The caller enqueues it after commit. Raises ValidationError, TestBusy and TestLimited.
    """
    if isinstance(credential, SystemCredential):
        return connection_tests.site_test_start(
            user=by, provider=credential.provider, role=credential.name, stored=credential, unsaved=None
        )
    return connection_tests.test_start(
        user=credential.user, provider=credential.provider, name=credential.name, asked_by=by
    )


def turn_off(credential: UserCredential | SystemCredential) -> bool:
    """Returns whether it was on. The owner of a user's key is notified, and may turn it on again."""
    if not credential.is_active:
        return False
    with transaction.atomic():
        if isinstance(credential, SystemCredential):
            services.system_credential_save(provider=credential.provider, name=credential.name, is_active=False)
            return True
        services.credential_save(
            user=credential.user, provider=credential.provider, name=credential.name, is_active=False
        )
        notify(credential.user_id, Kind.KEY_TURNED_OFF, **key_facts(credential))
    return True


def ask_for_reentry(credential: UserCredential) -> None:
    """Sends a mail; the key is unchanged until its owner acts. Raises LimitReached, ValidationError."""
    if not getattr(credential.user, "email", ""):
        raise ValidationError(_("The owner of %(key)s has no e-mail address.") % {"key": str(credential)})
    limits.use("reentry-mail", str(credential.pk), ASK_RATE)
    with transaction.atomic():
        note(
            action=Action.CREDENTIAL_ASK,
            subject=credential.owner_ref(),
            target=services.credential_target(credential),
        )
        notify(credential.user_id, Kind.REENTRY_ASKED, **key_facts(credential))

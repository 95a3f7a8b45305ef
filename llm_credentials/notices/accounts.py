"""Notices about account changes, which Django and allauth report by signals."""

from __future__ import annotations

from typing import Any

from allauth.account.signals import email_changed, password_changed, password_reset
from allauth.mfa.signals import authenticator_added, authenticator_removed
from django.dispatch import receiver

from llm_credentials.notices.kinds import Kind
from llm_credentials.notices.sending import notify


@receiver(password_changed)
@receiver(password_reset)
def _password_changed(user: Any, **kwargs: Any) -> None:
    notify(user.pk, Kind.PASSWORD_CHANGED)


@receiver(email_changed)
def _email_changed(user: Any, from_email_address: Any, to_email_address: Any, **kwargs: Any) -> None:
    if from_email_address is not None and from_email_address.email != to_email_address.email:
        notify(user.pk, Kind.EMAIL_CHANGED, to=from_email_address.email)


@receiver(authenticator_added)
def _factor_added(user: Any, authenticator: Any, **kwargs: Any) -> None:
    notify(user.pk, Kind.FACTOR_ADDED, factor=authenticator.type)


@receiver(authenticator_removed)
def _factor_removed(user: Any, authenticator: Any, **kwargs: Any) -> None:
    notify(user.pk, Kind.FACTOR_REMOVED, factor=authenticator.type)

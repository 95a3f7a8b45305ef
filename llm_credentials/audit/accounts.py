"""Records account events, which Django and allauth report by signals."""

from __future__ import annotations

from typing import Any

from allauth.account.signals import email_changed, password_changed, password_reset, user_signed_up
from allauth.mfa.signals import authenticator_added, authenticator_removed
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.dispatch import receiver

from llm_credentials.audit.recording import note
from llm_credentials.audit.words import Action, target_of


@receiver(user_logged_in)
def _logged_in(user: Any, **kwargs: Any) -> None:
    note(action=Action.LOGIN, actor=str(user.pk), subject=str(user.pk))


@receiver(user_logged_out)
def _logged_out(user: Any, **kwargs: Any) -> None:
    if user is not None:
        note(action=Action.LOGOUT, actor=str(user.pk), subject=str(user.pk))


@receiver(user_login_failed)
def _login_failed(credentials: dict[str, Any], **kwargs: Any) -> None:
    """Records the account's id if it exists, not the input: people type passwords into that field."""
    typed = str(credentials.get("username") or "")
    users = get_user_model()._default_manager
    found = users.filter(username=typed).first() if typed and "\0" not in typed else None
    if found is None and (email := str(credentials.get("email") or "")) and "\0" not in email:
        found = users.filter(email__iexact=email).first()
    note(action=Action.LOGIN_FAILED, actor="", subject=str(found.pk) if found else "", result="refused")


@receiver(user_signed_up)
def _signed_up(user: Any, **kwargs: Any) -> None:
    note(action=Action.ACCOUNT_CREATE, actor=str(user.pk), subject=str(user.pk))


@receiver(email_changed)
def _email_changed(user: Any, **kwargs: Any) -> None:
    """Mail about keys goes to the new address from now on. Stores neither address."""
    note(action=Action.ACCOUNT_CHANGE, actor=str(user.pk), subject=str(user.pk), target=target_of("account", "email"))


@receiver(password_changed)
@receiver(password_reset)
def _password_changed(user: Any, **kwargs: Any) -> None:
    note(action=Action.PASSWORD_CHANGE, actor=str(user.pk), subject=str(user.pk))


@receiver(authenticator_added)
def _factor_added(user: Any, authenticator: Any, **kwargs: Any) -> None:
    note(action=Action.FACTOR_ADD, subject=str(user.pk), target=target_of("factor", authenticator.type))


@receiver(authenticator_removed)
def _factor_removed(user: Any, authenticator: Any, **kwargs: Any) -> None:
    note(action=Action.FACTOR_REMOVE, subject=str(user.pk), target=target_of("factor", authenticator.type))

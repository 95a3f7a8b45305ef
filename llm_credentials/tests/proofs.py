"""Sessions in which the last proof of who is there is recent, or is not."""

from __future__ import annotations

import time

from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials.stepup import LOGGED_IN_AT

RECORDS = "account_authentication_methods"


def make_stale(client: Client) -> None:
    """As if the login, and whatever was confirmed since, lay an hour back."""
    session = client.session
    session[LOGGED_IN_AT] = time.time() - 3600
    session[RECORDS] = [{**record, "at": time.time() - 3600} for record in session.get(RECORDS, [])]
    session.save()


def prove(client: Client, user: User, method: str = "password") -> None:
    """As if the user had just given this proof (``password`` or ``mfa``)."""
    session = client.session
    session[RECORDS] = [{"method": method, "at": time.time(), "reauthenticated": True}]
    session[f"{RECORDS}_user"] = str(user.pk)
    session.save()


def proven(user: User) -> Client:
    """Logged in, with the password given again a moment ago, so that no question for it hides what comes after."""
    client = Client()
    client.force_login(user)
    prove(client, user)
    return client


def enrol(user: User) -> str:
    """Give the user an authenticator app; its secret."""
    secret = str(generate_totp_secret())
    TOTP.activate(user, secret)
    return secret


def enrol_passkey(user: User) -> None:
    """A passkey in place of the password."""
    user.set_unusable_password()
    user.save()
    Authenticator.objects.create(user=user, type="webauthn", data={"name": "Phone", "credential": {}})

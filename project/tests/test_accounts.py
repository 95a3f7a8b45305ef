"""Accounts as this site sets them up; what allauth itself does is allauth's to test."""

import base64
import os
import re
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import (
    TOTP,
    format_hotp_value,
    generate_totp_secret,
    hotp_value,
    yield_hotp_counters_from_time,
)
from django.contrib.auth.models import User
from django.core import mail
from django.core.exceptions import ValidationError
from django.test import Client

from llm_credentials import services
from project.accounts import SealingMFAAdapter
from project.tests.servers import nothing_open

pytestmark = pytest.mark.django_db
PASSWORD = "long-enough-and-odd-7"


def sign_in(client: Client, name: str = "alice", password: str = "alice-password") -> Any:
    return client.post("/accounts/login/", {"login": name, "password": password})


def code_for(secret: str) -> str:
    counters = list(yield_hotp_counters_from_time())
    return format_hotp_value(hotp_value(secret, counters[len(counters) // 2]))


def test_sign_up_needs_no_mail_address_and_signs_in(client: Client) -> None:
    form = {"username": "new", "password1": PASSWORD, "password2": PASSWORD}
    response = client.post("/accounts/signup/", form)
    assert response.status_code == 302, response.context["form"].errors
    assert client.session["_auth_user_id"] == str(User.objects.get(username="new").pk)


@pytest.mark.parametrize("password", ["short", "password", "12345678901"])
def test_sign_up_refuses_weak_passwords(client: Client, password: str) -> None:
    client.post("/accounts/signup/", {"username": "new", "password1": password, "password2": password})
    assert not User.objects.filter(username="new").exists()


@pytest.mark.parametrize("name", ["alice", "alice@example.com"])
def test_sign_in_takes_name_or_address(client: Client, alice: User, name: str) -> None:
    assert sign_in(client, name).status_code == 302


def test_sign_in_is_limited(client: Client, alice: User) -> None:
    for _ in range(11):
        response = sign_in(client, password="wrong")
    assert response.status_code == 429 or "Too many" in response.content.decode()
    assert "_auth_user_id" not in client.session
    assert sign_in(client).status_code != 302, "the right password is refused too while the door is shut"


def test_sign_in_works_without_valkey(client: Client, alice: User, settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "project.cache.ResilientRedisCache", "LOCATION": "redis://127.0.0.1:1/0"}}
    assert sign_in(client).status_code == 302
    assert client.get("/settings/llm/").status_code == 200


def test_password_reset_goes_by_mail(client: Client, alice: User) -> None:
    client.post("/accounts/password/reset/", {"email": "alice@example.com"})
    link = re.search(r"http://testserver(/accounts/password/reset/key/\S+)", mail.outbox[0].body)
    assert link
    page = client.get(link[1], follow=True)
    done = client.post(page.redirect_chain[-1][0], {"password1": PASSWORD, "password2": PASSWORD})
    assert done.status_code == 302
    assert sign_in(Client(), password=PASSWORD).status_code == 302


@pytest.mark.parametrize("verified", [True, False])
def test_password_by_mail_ends_what_a_stranger_made_before(client: Client, alice: User, verified: bool) -> None:
    """Somebody may have signed up with her address, kept a token, and waited for her keys."""
    address = EmailAddress.objects.create(user=alice, email=alice.email, primary=True, verified=verified)
    _, secret = services.token_create(user=alice)
    client.post("/accounts/password/reset/", {"email": alice.email})
    (link,) = re.findall(r"http://testserver(/accounts/password/reset/key/\S+)", str(mail.outbox[-1].body))
    form = client.get(link, follow=True)
    typed = {"password1": PASSWORD, "password2": PASSWORD}
    with nothing_open():
        assert client.post(form.redirect_chain[-1][0], typed).status_code == 302
    assert (services.token_authenticate(secret) is not None) is verified
    address.refresh_from_db()
    assert address.verified, "who read the mail has proven it"


def test_second_factor_is_asked_for_and_stored_sealed(client: Client, alice: User) -> None:
    secret = generate_totp_secret()
    TOTP.activate(alice, secret)
    stored = str(Authenticator.objects.get(user=alice).data)
    assert secret not in stored
    assert base64.b64encode(secret.encode()).decode() not in stored
    response = sign_in(client)
    assert response.headers["Location"].startswith("/accounts/2fa/authenticate/")
    assert "_auth_user_id" not in client.session
    assert client.post("/accounts/2fa/authenticate/", {"code": code_for(secret)}).status_code == 302
    assert client.session["_auth_user_id"] == str(alice.pk)


def test_second_factor_under_a_lost_ring_is_refused_in_words(client: Client, alice: User, settings: Any) -> None:
    secret = generate_totp_secret()
    TOTP.activate(alice, secret)
    settings.CREDENTIAL_KEYS = f"other:{base64.b64encode(os.urandom(32)).decode()}"
    sign_in(client)
    response = client.post("/accounts/2fa/authenticate/", {"code": code_for(secret)})
    assert response.status_code == 200
    assert "cannot be read" in response.content.decode()
    assert "_auth_user_id" not in client.session


@pytest.mark.parametrize("text", ["", "plain", "v1:t1:gAAAA", "v1:unknown:abc"])
def test_sealed_factor_of_another_making_does_not_open(text: str) -> None:
    with pytest.raises(ValidationError):
        SealingMFAAdapter().decrypt(text)


def test_sealed_api_key_does_not_open_as_a_factor() -> None:
    from llm_credentials import keyring

    with pytest.raises(ValidationError):
        SealingMFAAdapter().decrypt(keyring.ring().encrypt(b"sk-another-secret").decode())


def test_pages_of_the_second_factor_open(client: Client, alice: User) -> None:
    sign_in(client)
    assert client.get("/accounts/2fa/").status_code == 200
    # A fresh proof is asked for before a factor is added.
    response = client.get("/accounts/2fa/totp/activate/")
    assert response.status_code in (200, 302)
    if response.status_code == 302:
        assert "/accounts/reauthenticate/" in response.headers["Location"]


def test_proof_of_identity_keeps_no_posted_secret_in_the_session(client: Client, alice: User) -> None:
    sign_in(client)
    client.post("/settings/llm/openai/save/", {"api_key": "sk-canary-0123456789abcdef"})
    assert "sk-canary" not in str(dict(client.session.items()))

"""What staff allow beyond the public internet: who may, what never, and how soon a change holds."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from llm_credentials import bridge, egress, services
from llm_credentials.factory import client_for, open_client
from llm_credentials.models import AuditEvent, EgressAllowance
from llm_credentials.providers import EgressBlocked, LLMMessage
from llm_credentials.tests.factories import UserCredentialFactory
from llm_credentials.tests.proofs import proven
from project.tests.servers import wait_until

HELLO = [LLMMessage.user("hello")]


def url(page: str, *args: Any) -> str:
    return reverse(f"admin:llm_credentials_egressallowance_{page}", args=args)


@pytest.fixture
def admin_site(staff: User) -> Client:
    return proven(staff)


def form(host: str, port: object = 11434, **more: str) -> dict[str, Any]:
    return {"host": host, "port": str(port), "for_providers": "on", "note": "the lab's Ollama", **more}


# What may stand there


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("Ollama.LAN", "ollama.lan"),
        (" 192.168.7.8 ", "192.168.7.8"),
        ("192.168.7.8/24", "192.168.7.0/24"),
        ("192.168.7.8/32", "192.168.7.8"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("[FD12::0001]", "fd12::1"),
        ("fd12::/48", "fd12::/48"),
        ("::1", "::1"),
        ("localhost", "localhost"),
        ("::ffff:10.0.0.5", "10.0.0.5"),
        ("llm.example.com", "llm.example.com"),
        ("8.8.8.8", "8.8.8.8"),
    ],
)
def test_allowance_has_one_spelling(admin_site: Client, staff: User, typed: str, stored: str) -> None:
    assert admin_site.post(url("add"), form(typed)).status_code == 302
    row = EgressAllowance.objects.get()
    assert (row.host, row.port, row.added_by) == (stored, 11434, str(staff.pk))
    assert row.entry in egress.policy().allow
    again = admin_site.post(url("add"), form(stored))
    assert "allowed already" in again.text


@pytest.mark.any_database
@pytest.mark.parametrize(
    "typed",
    [
        *("169.254.169.254", "169.254.0.0/16", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"),
        *("fe80::1", "fe80::/10", "metadata.google.internal", "METADATA", "metadata.goog", "::ffff:169.254.169.254"),
        *("0.0.0.0/0", "::/0", "0.0.0.0", "::", "0/0", "*", "*.lan", "any", "10.0.0.0/7", "1.0.0.0/8", "8.8.0.0/16"),
        *("fd00::/8", "fc00::/7", "2000::/3", "2a00::/16", "100.64.0.0/10", "128.0.0.0/1", "64:ff9b::a00:1"),
        *("224.0.0.1", "255.255.255.255", "127.1", "0x7f.1", "2130706433", "user@host", "http://ollama.lan", "a b"),
        *("ollama.lan:80", "ollama.lan/v1", "fe80::1%eth0", "", " ", "①②⑦.0.0.1", "a" * 254, "a\x00b"),
    ],
)
def test_allowance_that_must_never_be_is_refused(admin_site: Client, typed: str) -> None:
    if typed != "any":  # a plain name, which the network may know
        response = admin_site.post(url("add"), form(typed))
        assert response.status_code == 200, "the form comes back with its reason"
        assert not EgressAllowance.objects.exists()
    assert not [entry for entry in egress.policy().allow if typed.strip() and typed in entry]


@pytest.mark.parametrize("port", ["0", "65536", "-1", "443x", "", "1e3", "9" * 30])
def test_allowance_needs_a_port(admin_site: Client, port: str) -> None:
    assert admin_site.post(url("add"), form("ollama.lan", port)).status_code == 200
    assert not EgressAllowance.objects.exists()


def test_allowance_for_nothing_is_refused(admin_site: Client) -> None:
    response = admin_site.post(url("add"), {"host": "ollama.lan", "port": "80", "note": ""})
    assert "Choose what it is for." in response.text
    with pytest.raises(IntegrityError), transaction.atomic():
        EgressAllowance.objects.create(host="ollama.lan", port=80, for_providers=False)


@pytest.mark.parametrize("host", ["169.254.169.254", "0.0.0.0/0", "metadata.google.internal", "not a host"])
def test_row_written_past_the_form_opens_nothing(db: None, host: str) -> None:
    EgressAllowance.objects.create(host=host, port=80)
    assert egress.policy().allow == frozenset()


def test_model_refuses_what_the_form_refuses(db: None) -> None:
    with pytest.raises(ValidationError, match="never called"):
        EgressAllowance(host="169.254.169.254", port=80).full_clean()


# Who may


def test_nobody_but_staff_with_the_permission_changes_the_list(alice: User, db: None) -> None:
    row = EgressAllowance.objects.create(host="ollama.lan", port=11434)
    clerk = User.objects.create_user("clerk", password="clerk-password", is_staff=True)
    clerk.user_permissions.add(Permission.objects.get(codename="view_egressallowance"))
    for user, status in ((alice, 302), (clerk, 403)):
        client = proven(user)
        for page in (url("add"), url("change", row.pk), url("delete", row.pk)):
            assert client.post(page, form("10.0.0.1") | {"post": "yes"}).status_code == status, page
    assert list(EgressAllowance.objects.values_list("host")) == [("ollama.lan",)]
    assert "ollama.lan" in proven(clerk).get(url("changelist")).text


def test_user_cannot_set_one_beside_a_key(alice: User) -> None:
    token = services.token_create(user=alice)[1]
    client = Client(headers={"Authorization": f"Bearer {token}"})
    fields = {
        "provider": "openai_compatible",
        "api_key": "sk-test-0123456789abcdef",
        "base_url": "http://10.0.0.1:80",
        "model": "m",
    }
    for more in ({"egress": ["10.0.0.1:80"]}, {"allow": "10.0.0.1:80"}, {"options": {"egress": "10.0.0.1:80"}}, {}):
        body = json.dumps(fields | more)
        response = client.post("/api/user/llm-credentials", body, content_type="application/json")
        assert response.status_code == 422


def test_change_needs_a_recent_proof(staff: User, client: Client, time_machine: Any) -> None:
    client.force_login(staff)
    time_machine.move_to(timezone.now() + timedelta(hours=1))
    row = EgressAllowance.objects.create(host="ollama.lan", port=11434)
    for page in (url("add"), url("change", row.pk), url("delete", row.pk)):
        asked = client.get(page)
        assert asked.status_code == 302
        assert asked["Location"].startswith(reverse("llm_credentials:step-up"))
        posted = client.post(page, form("10.0.0.1") | {"post": "yes"})
        assert posted["Location"].startswith(reverse("llm_credentials:step-up"))
    assert "10.0.0.1" not in json.dumps({key: str(value) for key, value in client.session.items()})
    assert list(EgressAllowance.objects.values_list("host")) == [("ollama.lan",)]
    assert client.get(url("changelist")).status_code == 200


def test_each_change_leaves_an_event(admin_site: Client, staff: User) -> None:
    admin_site.post(url("add"), form("ollama.lan"))
    row = EgressAllowance.objects.get()
    admin_site.post(url("change", row.pk), form("ollama.lan", for_tools="on"))
    admin_site.post(url("change", row.pk), form("10.0.0.5"))
    admin_site.post(url("delete", row.pk), {"post": "yes"})
    events = AuditEvent.objects.filter(action__startswith="egress.").order_by("at", "seq")
    assert sorted(events.values_list("action", "target", "actor")) == sorted(
        (f"egress.{action}", f"egress:{target}", str(staff.pk))
        for action, target in (
            ("allow", "ollama.lan:11434:providers"),
            ("change", "ollama.lan:11434:providers+tools"),
            ("withdraw", "ollama.lan:11434:providers+tools"),
            ("allow", "10.0.0.5:11434:providers"),
            ("withdraw", "10.0.0.5:11434:providers"),
        )
    )


def test_page_says_what_the_list_means(admin_site: Client, settings: Any) -> None:
    settings.LLM_EGRESS_ALLOW = ["10.9.8.7:8080"]
    text = admin_site.get(url("changelist")).text
    assert "What this list means" in text
    assert "10.9.8.7:8080" in text


# What a change does


def test_settings_and_rows_are_one_policy(db: None, settings: Any) -> None:
    settings.LLM_EGRESS_ALLOW = ["10.0.0.1:80"]
    EgressAllowance.objects.create(host="fd12::1", port=8080)
    EgressAllowance.objects.create(host="ollama.lan", port=11434, for_providers=False, for_tools=True)
    assert egress.policy().allow == {"10.0.0.1:80", "[fd12::1]:8080"}
    assert egress.policy("tools").allow == {"ollama.lan:11434"}


@pytest.mark.django_db(transaction=True)
def test_withdrawn_allowance_stops_the_next_call(sandbox_url: str, alice: User, settings: Any) -> None:
    """Also of a client that was made before, and while a connection is still open."""
    settings.LLM_EGRESS_ALLOW = []
    host, _, port = sandbox_url.removeprefix("http://").partition(":")
    credential = UserCredentialFactory(
        user=alice, provider="openai_compatible", key="sbx-good-alice", model="sandbox-instant", base_url=sandbox_url
    )
    client = client_for(alice, credential=credential.pk, fallback=False)
    with pytest.raises(EgressBlocked):
        bridge.run(client.complete, HELLO)
    row = EgressAllowance.objects.create(host=host, port=int(port))
    assert bridge.run(client.complete, HELLO).text
    row.delete()
    for call in (lambda: bridge.run(client.complete, HELLO), lambda: bridge.run(open_client, credential)):
        with pytest.raises(EgressBlocked):
            call()


@pytest.mark.django_db(transaction=True)
def test_change_by_another_process_holds_without_asking_each_time(
    live_as_in_production: None, django_assert_max_num_queries: Any
) -> None:
    assert egress.policy().allow == frozenset()
    with connection.cursor() as cursor:  # as another process would: no signal of this one
        cursor.execute(
            "INSERT INTO egress_allowances (id, host, port, for_providers, for_tools, note, added_by,"
            " created_at, updated_at) VALUES (%s, 'ollama.lan', 11434, %s, %s, '', '', %s, %s)",
            ["0" * 32, True, False, timezone.now(), timezone.now()],
        )
    wait_until(lambda: egress.policy().allow == {"ollama.lan:11434"}, "the new allowance")
    with django_assert_max_num_queries(5):  # at 200 questions, even when looks come late
        for _ in range(100):
            egress.policy()
            egress.policy("tools")
    EgressAllowance.objects.all().delete()
    assert egress.policy().allow == frozenset(), "at once where the change was made"

"""What happens to keys, told to open pages: read from the real site as a browser reads it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from llm_credentials import connection_tests, services
from llm_credentials.models import ConnectionTest
from llm_credentials.tests.factories import ConnectionTestFactory

PLACE = "/settings/llm/events/"
GOOD = "sbx-good-0123456789"

pytestmark = pytest.mark.django_db(transaction=True)


class Page:
    """Reads the events of one open tab on a thread of its own."""

    def __init__(self, site: str, client: Client) -> None:
        cookie = f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"
        self.reading = httpx2.stream("GET", f"{site}{PLACE}", headers={"Cookie": cookie}, timeout=20)
        self.answer = self.reading.__enter__()
        self.lines = self.answer.iter_lines()

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        name = ""
        for line in self.lines:
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))

    def until(self, wanted: str) -> dict[str, Any]:
        """The data of the first event whose name or ``seen`` begins so."""
        return next(data for name, data in self.events() if name == wanted or data.get("seen", "").startswith(wanted))

    def close(self) -> None:
        self.reading.__exit__(None, None, None)


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_two_tabs_are_told_of_a_test_to_its_end(live_site: str, alice: User, bob: User, sandbox_url: str) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=GOOD, model="sandbox-instant")
    services.credential_save(user=bob, provider="sandbox", api_key=GOOD, model="sandbox-instant")
    tabs = [Page(live_site, signed_in(alice)) for _ in range(2)]
    of_bob = Page(live_site, signed_in(bob))
    test = connection_tests.test_start(user=alice, provider="sandbox")
    first = [tab.until("queued") for tab in tabs]
    worker = threading.Thread(target=connection_tests.test_run, args=(test.pk,))
    worker.start()
    url = f"/settings/llm/tests/{test.pk}/"
    assert first[0] == first[1] == {"card": "sandbox-default", "url": url, "seen": "queued-0-0", "stored": True}
    assert [tab.until("valid")["url"] for tab in tabs] == [url, url]
    worker.join()
    own = connection_tests.test_start(user=bob, provider="sandbox")
    assert of_bob.until("test")["url"] == f"/settings/llm/tests/{own.pk}/"
    for tab in (*tabs, of_bob):
        tab.close()


def test_stream_begins_with_the_latest_test_of_each_key(live_site: str, alice: User) -> None:
    ConnectionTestFactory(user=alice, state="invalid", finished_at=timezone.now())
    newer = ConnectionTestFactory(user=alice, state="valid", finished_at=timezone.now())
    old = ConnectionTestFactory(user=alice, provider="mistral", state="valid", finished_at=timezone.now())
    ConnectionTest.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(hours=1))
    tab = Page(live_site, signed_in(alice))
    assert tab.until("test")["url"] == f"/settings/llm/tests/{newer.pk}/"
    tab.close()


def test_stream_says_that_no_worker_finished_a_test(live_site: str, alice: User) -> None:
    test = ConnectionTestFactory(user=alice, state="queued")
    ConnectionTest.objects.filter(pk=test.pk).update(created_at=timezone.now() - timedelta(seconds=61))
    tab = Page(live_site, signed_in(alice))
    assert tab.until("expired")["url"] == f"/settings/llm/tests/{test.pk}/"
    tab.close()


def test_stream_ends_with_the_session(live_site: str, alice: User) -> None:
    client = signed_in(alice)
    tab = Page(live_site, client)
    assert next(tab.lines).startswith("retry: ")
    client.post("/accounts/logout/")
    assert tab.until("end") == {}
    assert list(tab.events()) == []


def test_stream_is_limited(client: Client, alice: User, set_rate: Any) -> None:
    set_rate("stream", "user", "0/m")
    client.force_login(alice)
    assert client.get(PLACE).status_code == 429

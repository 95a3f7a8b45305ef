"""The page and the API of search services."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials import services
from llm_credentials.models import EgressAllowance, SearchCredential
from llm_credentials.tests.test_search_keys import KEY, saved

PAGE = "/settings/search/"
API = "/api/user/search-credentials"

pytestmark = pytest.mark.django_db


class _Service(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        good = self.headers.get("authorization") == f"Bearer {KEY}"
        body = json.dumps({"results": [{"url": "https://x.example/", "title": "X", "content": "x"}]} if good else {})
        self.send_response(200 if good else 401)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def service(db: Any) -> Iterator[str]:
    """A search service on this machine that takes KEY, and that staff allow."""
    server = HTTPServer(("127.0.0.1", 0), _Service)
    Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    EgressAllowance.objects.create(host="127.0.0.1", port=port, for_tools=True, for_providers=False)
    yield f"http://127.0.0.1:{port}"
    server.shutdown()
    server.server_close()


def test_page_shows_the_services_and_never_a_key(alice: User, client: Client) -> None:
    client.force_login(alice)
    assert "search nothing but this site" in client.get(PAGE).content.decode()
    saved(alice)
    text = client.get(PAGE).content.decode()
    assert "•••• ghij" in text
    assert KEY not in text
    assert "search nothing but this site" not in text


def test_page_stores_a_key_and_tests_it(alice: User, client: Client, service: str) -> None:
    client.force_login(alice)
    answer = client.post(f"{PAGE}tavily/save/", {"api_key": KEY, "base_url": service}, follow=True)
    assert "Tavily works." in answer.content.decode()
    row = SearchCredential.objects.get()
    assert (row.user, row.status, row.base_url) == (alice, "valid", service)
    answer = client.post(f"{PAGE}tavily/save/", {"api_key": "tvly-" + "n" * 20, "base_url": service}, follow=True)
    assert "Tavily refuses the key." in answer.content.decode()
    assert SearchCredential.objects.get().status == "invalid"


def test_page_says_what_is_wrong_beside_its_field_and_repeats_no_key(alice: User, client: Client) -> None:
    client.force_login(alice)
    answer = client.post(f"{PAGE}searxng/save/", {"base_url": KEY})
    assert answer.status_code == 422
    text = answer.content.decode()
    assert 'id="searxng-url-error"' in text
    assert KEY not in text
    assert client.post(f"{PAGE}bing/save/", {"api_key": KEY}).status_code == 404


def test_page_asks_for_a_proof_where_a_key_changes_and_not_to_turn_off(alice: User, client: Client) -> None:
    saved(alice)
    client.force_login(alice)
    session = client.session
    session["logged_in_at"] = 0
    session["account_authentication_methods"] = []
    session.save()
    for path, data in ((f"{PAGE}tavily/save/", {"api_key": KEY}), (f"{PAGE}tavily/remove/", {})):
        assert "/settings/security/confirm/" in client.post(path, data)["Location"]
    off = client.post(f"{PAGE}tavily/save/", {"base_url": "", "active": "off"})
    assert off["Location"] == PAGE
    assert not SearchCredential.objects.get().is_active
    assert "Confirm that it is you" in client.get(PAGE).content.decode()


def test_page_removes_ones_own_alone(alice: User, bob: User, client: Client) -> None:
    saved(alice)
    client.force_login(bob)
    assert client.post(f"{PAGE}tavily/remove/").status_code == 404
    assert client.post(f"{PAGE}tavily/test/").status_code == 404
    client.force_login(alice)
    client.post(f"{PAGE}tavily/remove/")
    assert not SearchCredential.objects.exists()


def test_page_limits_tests(alice: User, client: Client, service: str, one_minute: None) -> None:
    client.force_login(alice)
    client.post(f"{PAGE}tavily/save/", {"api_key": KEY, "base_url": service})
    answers = [client.post(f"{PAGE}tavily/test/", follow=True).content.decode() for _ in range(10)]
    assert "There were many tests just now." in answers[-1]


def test_api_stores_tests_and_removes_a_service(alice: User, bob: User, client: Client, service: str) -> None:
    _, secret = services.token_create(user=alice, scopes=["read", "credentials"])
    headers = {"Authorization": f"Bearer {secret}"}

    def ask(method: str, path: str = "", body: Any = None) -> Any:
        answer = client.generic(
            method, API + path, json.dumps(body) if body else "", "application/json", headers=headers
        )
        return answer.status_code, answer.json() if answer.content else None

    status, row = ask("POST", body={"provider": "tavily", "api_key": KEY, "base_url": service})
    assert (status, row["last4"], row["status"], row["version"]) == (201, "ghij", "unverified", 1)
    assert KEY not in json.dumps(row)
    assert ask("POST", "/tavily/test")[1]["status"] == "valid"
    assert ask("POST", body={"provider": "tavily", "is_active": False, "version": 7})[0] == 409
    assert ask("POST", body={"provider": "tavily", "is_active": False, "version": 1})[1]["is_active"] is False
    assert ask("POST", body={"provider": "tavily", "base_url": "https://elsewhere.example"})[0] == 422
    assert ask("POST", body={"provider": "bing", "api_key": KEY})[0] == 422
    assert ask("GET")[1]["count"] == 1
    saved(bob)
    assert ask("GET", "/tavily")[1]["base_url"] == service
    assert ask("DELETE", "/tavily")[0] == 204
    assert ask("GET", "/tavily")[0] == 404
    assert SearchCredential.objects.get().user == bob

import gzip
import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.test import Client, RequestFactory
from django.urls import reverse
from django_htmx.middleware import HtmxMiddleware

from llm_credentials.services import token_create
from project.middleware import HtmxRedirectMiddleware

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("path", ["/accounts/login/", "/accounts/signup/", "/healthz", "/nowhere/"])
def test_every_answer_allows_no_inline_code_and_no_frame(client: Client, path: str) -> None:
    policy = client.get(path).headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "nonce" not in policy
    for rule in ("script-src 'self'", "style-src 'self'", "img-src 'self' data:", "frame-ancestors 'none'"):
        assert rule in policy


def test_answers_keep_the_address_from_other_sites(client: Client) -> None:
    headers = client.get("/accounts/login/").headers
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"


def test_pages_come_compressed_to_whoever_can_read_that(client: Client) -> None:
    plain = client.get("/accounts/login/")
    packed = client.get("/accounts/login/", headers={"Accept-Encoding": "br, gzip"})
    assert not plain.has_header("Content-Encoding") and packed.headers["Content-Encoding"] == "gzip"
    assert b"<h1>" in gzip.decompress(packed.content) and b"<h1>" in plain.content
    assert len(packed.content) == int(packed.headers["Content-Length"]) < len(plain.content) / 2
    for response in (plain, packed):
        assert "Accept-Encoding" in response.headers["Vary"]


def test_what_is_no_page_comes_as_it_is(client: Client) -> None:
    asked = client.get("/api/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert len(asked.content) > 1024 and not asked.has_header("Content-Encoding")


@pytest.mark.parametrize("given", ["0af7651916cd43dd8448eb211c80319c", "trace_1.2-abc"])
def test_request_id_is_taken_over(client: Client, given: str) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": given}).headers["X-Request-ID"] == given


@pytest.mark.parametrize(
    "given", ["", "short", "x" * 65, "with space 123", "line\nbreak-12", "<script>alert()</script>"]
)
def test_request_id_that_is_none_is_replaced(client: Client, given: str) -> None:
    made = client.get("/healthz", headers={"X-Request-ID": given}).headers["X-Request-ID"]
    assert re.fullmatch(r"[0-9a-f]{32}", made)


def redirected(rf: RequestFactory, target: str, **headers: str) -> HttpResponse:
    def answer(request: HttpRequest) -> HttpResponse:
        response = HttpResponseRedirect(target)
        response.set_cookie("kept", "1")
        return response

    request = rf.get("/settings/llm/openai/card/", headers=headers)
    HtmxMiddleware(lambda request: HttpResponse())(request)
    response: HttpResponse = HtmxRedirectMiddleware(answer)(request)
    return response


def test_htmx_request_that_must_sign_in_moves_the_whole_page_back_to_where_it_was(rf: RequestFactory) -> None:
    response = redirected(
        rf,
        "/accounts/login/?next=/settings/llm/openai/card/",
        **{"HX-Request": "true", "HX-Current-URL": "http://testserver/settings/llm/?x=1"},
    )
    assert response.status_code == 200
    assert response.headers["HX-Redirect"] == "/accounts/login/?next=%2Fsettings%2Fllm%2F%3Fx%3D1"
    assert "kept" in response.cookies


def test_htmx_request_follows_other_redirects(rf: RequestFactory) -> None:
    response = redirected(rf, "/settings/llm/", **{"HX-Request": "true"})
    assert response.headers["Location"] == "/settings/llm/"


def test_plain_request_is_redirected_plainly(rf: RequestFactory) -> None:
    assert redirected(rf, "/accounts/login/?next=/x/").status_code == 302


def test_admin_login_goes_through_the_accounts_pages(client: Client) -> None:
    response = client.get("/admin/login/")
    assert response.status_code == 302
    assert response.headers["Location"].startswith("/accounts/login/")


def test_admin_is_closed_to_those_who_are_not_staff(client: Client, alice: User) -> None:
    client.force_login(alice)
    assert client.get("/admin/login/").status_code == 403


# What every answer says


@pytest.mark.parametrize(
    "path", ["/", "/accounts/login/", "/healthz", "/nowhere/", "/api/docs", "/admin/", "/api/none"]
)
def test_every_answer_has_every_header(client: Client, path: str) -> None:
    headers = client.get(path).headers
    for name, value in {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Frame-Options": "DENY",
    }.items():
        assert headers[name] == value, name
    assert "Content-Security-Policy" in headers
    assert "no-store" in headers["Cache-Control"]
    features = headers["Permissions-Policy"]
    assert "camera=()" in features
    assert "publickey-credentials-get=(self)" in features


@pytest.mark.parametrize("page", ["home", "llm_credentials:provider-list", "agents:agent-list", "mfa_index"])
def test_pages_of_a_person_stay_in_no_cache(client: Client, alice: User, page: str) -> None:
    client.force_login(alice)
    assert "no-store" in client.get(reverse(page), follow=True).headers["Cache-Control"]


def test_api_answers_stay_in_no_cache(alice: User) -> None:
    program = Client(headers={"Authorization": f"Bearer {token_create(user=alice)[1]}"})
    for path in ("/api/user/llm-credentials", "/api/user/audit-events", "/api/user/llm-credentials/openai"):
        assert "no-store" in program.get(path).headers["Cache-Control"]


def test_static_files_may_be_kept(client: Client) -> None:
    assert "no-store" not in client.get("/static/css/keyswitch.css").headers["Cache-Control"]


def test_production_speaks_tls_only(client: Client, settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_HSTS_SECONDS = 31_536_000
    settings.SECURE_HSTS_INCLUDE_SUBDOMAINS = settings.SECURE_HSTS_PRELOAD = True
    settings.SESSION_COOKIE_SECURE = settings.CSRF_COOKIE_SECURE = True
    fresh = Client()
    assert fresh.get("/accounts/login/").status_code == 301
    answer = fresh.get("/accounts/login/", secure=True)
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains; preload"
    cookie = answer.cookies["csrftoken"]
    assert (cookie["secure"], cookie["httponly"], cookie["samesite"]) == (True, True, "Lax")


def test_session_cookie_is_out_of_reach_of_scripts(client: Client, alice: User) -> None:
    answer = client.post("/accounts/login/", {"login": "alice", "password": "alice-password"})
    cookie = answer.cookies["sessionid"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["domain"]) == (True, "Lax", "/", "")


@pytest.mark.parametrize("path", ["/accounts/login/%00", "/settings/llm/%00/", "/?q=%00", "/admin/?x=a%00b"])
def test_nul_in_an_address_is_refused(client: Client, path: str) -> None:
    assert client.get(path).status_code == 400


def test_keys_and_passwords_are_not_filled_in_by_browsers(client: Client, staff: User) -> None:
    client.force_login(staff)
    pages = [reverse("llm_credentials:provider-list"), reverse("admin:llm_credentials_systemcredential_add")]
    pages.append(reverse("llm_credentials:credential-edit", args=["openai"]))
    found = []
    for page in pages:
        for field in re.findall(r"<input[^>]*>", client.get(page).text):
            if "password" in field or "api_key" in field:
                found.append(field)
                assert re.search(r'autocomplete="(off|new-password)"', field), field
                assert not re.search(r'\svalue="[^"]', field), field
    assert found

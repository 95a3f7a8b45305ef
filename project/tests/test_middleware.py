import re

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.test import Client, RequestFactory
from django_htmx.middleware import HtmxMiddleware

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

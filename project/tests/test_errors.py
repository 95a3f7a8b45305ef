from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import include, path
from django_ratelimit.exceptions import Ratelimited

from project import errors, urls

PROBLEMS = {
    400: SuspiciousOperation("x"),
    403: PermissionDenied(),
    429: Ratelimited(),
    500: RuntimeError("sk-canary-0123456789"),
    503: OperationalError("connection to server at postgres://user:hunter2hunter2@host failed"),
}


def fail(request: HttpRequest, status: int) -> HttpResponse:
    raise PROBLEMS[status]


urlpatterns = [
    path("fail/<int:status>/", fail),
    path("api/fail/<int:status>", fail),
    path("", include(urls)),
]
handler400, handler403, handler404, handler500 = urls.handler400, urls.handler403, urls.handler404, urls.handler500

pytestmark = pytest.mark.urls(__name__)


@pytest.fixture
def calm_client() -> Client:
    """Answers as a server does where the test client would raise."""
    return Client(raise_request_exception=False)


@pytest.mark.parametrize("status", sorted(PROBLEMS))
def test_problem_has_a_page_of_its_own(calm_client: Client, status: int) -> None:
    response = calm_client.get(f"/fail/{status}/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert response.status_code == status
    assert response.headers["Content-Type"].startswith("text/html")
    body = response.content.decode()
    assert "canary" not in body
    assert "hunter2" not in body
    assert "Traceback" not in body


@pytest.mark.parametrize("status", [429, 503])
def test_passing_problem_says_when_to_come_again(calm_client: Client, status: int) -> None:
    assert int(calm_client.get(f"/fail/{status}/").headers["Retry-After"]) > 0


@pytest.mark.parametrize("status", sorted(PROBLEMS))
def test_program_gets_json(calm_client: Client, status: int) -> None:
    for response in (
        calm_client.get(f"/api/fail/{status}/"),
        calm_client.get(f"/fail/{status}/", headers={"Accept": "application/json"}),
    ):
        assert response.status_code == status
        error = response.json()["error"]
        assert (error["message"], error["where"]) == (errors._WORDS[status], None)
        assert error["code"].isidentifier()


@pytest.mark.parametrize("path", ["/fail/503/", "/api/fail/503"])
def test_busy_database_is_no_fault_of_the_code_with_debug_either(
    calm_client: Client, settings: Any, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    settings.DEBUG = True
    response = calm_client.get(path)
    assert response.status_code == 503
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [OperationalError]
    assert "hunter2" not in response.content.decode()


def test_fault_of_the_code_shows_its_traceback_with_debug(calm_client: Client, settings: Any) -> None:
    settings.DEBUG = True
    assert b"Traceback" in calm_client.get("/fail/500/").content


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("debug", [False, True])
def test_busy_database_is_a_503_of_the_api_too(
    calm_client: Client, alice: User, settings: Any, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    def busy(self: Any, user: Any) -> Any:
        raise OperationalError("database is locked")

    monkeypatch.setattr("llm_credentials.models.credentials.UserCredentialQuerySet.for_user", busy)
    settings.DEBUG = debug
    calm_client.force_login(alice)
    response = calm_client.get("/api/user/llm-credentials")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    assert response.headers["Retry-After"] == "5"


@pytest.mark.django_db
def test_missing_page_is_404(calm_client: Client) -> None:
    response = calm_client.get("/nowhere/")
    assert response.status_code == 404
    assert response.headers["Content-Type"].startswith("text/html")

"""The whole OpenAPI document, held against what the API really answers, as two users at once: every check there is."""

from __future__ import annotations

import re
from typing import Any

import pytest
import schemathesis
from django.contrib.auth.models import User
from django.contrib.staticfiles.finders import find
from django.core.wsgi import get_wsgi_application
from django.test import Client
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode

from llm_credentials import services

EXAMPLES = 2
"""Of each kind (good and bad input), operation and run."""
MANY_EXAMPLES = 12
GOOD_INPUT_GETS = ["2xx", "3xx", "401", "403", "404", "409", "429", "5xx"]
"""As the check has it by default: what the document describes is taken, or not there, not allowed, not now."""
HELD_TO_IT = (
    *("/api/providers", "/api/settings", "/api/usage", "/api/user/account", "/api/user/alert", "/api/user/audit"),
    *("/api/user/budget", "/api/user/key-order", "/api/user/llm-credentials", "/api/user/llm-routes"),
    *("/api/user/llm-settings", "/api/user/removed", "/api/user/security", "/api/user/task-overrides"),
    *("/api/user/tokens", "/api/user/webhook"),
)
"""Elsewhere the document says in words what a text, a file or a time must be, and good input may get 422, too."""


@pytest.fixture
def unlimited(settings: Any) -> None:
    """Or all but the first answers would be the same."""
    settings.LLM_RATES = {kind: {} for kind in settings.LLM_RATES}


@pytest.fixture
def document(unlimited: None, sandbox_url: str, alice: User, bob: User) -> Any:
    services.credential_save(user=alice, provider="sandbox", api_key="sbx-good-CANARY-0123456789")
    found = schemathesis.openapi.from_wsgi("/api/openapi.json", get_wsgi_application())
    # No worker runs here, which is what a test that is waited for then says.
    # What breaks a limit of length may be too large to be read at all.
    refused = found.config.checks.negative_data_rejection
    refused.expected_statuses = [*refused.expected_statuses, "413"]
    found.config.checks.not_a_server_error.expected_statuses = ["2xx", "3xx", "4xx", "503"]
    return found


def _hold(document: Any, users: list[User], examples: int) -> None:
    headers = [{"Authorization": f"Bearer {services.token_create(user=user)[1]}"} for user in users]
    failures = []
    for result in document.get_all_operations():
        operation = result.ok()
        in_words = not operation.path.startswith(HELD_TO_IT)
        document.config.checks.positive_data_acceptance.expected_statuses = GOOD_INPUT_GETS + ["422"] * in_words
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                _hold_operation(operation, mode, headers, examples)
            except FailureGroup as found:
                failures += [f"{operation.label}: {each}" for each in found.exceptions]
    assert not failures, "\n\n".join(failures)


def _hold_operation(operation: Any, mode: GenerationMode, headers: list[dict[str, str]], examples: int) -> None:
    @given(case=operation.as_strategy(generation_mode=mode), who=st.sampled_from(headers))
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def hold(case: Any, who: dict[str, str]) -> None:
        case.call_and_validate(headers=who)

    hold()


@pytest.mark.django_db(transaction=True)
def test_api_answers_as_its_document_says(document: Any, alice: User, bob: User) -> None:
    _hold(document, [alice, bob], EXAMPLES)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_api_answers_many_requests_as_its_document_says(document: Any, alice: User, bob: User) -> None:
    _hold(document, [alice, bob], MANY_EXAMPLES)


def test_docs_page_asks_nobody_else(client: Client) -> None:
    page = client.get("/api/docs").content.decode()
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) >= {"/static/ninja/swagger-ui-bundle.js"}
    assert not re.search(r'(?:src|href)="(?!/static/)', page)
    assert not re.search(r"<script(?![^>]*(?:src=|application/json))|\sstyle=|\son\w+=", page)
    for path in re.findall(r'(?:src|href)="/static/([^"]*)"', page):
        assert find(path), path


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
def test_unknown_address_answers_in_the_shape_of_errors(client: Client, method: str) -> None:
    for path in ("/api/nowhere", "/api/user/nowhere", "/api/user/tokens/no-uuid"):
        response = getattr(client, method)(path)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def test_slash_at_the_end_of_an_address_is_no_other_address(client: Client, alice: User) -> None:
    client.force_login(alice)
    for path in ("/api/user/llm-credentials", "/api/providers", "/api/openapi.json"):
        plain, mended = client.get(path), client.get(f"{path}/")
        assert (plain.status_code, mended.status_code, mended.content) == (200, 200, plain.content), path
    assert client.get("/api/docs/").status_code == 200
    for path in ("/api", "/api/", "/api//", "/api/nowhere/"):
        response = client.post(path)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found"), path


def test_wrong_method_answers_in_the_shape_of_errors(client: Client) -> None:
    response = client.put("/api/user/llm-credentials")
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")
    assert "GET" in response.headers["Allow"]

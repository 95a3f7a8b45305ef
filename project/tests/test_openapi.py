"""The whole OpenAPI document, held against what the API really answers, as two users and staff, with every check."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import schemathesis
from django.contrib.auth.models import User
from django.contrib.staticfiles.finders import find
from django.core.wsgi import get_wsgi_application
from django.test import Client
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ninja import Schema
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth

from llm_credentials import services
from llm_credentials.api import api
from llm_credentials.api import document as document_module

EXAMPLES = 1
"""Of each kind (good and bad input), operation and run."""
MANY_EXAMPLES = 3
THOROUGH_EXAMPLES = 60
"""With ``pytest --thorough``, and others in each run."""
GOOD_INPUT_GETS = ["2xx", "3xx", "401", "403", "404", "409", "429", "5xx"]
"""As the check has it by default: what the document describes is taken, or not there, not allowed, not now."""
IN_WORDS = (
    *("POST /api/user/llm-transfer", "POST /api/user/llm-transfer/keys", "POST /api/attachments"),
    *("POST /api/agents/{agent}/runs", "POST /api/schedules", "POST /api/tool-servers"),
    *("POST /api/user/search-credentials", "POST /api/user/expenses"),
)
"""What is good hangs here on files, on what stands in a pasted text, on an agent's own fields, or on sums that agree:
the document says so in words, and input that is good as far as a schema can tell may get 422, too."""


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


def _hold(document: Any, users: list[User], examples: int, *, anew: bool = False, without: Sequence[Any] = ()) -> None:
    """``anew``: with other examples than the last time."""
    headers = [{"Authorization": f"Bearer {services.token_create(user=user)[1]}"} for user in users]
    failures = []
    for result in document.get_all_operations():
        operation = result.ok()
        in_words = operation.label in IN_WORDS
        document.config.checks.positive_data_acceptance.expected_statuses = GOOD_INPUT_GETS + ["422"] * in_words
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                _hold_operation(operation, mode, headers, examples, anew=anew, without=without)
            except FailureGroup as found:
                failures.append(f"{operation.label}: {found}")
    assert not failures, "\n\n".join(failures)


def _hold_operation(
    operation: Any,
    mode: GenerationMode,
    headers: list[dict[str, str]],
    examples: int,
    *,
    anew: bool,
    without: Sequence[Any],
) -> None:
    @given(case=operation.as_strategy(generation_mode=mode), who=st.sampled_from(headers))
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=not anew,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def hold(case: Any, who: dict[str, str]) -> None:
        case.call_and_validate(headers=who, excluded_checks=without)

    hold()


@pytest.mark.django_db(transaction=True)
def test_api_answers_as_its_document_says(document: Any, alice: User, bob: User, staff: User) -> None:
    _hold(document, [alice, bob, staff], EXAMPLES)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_api_answers_many_requests_as_its_document_says(
    document: Any, alice: User, bob: User, staff: User, pytestconfig: pytest.Config
) -> None:
    anew = pytestconfig.getoption("thorough")
    # That nobody comes in without a token is asked once for each operation, by the test above.
    known = [] if anew else [ignored_auth]
    _hold(document, [alice, bob, staff], THOROUGH_EXAMPLES if anew else MANY_EXAMPLES, anew=anew, without=known)


def test_document_is_put_together_once_for_all_who_ask(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_module, "KEPT_S", 600.0)
    first = api.get_openapi_schema()
    assert api.get_openapi_schema() is first
    assert client.get("/api/openapi.json").json()["paths"].keys() == first["paths"].keys()
    monkeypatch.setattr(document_module, "KEPT_S", 0.0)
    assert api.get_openapi_schema() is not first


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


def test_no_two_shapes_have_one_name(client: Client) -> None:
    """In the document one would stand for both."""
    assert client.get("/api/openapi.json").status_code == 200  # which loads them all
    shapes: dict[str, set[str]] = {}
    for module in (value for name, value in sys.modules.items() if ".api" in name):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Schema):
                shapes.setdefault(value.__name__, set()).add(value.__module__)
    assert [name for name, modules in shapes.items() if len(modules) > 1] == []


BROKEN_BODIES = [
    (b'{"a":', "application/json"),
    (b'{"a": "\xff"}', "application/json"),
    (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "application/json"),
    (b'{"a": "\\u0000"}', "application/json"),
    (b'{"a": ' + b"9" * 5_000 + b"}", "application/json"),
    (b"[]", "application/json"),
    (b"<a/>", "application/xml"),
    (b"--x\r\nbroken", "multipart/form-data; boundary=x"),
]


def test_broken_bodies_are_refused_in_the_shape_of_errors(unlimited: None, alice: User) -> None:
    token = services.token_create(user=alice)[1]
    client = Client(headers={"authorization": f"Bearer {token}"}, raise_request_exception=False)
    document = client.get("/api/openapi.json").json()
    wrong, number = [], 0
    for path, operations in document["paths"].items():
        asked = re.sub(r"\{\w+\}", "0190b5c4-0000-7000-8000-000000000000", path)
        for method in operations.keys() & {"post", "put", "patch"}:
            if "requestBody" not in operations[method]:
                continue
            body, kind = BROKEN_BODIES[number % len(BROKEN_BODIES)]
            number += 1
            response = client.generic(method.upper(), asked, body, content_type=kind)
            shaped = response.headers["Content-Type"].startswith("application/json") and "error" in response.json()
            if not 400 <= response.status_code < 500 or not shaped:
                wrong.append((method, path, body[:20], response.status_code))
    assert number > len(BROKEN_BODIES)
    assert not wrong

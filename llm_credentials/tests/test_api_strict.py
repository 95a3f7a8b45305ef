"""What the API makes of bodies and addresses that nobody should send: a code, a text and the place, never a 500."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from django.contrib.auth.models import User
from django.test import Client
from ninja.params.models import BodyModel
from pydantic import BaseModel
from pydantic import ValidationError as PydanticError

from llm_credentials import services
from llm_credentials.api import api
from llm_credentials.models import UserCredential

ROOT = "/api/user/llm-credentials"
GOOD = {"provider": "sandbox", "api_key": "sbx-good-strict"}


@pytest.fixture
def program(alice: User, sandbox_url: str, settings: Any) -> Client:
    settings.LLM_RATE_TEST_USER = "1000/m"
    return Client(headers={"Authorization": f"Bearer {services.token_create(user=alice)[1]}"})


def error_of(response: Any) -> dict[str, Any]:
    assert response["Content-Type"].startswith("application/json"), response.content
    assert response["Cache-Control"].startswith("no-store")
    error = response.json()["error"]
    assert set(error) == {"code", "message", "where"}
    assert error["code"] and error["message"].endswith((".", "»"))
    return dict(error)


def post(client: Client, body: bytes | str, path: str = "", content_type: str = "application/json") -> Any:
    return client.post(ROOT + path, body, content_type=content_type)


DEEP = 10_000
BODIES: dict[str, tuple[bytes | str, int]] = {
    "nothing closed": ("{", 400),
    "two values": ('{"a": 1}{"b": 2}', 400),
    "array for object": ("[1]", 400),
    "text for object": ('"x"', 400),
    "null for object": ("null", 400),
    "NaN": ('{"priority": NaN}', 400),
    "infinity": ('{"priority": Infinity}', 400),
    "1e999": ('{"priority": 1e999}', 400),
    "5,000 digits": ('{"priority": ' + "9" * 5000 + "}", 400),
    "2 to the 63": ('{"priority": 9223372036854775808}', 422),
    "20 digits": ('{"priority": 99999999999999999999}', 422),
    "deep lists": ('{"options": ' + "[" * DEEP + "]" * DEEP + "}", 400),
    "deep objects": ('{"a":' * DEEP + "1" + "}" * DEEP, 400),
    "just too deep": ('{"a":' * 40 + "1" + "}" * 40, 400),
    "a name twice": ('{"provider": "sandbox", "api_key": "sbx-good-1", "api_key": "sbx-good-2"}', 400),
    "a name twice inside": ('{"provider": "sandbox", "options": {"a": "1", "a": "2"}}', 400),
    "NUL in a text": ('{"provider": "sandbox", "model": "a\\u0000b"}', 422),
    "NUL in a name": ('{"pro\\u0000vider": "sandbox"}', 422),
    "lone surrogate": ('{"model": "\\ud800"}', 400),
    "lone surrogate in a name": ('{"\\udfff": "x"}', 400),
    "not UTF-8": (b'{"model": "\xff\xfe"}', 400),
    "UTF-16": ('{"provider": "sandbox"}'.encode("utf-16"), 400),
    "byte order mark": (b'\xef\xbb\xbf{"provider": "sandbox"}', 400),
    "gzip": (b"\x1f\x8b\x08\x00", 400),
    "empty object": ("{}", 422),
    "unknown field": (json.dumps(GOOD | {"verified": True}), 422),
    "more than 1 MiB": ('{"model": "' + "x" * 1_100_000 + '"}', 413),
    "more than 5 MiB": (b'{"model": "' + b"x" * 6_000_000 + b'"}', 413),
    "5,000 names": (json.dumps({f"n{n}": n for n in range(5_000)}), 422),
}


@pytest.mark.any_database
@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ["", "/sandbox/test"])
def test_bad_body_is_refused_in_words(program: Client, name: str, path: str) -> None:
    body, status = BODIES[name]
    response = post(program, body, path)
    if path and name == "empty object":
        assert response.status_code == 404, "nothing is stored that could be tested"
        return
    assert response.status_code == status, response.content[:300]
    assert len(response.content) < 500, "what was sent is not sent back"
    error_of(response)
    assert not UserCredential.objects.exists()


@pytest.mark.any_database
@pytest.mark.parametrize(
    "content_type",
    [
        *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml"),
        *("application/json-patch+json", "text/json", "application/jsonx", "application/x-python-pickle"),
    ],
)
def test_other_content_is_not_read(program: Client, content_type: str) -> None:
    response = post(program, json.dumps(GOOD), content_type=content_type)
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_media_type"


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("priority", value) for value in ("5", True, 5.5, [5], {"a": 5}, 10_001, -1, "")),
        *(("is_active", value) for value in ("true", "yes", 1, 0, 1.0, [True], "")),
        *(
            (name, value)
            for name in ("provider", "name", "model", "base_url")
            for value in (5, True, ["x"], {"a": "b"})
        ),
        *(("options", value) for value in ("x", [], {"a": 1}, {"a": None}, {"a": {"b": "c"}}, 5)),
        ("api_key", ["sbx-good-strict"]),
    ],
)
def test_value_of_another_type_is_refused_at_its_place(program: Client, field: str, value: Any) -> None:
    response = post(program, json.dumps(GOOD | {field: value}))
    assert response.status_code == 422, response.content
    assert str(error_of(response)["where"]).startswith(f"body.{field}")
    assert not UserCredential.objects.exists()


@pytest.mark.any_database
@pytest.mark.parametrize(
    "field",
    [
        *("owner", "user", "user_id", "id", "is_default", "verified", "status", "cost", "key_ciphertext", "last4"),
        *("fingerprint", "version", "request_count", "created_at", "tested_at", "is_staff", "__class__"),
    ],
)
def test_nobody_assigns_what_is_not_theirs_to_say(program: Client, bob: User, field: str) -> None:
    response = post(program, json.dumps(GOOD | {field: bob.pk}))
    assert response.status_code == 422
    assert not UserCredential.objects.exists()


@pytest.mark.any_database
@pytest.mark.parametrize("method", ["put", "patch", "options", "trace", "delete"])
@pytest.mark.parametrize("path", ["/user/llm-credentials", "/user/audit-events"])
def test_wrong_method_is_answered_in_the_apis_shape(program: Client, method: str, path: str) -> None:
    response = getattr(program, method)(f"/api{path}")
    assert response.status_code == 405
    assert error_of(response)["code"] == "method_not_allowed"
    assert "GET" in response["Allow"]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/api/nothing", 404),
        ("/api/user/llm-credentials/%00", 400),
        ("/api/user/llm-credentials?name=%00", 400),
        ("/api/user/llm-credentials/sandbox?name=a%00b", 400),
        ("/api/user/llm-credentials/sandbox?name=" + "x" * 100_000, 422),
        ("/api/user/llm-credentials/available-models/" + "x" * 5000, 422),
        ("/api/user/llm-credentials/%F0%9F%92%A9", 404),
        ("/api/user/llm-credentials/tests/not-a-uuid", 404),
        ("/api/user/audit-events?page=1000000000000", 422),
        ("/api/user/audit-events?page=-1", 422),
        ("/api/user/audit-events?page=NaN", 422),
        ("/api/user/audit-events?page_size=1000000000", 422),
        ("/api/user/audit-events?page=" + "9" * 5000, 422),
        ("/api/user/audit-events?page=1&page=2", 200),
        ("/api/user/audit-events?q=" + "%25" * 100, 200),
        ("/api/user/audit-events?api_key__startswith=s&ordering=api_key", 200),
    ],
)
def test_odd_address_is_bounded(program: Client, address: str, status: int) -> None:
    response = program.get(address)
    assert response.status_code == status, response.content[:300]
    if status >= 400:
        error_of(response)
        assert len(response.content) < 500


def _body_models() -> set[type[BaseModel]]:
    """Of every operation of the API."""
    found: set[type[BaseModel]] = set()

    def look(annotation: Any) -> None:
        for part in get_args(annotation):
            look(part)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in found:
            found.add(annotation)
            for field in annotation.model_fields.values():
                look(field.annotation)

    for _, router in api._routers:
        for view in router.path_operations.values():
            for operation in view.operations:
                for model in operation.models:
                    if issubclass(model, BodyModel):
                        look(model)
    return {model for model in found if not issubclass(model, BodyModel)}


def _kinds(annotation: Any) -> set[Any]:
    """What stands in it, however deep."""
    own = annotation if isinstance(annotation, type) else None
    return {own}.union(*(_kinds(part) for part in get_args(annotation)))


WRONG = {int: ("5", True, 5.5), bool: ("true", 1, "on"), float: ("0.5", True)}
TYPED = [
    (model, name, wrong)
    for model in sorted(_body_models(), key=lambda model: model.__name__)
    for name, field in model.model_fields.items()
    for kind in _kinds(field.annotation) & WRONG.keys()
    for wrong in WRONG[kind]
]


def test_bodies_of_the_api_are_found() -> None:
    assert {"priority", "is_active"} <= {name for _, name, _ in TYPED}


@pytest.mark.parametrize(("model", "name", "wrong"), TYPED)
def test_every_number_and_flag_of_the_api_is_one(model: type[BaseModel], name: str, wrong: Any) -> None:
    """Also of bodies to come: none takes "5" or true for a number, or 1 for a flag."""
    with pytest.raises(PydanticError) as caught:
        model.model_validate({name: wrong})
    assert name in {error["loc"][0] for error in caught.value.errors()}, f"{name} takes {wrong!r}: use Whole or Flag"

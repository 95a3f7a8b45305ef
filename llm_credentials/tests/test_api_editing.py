"""Two who change the same key, waiting for a test, and the models of a key that is not saved."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User

from llm_credentials import services
from llm_credentials.models import ConnectionTest, UserCredential
from llm_credentials.tests.test_api_credentials import GOOD, Program, error_of, program, token_of

__all__ = ["program"]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def etag(program: Program, alice: User) -> str:
    services.credential_save(user=alice, provider="sandbox", api_key=GOOD)
    return str(program.call("get", "/sandbox")["ETag"])


def _if(etag: str) -> dict[str, Any]:
    return {"headers": {"If-Match": etag}}


def test_second_of_two_editors_is_told_and_nothing_is_lost(program: Program, alice: User, etag: str) -> None:
    first = program.call("patch", "/sandbox", {"model": "sandbox-fast"}, **_if(etag))
    assert (first.status_code, first["ETag"] != etag) == (200, True)
    for method, path, body in (
        ("patch", "/sandbox", {"priority": 7}),
        ("patch", "/sandbox", {"api_key": GOOD + "2", "test_first": True}),
        ("delete", "/sandbox", b""),
        ("post", "", {"provider": "sandbox", "priority": 7}),
    ):
        refused = program.call(method, path, body, **_if(etag))
        assert refused.status_code == 412, method
        assert error_of(refused)["code"] == "precondition_failed"
    row = UserCredential.objects.for_user(alice).get()
    assert (row.model, row.priority, row.version) == ("sandbox-fast", 100, 2)
    assert not ConnectionTest.objects.exists()
    again = program.call("patch", "/sandbox", {"priority": 7}, **_if(first["ETag"]))
    assert (again.status_code, again.json()["priority"]) == (200, 7)
    assert program.call("delete", "/sandbox", **_if(f'"other", {again["ETag"]}')).status_code == 204


def test_two_editors_at_once_have_one_effect(alice: User, etag: str, sandbox_url: str) -> None:
    token = token_of(alice)

    def change(priority: int) -> int:
        response = Program(token).call("patch", "/sandbox", {"priority": priority}, **_if(etag))
        return int(response.status_code)

    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(pool.map(change, [11, 12, 13, 14]))
    assert statuses == [200, 412, 412, 412]
    assert UserCredential.objects.for_user(alice).get().version == 2


def test_star_matches_what_is_there_and_nothing_else(program: Program, etag: str) -> None:
    assert program.call("patch", "/sandbox", {"priority": 3}, **_if("*")).status_code == 200
    assert (
        program.call("post", body={"provider": "groq", "api_key": "gsk_0123456789abc"}, **_if("*")).status_code == 412
    )
    assert not UserCredential.objects.filter(provider="groq").exists()


def test_etag_of_a_removed_key_does_not_match_the_one_stored_after_it(program: Program, etag: str) -> None:
    program.call("delete", "/sandbox")
    assert program.call("patch", "/sandbox", {"priority": 3}, **_if(etag)).status_code == 404
    program.call("post", body={"provider": "sandbox", "api_key": GOOD})
    assert program.call("delete", "/sandbox", **_if(etag)).status_code == 412


def test_etag_of_another_users_key_opens_nothing(program: Program, bob: User, etag: str) -> None:
    response = Program(token_of(bob)).call("delete", "/sandbox", **_if(etag))
    assert (response.status_code, "ETag" in response) == (404, False)
    services.credential_save(user=bob, provider="sandbox", api_key=GOOD)
    assert Program(token_of(bob)).call("delete", "/sandbox", **_if(etag)).status_code == 412


def test_test_is_waited_for(program: Program, etag: str, celery_worker_thread: Any) -> None:
    response = program.call("post", "/sandbox/test?wait=10")
    assert (response.status_code, response.json()["state"]) == (200, "valid")


def test_test_that_no_worker_takes_says_so(program: Program, etag: str) -> None:
    response = program.call("post", "/sandbox/test?wait=0.1")
    assert (response.status_code, response["Retry-After"]) == (503, "5")
    error = error_of(response)
    assert error["code"] == "no_worker"
    assert program.client.get(error["where"]).json()["state"] == "queued"


@pytest.mark.parametrize("wait", ["-1", "11", "nan", "x", "1e999"])
def test_wait_is_bounded(program: Program, etag: str, wait: str) -> None:
    assert program.call("post", f"/sandbox/test?wait={wait}").status_code == 422
    assert not ConnectionTest.objects.exists()


def test_models_of_an_unsaved_key_are_listed_and_nothing_is_kept(program: Program, alice: User) -> None:
    response = program.call("post", "/available-models/sandbox", {"api_key": GOOD})
    assert response.json()["source"] == "provider"
    assert GOOD not in response.content.decode()
    assert not UserCredential.objects.exists()
    assert not ConnectionTest.objects.exists()


def test_patch_changes_model_priority_and_whether_it_is_used(program: Program, etag: str) -> None:
    body = program.call("patch", "/sandbox", {"model": "sandbox-fast", "priority": 9, "is_active": False}).json()
    assert (body["model"], body["priority"], body["is_active"], body["test"]) == ("sandbox-fast", 9, False, None)

"""Posts with an ``Idempotency-Key`` while Valkey is away, and what is left of one that was broken off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import RequestFactory
from ninja import Schema

from llm_credentials import valkey
from llm_credentials.api import idempotency
from llm_credentials.api.errors import ApiError
from llm_credentials.api.idempotency import once
from project.tests.test_cache import OwnValkey


class Done(Schema):
    number: int


class Post:
    """A post that counts how often it took effect."""

    def __init__(self, user: User) -> None:
        self.user, self.effects = user, 0

    def send(self, key: str | None = "k", body: bytes = b"{}", during: Any = lambda: None) -> tuple[int, Any, bool]:
        request: Any = RequestFactory().post("/api/x", body, content_type="application/json")
        request.user = self.user
        response = HttpResponse()

        def act() -> tuple[int, Done]:
            self.effects += 1
            during()
            return 202, Done(number=self.effects)

        try:
            found = once(request, key, response, act)
        except ApiError as error:
            return error.status, error.code, False
        body_given = found.value if isinstance(found.value, dict) else found.value.model_dump()
        return found.status_code, body_given, idempotency.REPLAYED in response


@pytest.fixture
def server(settings: Any) -> Iterator[OwnValkey]:
    with TemporaryDirectory(prefix="ks-") as directory:
        own = OwnValkey(Path(directory))
        settings.REDIS_URL = f"unix://{own.path}"
        own.start()
        yield own
        own.stop()
    valkey.client.cache_clear()


@pytest.fixture
def post(alice: User) -> Post:
    return Post(alice)


def test_while_valkey_is_away_nothing_is_done_and_it_goes_on_when_it_is_back(post: Post, server: OwnValkey) -> None:
    assert post.send() == (202, {"number": 1}, False)
    server.stop()
    assert post.send() == (503, "idempotency_unavailable", False)
    assert post.send("new") == (503, "idempotency_unavailable", False)
    assert post.send(None) == (202, {"number": 2}, False)
    server.start()
    assert post.send("new")[:2] == (202, {"number": 3})
    assert post.send("new") == (202, {"number": 3}, True)


def test_answer_that_could_not_be_kept_is_given_but_never_made_again(
    post: Post, server: OwnValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: Any, **__: Any) -> Any:
        raise redis.ConnectionError

    with monkeypatch.context() as patch:
        answered = post.send(during=lambda: patch.setattr(redis.Redis, "set", lose))
    assert answered == (202, {"number": 1}, False)
    assert post.send() == (409, "idempotency_under_way", False)
    monkeypatch.setattr(idempotency, "UNDER_WAY_S", 0)
    assert post.send() == (409, "idempotency_broken_off", False)
    assert post.effects == 1
    assert post.send("another")[0] == 202


def test_answer_lies_in_valkey_sealed_for_its_place(post: Post, bob: User, server: OwnValkey) -> None:
    assert post.send()[:2] == (202, {"number": 1})
    raw = redis.Redis(unix_socket_path=str(server.path))
    (slot,) = raw.scan_iter("keyswitch:idempotency:*")
    kept: Any = raw.get(slot)
    assert b"number" not in kept
    theirs = Post(bob)
    theirs.send()
    (other,) = {*raw.scan_iter("keyswitch:idempotency:*")} - {slot}
    raw.set(other, kept)
    assert theirs.send()[1] == "idempotency_broken_off", "another's answer, put into this place"
    assert theirs.effects == 1
    assert post.send() == (202, {"number": 1}, True)


def test_refused_post_may_be_sent_again(post: Post) -> None:
    def refuse() -> None:
        raise ApiError(429, "rate_limited", "Too often.")

    assert post.send(during=refuse) == (429, "rate_limited", False)
    assert post.send() == (202, {"number": 2}, False)
    assert post.send(body=b'{"a": 1}') == (422, "idempotency_key_reused", False)


def test_claim_whose_answer_was_lost_is_known_again(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    real, lost = redis.Redis.set, []

    def lose_once(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = real(self, *args, **kwargs)
        if not lost:
            lost.append(True)
            raise redis.TimeoutError
        return given

    monkeypatch.setattr(redis.Redis, "set", lose_once)
    assert post.send() == (202, {"number": 1}, False)

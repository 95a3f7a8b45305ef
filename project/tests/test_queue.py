"""What lies in the queue that nobody of this site put there: refused, and the worker goes on."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from django.contrib.auth.models import User

from llm_credentials.models import ConnectionTest
from llm_credentials.tasks import connection_test
from llm_credentials.tests.factories import ConnectionTestFactory
from project.celery import app
from project.tests.servers import wait_until


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def message(body: bytes, content_type: str, task: str = connection_test.name, encoding: str = "utf-8") -> bytes:
    """As it lies in the queue."""
    identity = str(uuid4())
    headers = {"task": task, "id": identity, "root_id": identity, "lang": "py", "argsrepr": "", "kwargsrepr": ""}
    delivery = {"exchange": "", "routing_key": "celery"}
    properties = {"body_encoding": "base64", "delivery_tag": identity, "delivery_mode": 2, "delivery_info": delivery}
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-type": content_type,
            "content-encoding": encoding,
            "headers": headers,
            "properties": {**properties, "correlation_id": identity, "reply_to": "", "priority": 0},
        }
    ).encode()


def test_queue_takes_json_alone() -> None:
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == "json"


@pytest.mark.parametrize(
    "kind",
    ["pickle", "pickle said to be JSON", "yaml", "unknown task", "arguments of another shape", "huge", "not a message"],
)
def test_message_that_nobody_sent_does_no_harm(
    alice: User, valkey_url: str, celery_worker_thread: Any, tmp_path: Path, kind: str
) -> None:
    mark = tmp_path / "mark"
    bomb = pickle.dumps(((Bomb(mark),), {}, {}))
    yaml = f"!!python/object/apply:pathlib.Path.touch [{mark}]".encode()
    arguments: Any = [[{"a": ["b"]}, 5, None], {"other": 1}, {}]
    with redis.Redis.from_url(valkey_url) as client:
        bad = {
            "pickle": message(bomb, "application/x-python-serialize", encoding="binary"),
            "pickle said to be JSON": message(bomb, "application/json"),
            "yaml": message(yaml, "application/x-yaml"),
            "unknown task": message(json.dumps([[], {}, {}]).encode(), "application/json", task="os.system"),
            "arguments of another shape": message(json.dumps(arguments).encode(), "application/json"),
            "huge": message(json.dumps([["x" * 3_000_000], {}, {}]).encode(), "application/json"),
            "not a message": message(b"\x00\xff", "application/json"),
        }
        client.lpush("celery", bad[kind])
    test = ConnectionTestFactory(user=alice, key=None, state="queued", provider="openai", base_url="https://[::1]/")
    connection_test.delay(str(test.pk))
    wait_until(lambda: ConnectionTest.objects.get(pk=test.pk).is_finished, "the test that follows it")
    assert not mark.exists()


@pytest.mark.parametrize("times", [3])
def test_message_given_out_again_has_one_effect(
    alice: User, valkey_url: str, celery_worker_thread: Any, times: int
) -> None:
    test = ConnectionTestFactory(user=alice, key=None, state="queued", provider="openai", base_url="https://[::1]/")
    for _ in range(times):
        connection_test.delay(str(test.pk))
    wait_until(lambda: ConnectionTest.objects.get(pk=test.pk).is_finished, "the test")
    finished_at = ConnectionTest.objects.get(pk=test.pk).finished_at
    last = ConnectionTestFactory(user=alice, key=None, state="queued", provider="mistral", base_url="https://[::1]/")
    connection_test.delay(str(last.pk))
    wait_until(lambda: ConnectionTest.objects.get(pk=last.pk).is_finished, "the last in the queue")
    assert ConnectionTest.objects.get(pk=test.pk).finished_at == finished_at

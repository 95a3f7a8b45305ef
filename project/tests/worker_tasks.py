"""A task for the tests of the worker: it runs until it is let go, and writes down what becomes of it."""

import time

from celery import shared_task

from project.health import valkey

DIARY = "test:diary"
LET_GO = "test:let-go"


@shared_task(name="project.tests.wait")
def wait(limit_s: float = 60) -> None:
    with valkey() as client:
        client.rpush(DIARY, "begun")
        end = time.monotonic() + limit_s
        while not client.exists(LET_GO) and time.monotonic() < end:
            time.sleep(0.05)
        client.rpush(DIARY, "done")

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.test import Client

from agents.tests.live import SandboxJournal
from project.celery import app


@pytest.fixture
def browser(client: Client, alice: User) -> Client:
    """alice's, logged in."""
    client.force_login(alice)
    return client


@pytest.fixture
def journal(sandbox_url: str) -> SandboxJournal:
    """What the sandbox was asked since the test began."""
    journal = SandboxJournal(sandbox_url)
    journal.reset()
    return journal


@pytest.fixture
def no_queue(valkey_url: str) -> Iterator[None]:
    """The broker's address leads nowhere."""

    def move(url: str) -> None:
        app.conf.broker_url = app.conf.broker_write_url = app.conf.broker_read_url = url
        app._pool = app.amqp._producer_pool = None

    here = app.conf.broker_url
    move("redis://127.0.0.1:1/0")
    yield
    move(here)

"""The fixtures that every other test leans on."""

import socket
import urllib.request

import pytest
from celery import shared_task
from django.core.cache import cache

from project.tests import servers

_seen: list[int] = []


@shared_task(name="project.tests.note")
def note(number: int) -> None:
    _seen.append(number)


@pytest.mark.parametrize("host", ["93.184.215.14", "10.0.0.1", "169.254.169.254", "2606:4700::1111"])
def test_wall_refuses_addresses_of_other_machines(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client, pytest.raises(servers.OutsideWorld):
        client.connect((host, 443))


def test_wall_looks_no_names_up() -> None:
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("example.com", 443)
    assert socket.getaddrinfo("localhost", 443)


def test_live_site_answers(live_site: str) -> None:
    with urllib.request.urlopen(f"{live_site}/healthz") as answer:
        assert answer.status == 200


def test_celery_worker_thread_runs_a_task_that_came_through_valkey(celery_worker_thread: object) -> None:
    note.delay(7)
    servers.wait_until(lambda: 7 in _seen, "the task")


def test_cache_is_shared_and_empty_for_each_test() -> None:
    assert cache.get("left") is None
    cache.set("left", 1)
    assert cache.incr("left") == 2


def test_sandbox_url_allows_its_own_port_alone(sandbox_url: str, settings: object) -> None:
    from django.conf import settings as site_settings

    assert [sandbox_url.removeprefix("http://")] == site_settings.LLM_EGRESS_ALLOW
    assert sandbox_url == site_settings.SANDBOX_URL

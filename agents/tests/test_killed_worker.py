"""Worker processes that are killed while they do a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection

from agents import runs, tasks
from agents.models import AgentRun, RunState
from agents.tests.live import SandboxJournal, sandbox_key
from project.env import BASE_DIR
from project.tests.servers import wait_until

pytestmark = pytest.mark.slow


class Workers:
    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celery", "-A", "project", "worker", "--concurrency=1", "--loglevel=WARNING"]
        worker = subprocess.Popen(command, env=self.environment, cwd=BASE_DIR, start_new_session=True)
        self.started.append(worker)
        return worker

    def stop(self) -> None:
        for worker in self.started:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


@pytest.fixture
def workers(transactional_db: Any, journal: SandboxJournal, settings: Any) -> Iterator[Workers]:
    if connection.vendor != "sqlite":
        pytest.skip("one pass is enough")
    environment = {
        "PATH": os.environ["PATH"],
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "DEBUG": "true",
        "SECRET_KEY": settings.SECRET_KEY,
        "CREDENTIAL_KEYS": settings.CREDENTIAL_KEYS,
        "DATABASE_URL": f"sqlite:///{connection.settings_dict['NAME']}",
        "REDIS_URL": settings.REDIS_URL,
        "SANDBOX_URL": settings.SANDBOX_URL,
        "LLM_EGRESS_ALLOW": ",".join(settings.LLM_EGRESS_ALLOW),
    }
    found = Workers(environment)
    yield found
    found.stop()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def has_output(run: AgentRun) -> bool:
    run.refresh_from_db()
    return "10" in run.output


def is_done(run: AgentRun) -> bool:
    run.refresh_from_db()
    return run.state == RunState.DONE


def kill_what_works(workers: Workers, worker: subprocess.Popen[bytes]) -> None:
    for child in children(worker.pid):
        os.kill(child, signal.SIGKILL)


def kill_the_whole_worker(workers: Workers, worker: subprocess.Popen[bytes]) -> None:
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    workers.start()


def test_run_of_a_killed_worker_is_finished_once(workers: Workers, alice: User, journal: SandboxJournal) -> None:
    sandbox_key(alice, model="sandbox-chat~delay=30")
    worker = workers.start()
    for calls, kill in ((2, kill_what_works), (4, kill_the_whole_worker)):
        run = runs.run_create(user=alice, agent="conversation", text="count to 120")
        tasks.enqueue_run(run)
        wait_until(partial(has_output, run), "some output", 30)
        kill(workers, worker)
        wait_until(partial(is_done, run), "the run to be done", 60)
        assert run.attempts == 2
        assert run.output.count("120") == 1
        assert len(journal.chats()) == calls

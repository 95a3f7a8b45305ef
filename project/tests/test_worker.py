"""What becomes of a running task when its worker stops, as the supervisor stops it."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import redis

from project.celery import app
from project.embedded import valkey_command
from project.env import BASE_DIR
from project.health import WORKERS
from project.processes import Child
from project.tests.checkout import bare_environment
from project.tests.servers import wait_until
from project.tests.worker_tasks import DIARY, LET_GO, wait

pytestmark = pytest.mark.slow
QUEUE = "celery"


class Workers:
    """Real workers on the test's own Valkey."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.valkey = redis.Redis.from_url(url)
        self.children: list[Child] = []

    def start(self) -> Child:
        environment = bare_environment(
            SECRET_KEY="x" * 50, LOCAL="true", REDIS_URL=self.url, DATABASE_URL=f"sqlite:///{self.folder}/db.sqlite3"
        )
        options = ["-I", "project.tests.worker_tasks", "--concurrency", "1", "--without-mingle", "--without-gossip"]
        command = [sys.executable, "-m", "celery", "-A", "project", "worker", *options]
        log = self.folder / f"worker-{len(self.children)}.log"
        child = Child("worker", command, log=log, env=environment, cwd=BASE_DIR)
        self.children.append(child)
        wait_until(lambda: self.valkey.zcard(WORKERS), "a worker", limit_s=60)
        return child

    @property
    def diary(self) -> list[str]:
        return [line.decode() for line in self.valkey.lrange(DIARY, 0, -1)]

    @property
    def queued(self) -> int:
        """How often the task waits in the queue; others may wait there too."""
        messages = [json.loads(message) for message in self.valkey.lrange(QUEUE, 0, -1)]
        return sum(message["headers"]["task"] == wait.name for message in messages)

    def let_go(self) -> None:
        self.valkey.set(LET_GO, 1)


@pytest.fixture
def workers(tmp_path: Path, valkey_url: str) -> Iterator[Workers]:
    made = Workers(tmp_path, valkey_url)
    yield made
    for child in made.children:
        child.kill_all()


def test_worker_that_is_asked_to_stop_ends_its_task_first(workers: Workers) -> None:
    worker = workers.start()
    wait.delay()
    wait_until(lambda: workers.diary == ["begun"], "the task's begin")
    worker.send(signal.SIGTERM)
    wait_until(lambda: not workers.valkey.zcard(WORKERS), "the worker's sign-off")
    workers.let_go()
    assert worker.process.wait(20) == 0
    assert workers.diary == ["begun", "done"]
    assert workers.queued == 0


def test_task_that_takes_too_long_for_a_stop_is_given_out_again(workers: Workers) -> None:
    worker = workers.start()
    wait.delay()
    wait_until(lambda: workers.diary == ["begun"], "the task's begin")
    worker.send(signal.SIGTERM)
    worker.send(signal.SIGQUIT)
    worker.process.wait(20)
    wait_until(lambda: workers.queued == 1, "the task's return to the queue")
    workers.let_go()
    workers.start()
    wait_until(lambda: workers.diary == ["begun", "begun", "done"], "the task's second run")


def test_killed_worker_leaves_no_process_that_goes_on(workers: Workers) -> None:
    worker = workers.start()
    wait.delay()
    wait_until(lambda: workers.diary == ["begun"], "the task's begin")
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait(20)
    session = worker.process.pid
    wait_until(lambda: not _lives(session), "the pool's end")
    assert workers.diary == ["begun"]


def test_worker_outlives_its_broker(tmp_path: Path) -> None:
    with TemporaryDirectory(prefix="ks-") as folder:
        broker = Path(folder) / "valkey.sock"
        valkey = Child(
            "valkey", valkey_command(Path(folder), socket=broker), log=tmp_path / "v.log", env={}, cwd=tmp_path
        )
        workers = Workers(tmp_path, f"unix://{broker}")
        try:
            wait_until(lambda: _answers(workers.valkey), "Valkey")
            worker = workers.start()
            with app.connection_for_write(f"redis+socket://{broker}") as connection:
                wait.apply_async(connection=connection, countdown=60)
            wait_until(lambda: workers.valkey.hlen("unacked") > 0, "the task's arrival")
            os.kill(valkey.process.pid, signal.SIGKILL)
            wait_until(lambda: "Trying again in" in worker.log.read_text(), "the worker's search for its broker")
            valkey.start_again()
            wait_until(lambda: _answers(workers.valkey), "Valkey")
            workers.valkey.delete(WORKERS)
            wait_until(lambda: workers.valkey.zcard(WORKERS), "a sign of life", limit_s=20)
            assert worker.running
            _refuses_what_is_done(workers, f"redis+socket://{broker}")
            assert worker.running
        finally:
            valkey.kill_all()
            for child in workers.children:
                child.kill_all()


def _refuses_what_is_done(workers: Workers, broker: str) -> None:
    """As one whose disk is full: it is there, and writes nothing down when a task is done."""
    with app.connection_for_write(broker) as connection:
        wait.apply_async(connection=connection)
    wait_until(lambda: workers.diary == ["begun"], "the task's begin", limit_s=60)
    with workers.valkey.pipeline() as both:
        both.set(LET_GO, 1)
        both.config_set("min-replicas-to-write", 1)
        both.execute()
    log = workers.children[0].log
    wait_until(lambda: "NOREPLICAS" in log.read_text(), "the refusal", limit_s=60)
    workers.valkey.config_set("min-replicas-to-write", 0)
    with app.connection_for_write(broker) as connection:
        wait.apply_async(connection=connection)
    wait_until(lambda: workers.diary[-1] == "done", "the next task's end", limit_s=60)


def _answers(valkey: redis.Redis) -> bool:
    try:
        return bool(valkey.ping())
    except redis.RedisError:
        return False


def _lives(session: int) -> bool:
    """Whether any process of this session is left."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            return True
    return False


def test_broker_that_is_away_is_noticed_at_once() -> None:
    with app.connection_for_write("redis://127.0.0.1:1/0") as gone, pytest.raises(wait.OperationalError):
        wait.apply_async(connection=gone)

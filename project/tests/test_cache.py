"""The cache with its server there, gone, and back."""

import pickle
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import redis
from django.test import RequestFactory
from django_ratelimit.core import get_usage

from llm_credentials import limits
from project import cache as module
from project.cache import ResilientRedisCache
from project.embedded import valkey_command
from project.tests.servers import valkey_answers, wait_until


class OwnValkey:
    """A server that the test may stop and start again at the same address."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "v.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = valkey_command(self.directory, socket=self.path, durable=False)
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(lambda: valkey_answers(self.path), "Valkey")

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.path.unlink(missing_ok=True)


@pytest.fixture
def server() -> Iterator[OwnValkey]:
    with TemporaryDirectory(prefix="ks-") as directory:
        own = OwnValkey(Path(directory))
        own.start()
        yield own
        own.stop()


@pytest.fixture
def resilient(server: OwnValkey, monkeypatch: pytest.MonkeyPatch) -> ResilientRedisCache:
    monkeypatch.setattr(module, "ASK_AGAIN_AFTER_S", 0.1)
    return ResilientRedisCache(f"unix://{server.path}", {"KEY_PREFIX": "t"})


def test_cache_goes_on_in_memory_while_the_server_takes_nothing_down(
    resilient: ResilientRedisCache, server: OwnValkey
) -> None:
    """As with a full disk: it answers, and refuses what it could not keep."""
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        client.config_set("min-replicas-to-write", 1)
        resilient.set("a", 2)
        assert resilient.incr("a") == 3
        client.config_set("min-replicas-to-write", 0)
    wait_until(lambda: (resilient.set("b", 1), resilient.get("a"))[1] is None, "the server again")


def test_cache_goes_on_in_memory_while_the_server_is_away(resilient: ResilientRedisCache, server: OwnValkey) -> None:
    resilient.set("a", 1)
    server.stop()
    assert resilient.get("a") is None
    resilient.set("a", 2)
    assert resilient.incr("a") == 3
    assert resilient.add("a", 9) is False
    assert resilient.get_many(["a", "b"]) == {"a": 3}
    assert resilient.touch("a") is True
    assert resilient.has_key("a") is True
    assert resilient.set_many({"b": 1}) == []
    resilient.delete_many(["b"])
    assert resilient.delete("a") is True
    resilient.clear()


def test_cache_heals_by_itself(resilient: ResilientRedisCache, server: OwnValkey) -> None:
    server.stop()
    resilient.set("a", "of this process")
    server.start()

    def back() -> bool:
        resilient.set("a", "shared")
        return redis.Redis(unix_socket_path=str(server.path)).exists("t:1:a") == 1

    wait_until(back, "the cache to write to the server again")


def test_cache_asks_a_dead_server_once_in_a_while_only(resilient: ResilientRedisCache, server: OwnValkey) -> None:
    server.stop()
    resilient.get("a")
    resilient._outage._ask_at = time.monotonic() + 60
    server.start()
    resilient.set("a", 1)
    assert redis.Redis(unix_socket_path=str(server.path)).exists("t:1:a") == 0


def test_cache_incr_of_a_missing_key_is_an_error_either_way(resilient: ResilientRedisCache, server: OwnValkey) -> None:
    with pytest.raises(ValueError, match="not found"):
        resilient.incr("missing")
    server.stop()
    with pytest.raises(ValueError, match="not found"):
        resilient.incr("missing")


class _Pwned:
    """What unpickling it would do."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_nothing_that_lies_in_the_server_is_run(
    resilient: ResilientRedisCache, server: OwnValkey, tmp_path: Path
) -> None:
    """Whoever can write there gets data into the site, and no program."""
    mark = tmp_path / "mark"
    raw = redis.Redis(unix_socket_path=str(server.path))
    raw.set("t:1:a", pickle.dumps(_Pwned(mark)))
    raw.set("t:1:b", "[" * 100_000)
    raw.set("t:1:c", "9" * 100_000)
    assert [resilient.get(name, "nothing") for name in "abc"] == ["nothing"] * 3
    assert resilient.get_many("abc") == {}
    assert not mark.exists()


@pytest.mark.parametrize("value", [0, -3, True, 1.5, "12", "", "ü😀", [1.5, "a", None], {"a": [True]}])
def test_data_comes_back_as_it_was(resilient: ResilientRedisCache, value: Any) -> None:
    resilient.set("a", value)
    found = resilient.get("a")
    assert (found, type(found)) == (value, type(value))


def test_what_is_no_data_is_refused_when_it_is_kept(resilient: ResilientRedisCache) -> None:
    with pytest.raises(TypeError):
        resilient.set("a", {1, 2})


def test_cache_clear_leaves_the_queue_alone(resilient: ResilientRedisCache, server: OwnValkey) -> None:
    client = redis.Redis(unix_socket_path=str(server.path))
    client.lpush("celery", "a task")
    resilient.set_many({str(number): number for number in range(1200)})
    resilient.clear()
    assert client.keys("*") == [b"celery"]


def test_ratelimit_counts_on_without_the_server(rf: RequestFactory, settings: Any, server: OwnValkey) -> None:
    settings.CACHES = {
        "default": {"BACKEND": "project.cache.ResilientRedisCache", "LOCATION": f"unix://{server.path}"},
    }
    server.stop()
    request = rf.get("/")

    def usage() -> dict[str, Any]:
        return get_usage(request, group="test", key="ip", rate="1/m", increment=True)

    assert usage()["should_limit"] is False
    assert usage()["should_limit"] is True


def test_limit_counts_on_when_the_server_goes_between_two_questions(
    settings: Any, server: OwnValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CACHES = {
        "default": {"BACKEND": "project.cache.ResilientRedisCache", "LOCATION": f"unix://{server.path}"},
    }
    assert limits.use("goes", "alice", "2/h") is not None
    increase = ResilientRedisCache.incr

    def goes(self: ResilientRedisCache, *args: Any, **kwargs: Any) -> int:
        server.stop()
        return increase(self, *args, **kwargs)

    monkeypatch.setattr(ResilientRedisCache, "incr", goes)
    usage = limits.use("goes", "alice", "2/h")
    assert usage is not None and usage.remaining == 1

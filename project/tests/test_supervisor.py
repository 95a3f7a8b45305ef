"""``manage.py up`` as a person meets it: in a folder of its own, with nothing running."""

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from project.tests.checkout import Site, copy_checkout, processes_in
from project.tests.servers import free_port, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for a Unix socket in it, as most people's folders are."""
    with TemporaryDirectory(prefix="ks-") as directory:
        yield Path(directory)


@pytest.fixture
def sites() -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(directory: Path, port: Any = None) -> Site:
        made.append(Site(directory, port))
        return made[-1]

    yield make
    for site in made:
        site.wipe_out()


def child_of(site: Site, word: str) -> int:
    """The process id of the supervisor's own child whose command has this word: not of that one's children."""
    assert site.process
    for line in processes_in(site.directory):
        process_id = line.split()[0]
        parent = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[1]
        if word in line and int(parent) == site.process.pid:
            return int(process_id)
    raise AssertionError(f"no {word} runs")


def nothing_left(directory: Path) -> None:
    try:
        wait_until(lambda: not processes_in(directory), "the end of all processes", limit_s=15)
    except TimeoutError:
        assert processes_in(directory) == []


def test_up_carries_a_site_over_its_own_end_and_its_childrens_to_a_clean_stop(
    folder: Path, sites: Callable[..., Site]
) -> None:
    """Two checkouts side by side: the second folder's name is too long for a Unix socket in it."""
    one, other = copy_checkout(folder / "one"), copy_checkout(folder / ("other" * 20))
    first, beside = sites(one), sites(other)
    first.begin()
    beside.begin()
    first.wait_ready()
    beside.wait_ready()
    look_at_the_first_start(first)
    secrets = (one / ".env").read_text()
    assert beside.get("/readyz")[0] == 200
    beside.send(signal.SIGTERM)
    assert beside.wait_end() == 0
    nothing_left(other)

    again = sites(one)
    again.begin()
    assert again.wait_end(30) == 1
    assert "already runs in this folder" in again.said
    assert first.get("/readyz")[0] == 200

    first.send(signal.SIGKILL)
    first.wait_end()
    nothing_left(one)

    second = sites(one, free_port())
    second.start()
    assert "changepassword demo" in second.said
    assert "password " not in second.said.replace("changepassword ", "")
    kill_children(second)
    second.send(signal.SIGINT)
    assert second.wait_end() == 0
    nothing_left(one)
    assert not (one / ".run/env").exists()
    assert (one / ".env").read_text() == secrets


def look_at_the_first_start(site: Site) -> None:
    status, state = site.get("/readyz")
    assert (status, state["ready"], state["degraded"]) == (200, True, False)
    assert len(re.findall(r"sign in as (?:demo|staff) +password \S{8,}", site.said)) == 2
    assert f"http://localhost:{site.port}/" in site.said
    # Limits count by the visitor's address: it must reach the application.
    assert re.search(r'127\.0\.0\.1:\d+ - "GET /readyz', (site.directory / ".run/web.log").read_text())
    assert (site.directory / ".env").stat().st_mode & 0o777 == 0o600
    shown = site.manage("shell", "-v", "0", "-c", "from django.conf import settings; print(settings.SANDBOX_URL)")
    assert shown.stdout.strip().startswith("http://127.0.0.1:"), shown.stderr


def kill_children(site: Site) -> None:
    """The site goes on without them, says so, and starts them again."""
    killed = {word: child_of(site, word) for word in ("celery", "valkey-server", "sandbox_provider")}
    for process_id in killed.values():
        os.kill(process_id, signal.SIGKILL)
    wait_until(lambda: site.get("/readyz")[1]["broker"] == "down", "the site without its broker")
    status, state = site.get("/readyz")
    assert (status, state["ready"], state["degraded"]) == (200, True, True)
    wait_until(lambda: not site.get("/readyz")[1]["degraded"], "everything's return", limit_s=60)
    assert all(child_of(site, word) != process_id for word, process_id in killed.items())
    assert re.search(r"The worker stopped \(killed by signal 9\); it is started again", site.said)


def test_up_refuses_a_port_that_is_taken_or_none_in_one_line(folder: Path, sites: Callable[..., Site]) -> None:
    checkout = copy_checkout(folder / "a")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        refused = [(other.getsockname()[1], "taken"), ("99999", "PORT must be"), ("zero", "PORT must be")]
        for port, said in refused:
            site = sites(checkout, port)
            site.begin()
            assert site.wait_end(30) == 1, port
            assert [line for line in site.said.splitlines() if said in line], port
            assert "Traceback" not in site.said, port
            nothing_left(checkout)

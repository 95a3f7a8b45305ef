"""``manage.py up`` as a person meets it: in a folder of its own, with nothing running."""

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

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

    def make(directory: Path, port: int | None = None) -> Site:
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


def test_up_starts_a_site_that_ctrl_c_ends_and_the_next_start_finds_in_order(
    folder: Path, sites: Callable[..., Site]
) -> None:
    checkout = copy_checkout(folder / "a")
    first = sites(checkout)
    first.start()
    status, state = first.get("/readyz")
    assert (status, state["ready"], state["degraded"]) == (200, True, False)
    assert len(re.findall(r"sign in as (?:demo|staff) +password \S{8,}", first.said)) == 2
    assert f"http://localhost:{first.port}/" in first.said
    # Limits count by the visitor's address: it must reach the application.
    assert re.search(r'127\.0\.0\.1:\d+ - "GET /readyz', (checkout / ".run/web.log").read_text())
    assert (checkout / ".env").stat().st_mode & 0o777 == 0o600
    secrets = (checkout / ".env").read_text()

    shown = first.manage("shell", "-v", "0", "-c", "from django.conf import settings; print(settings.SANDBOX_URL)")
    assert shown.stdout.strip().startswith("http://127.0.0.1:"), shown.stderr

    first.send(signal.SIGINT)
    assert first.wait_end() == 0
    nothing_left(checkout)
    assert not (checkout / ".run/env").exists()

    second = sites(checkout)
    second.start()
    assert "changepassword demo" in second.said
    assert "password " not in second.said.replace("changepassword ", "")
    assert (checkout / ".env").read_text() == secrets
    second.send(signal.SIGTERM)
    assert second.wait_end() == 0
    nothing_left(checkout)


def test_up_runs_side_by_side_in_two_checkouts_but_once_in_each(folder: Path, sites: Callable[..., Site]) -> None:
    # The second folder's name is too long for a Unix socket in it.
    one, other = copy_checkout(folder / "one"), copy_checkout(folder / ("other" * 20))
    running, beside = sites(one), sites(other)
    running.begin()
    beside.begin()
    running.wait_ready()
    beside.wait_ready()
    assert running.get("/readyz")[0] == beside.get("/readyz")[0] == 200

    again = sites(one)
    again.begin()
    assert again.wait_end(30) == 1
    assert "already runs in this folder" in again.said
    assert running.get("/readyz")[0] == 200

    running.send(signal.SIGTERM)
    beside.send(signal.SIGTERM)
    assert running.wait_end() == beside.wait_end() == 0
    nothing_left(one)
    nothing_left(other)


def test_up_refuses_a_taken_port_in_one_line(folder: Path, sites: Callable[..., Site]) -> None:
    checkout = copy_checkout(folder / "a")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        site = sites(checkout, other.getsockname()[1])
        site.begin()
        assert site.wait_end(30) == 1
    assert [line for line in site.said.splitlines() if "taken" in line]
    assert "Traceback" not in site.said
    nothing_left(checkout)


@pytest.mark.parametrize("port", ["99999", "zero"])
def test_up_refuses_what_is_no_port(folder: Path, sites: Callable[..., Site], port: str) -> None:
    site = sites(copy_checkout(folder / "a"))
    site.port = port  # type: ignore[assignment]
    site.begin()
    assert site.wait_end(30) == 1
    assert "PORT must be" in site.said
    assert "Traceback" not in site.said


def test_up_killed_leaves_no_process_and_no_lock(folder: Path, sites: Callable[..., Site]) -> None:
    checkout = copy_checkout(folder / "a")
    killed = sites(checkout)
    killed.start()
    killed.send(signal.SIGKILL)
    killed.wait_end()
    nothing_left(checkout)

    after = sites(checkout, free_port())
    after.start()
    after.send(signal.SIGTERM)
    assert after.wait_end() == 0


def test_up_goes_on_without_what_was_killed_and_starts_it_again(folder: Path, sites: Callable[..., Site]) -> None:
    checkout = copy_checkout(folder / "a")
    site = sites(checkout)
    site.start()
    killed = {word: child_of(site, word) for word in ("celery", "valkey-server", "sandbox_provider")}
    for process_id in killed.values():
        os.kill(process_id, signal.SIGKILL)
    wait_until(lambda: site.get("/readyz")[1]["broker"] == "down", "the site without its broker")
    status, state = site.get("/readyz")
    assert (status, state["ready"], state["degraded"]) == (200, True, True)
    wait_until(lambda: not site.get("/readyz")[1]["degraded"], "everything's return", limit_s=60)
    assert all(child_of(site, word) != process_id for word, process_id in killed.items())
    assert re.search(r"The worker stopped \(killed by signal 9\); it is started again", site.said)
    site.send(signal.SIGTERM)
    assert site.wait_end() == 0
    nothing_left(checkout)

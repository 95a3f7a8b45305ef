"""Two hundred users on pages and API at once, and a thousand connection tests queued at once: errors, times, fairness.

make prove PART=load
python -m benchmarks.prove.load [--quick] [--only pages|turns]

Two web processes and two workers on PostgreSQL and Valkey. A user reads a page, waits between half a second and a
second and a half, and reads the next. CPU use per kind of process shows which is the bottleneck. Rate limits are
lifted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import aiohttp
import psutil

from benchmarks.parts.site import Person, Site, ask, running_site
from benchmarks.prove.report import Line, print_lines, to_its_end
from project.tests import servers

PAGES = {
    "providers": "/settings/llm/",
    "one provider": "/settings/llm/openai/",
    "routing": "/settings/llm/routing/",
    "usage": "/settings/llm/usage/",
    "tokens": "/settings/llm/tokens/",
    "security": "/settings/security/",
    "agents": "/agents/",
    "runs": "/runs/",
    "comparison": "/providers/compare/",
}
CALLS = {
    "API: keys": "/api/user/llm-credentials",
    "API: settings": "/api/user/llm-settings",
    "API: usage": "/api/usage",
    "API: providers": "/api/providers",
}
STEPS = (25, 50, 100, 200)
THINK_S = (0.5, 1.5)
DELAY_LIMIT_S = 5.0


@dataclass
class Seen:
    took_ms: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(map(len, self.took_ms.values()))


def pages(site: Site, people: list[Person], seconds: float) -> Iterator[Line]:
    print(f"  {'users':>5} {'a second':>9} {'p50 ms':>8} {'p95 ms':>8} {'errors':>7}  busy (1 = one core)")
    for users in [step for step in STEPS if step <= len(people)]:
        seen, busy = asyncio.run(_users(site, people[:users], seconds))
        took = [each for kind in seen.took_ms.values() for each in kind]
        p50, p95 = _p50_p95(took)
        shares = ", ".join(f"{kind} {share:.2f}" for kind, share in busy.items())
        rate, errors = seen.count / seconds, sum(seen.errors.values())
        print(f"  {users:>5} {rate:>9.1f} {p50:>8.0f} {p95:>8.0f} {errors:>7}  {shares}", flush=True)
    for kind, each in seen.took_ms.items():
        p50, p95 = _p50_p95(each)
        print(f"  {kind:<16} {len(each):>5} answers   p50 {p50:>6.0f} ms   p95 {p95:>6.0f} ms", flush=True)
    yield Line(f"errors with {users} users: 0", f"{seen.errors or 0} of {seen.count:,} answers", not seen.errors)


def _p50_p95(values: list[float]) -> tuple[float, float]:
    cut = statistics.quantiles(values, n=20) if len(values) > 1 else [*values * 19]
    return cut[9], cut[18]


async def _users(site: Site, people: list[Person], seconds: float) -> tuple[Seen, dict[str, float]]:
    seen, end = Seen(), time.monotonic() + seconds
    before, began = _cpu_s(site), time.monotonic()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        await asyncio.gather(*(_user(session, site, person, seen, end) for person in people))
    elapsed = time.monotonic() - began
    return seen, {kind: (used - before[kind]) / elapsed for kind, used in _cpu_s(site).items()}


async def _user(session: aiohttp.ClientSession, site: Site, person: Person, seen: Seen, end: float) -> None:
    chance = random.Random(person.name)
    await asyncio.sleep(chance.random() * THINK_S[1])
    while time.monotonic() < end:
        kind, path = chance.choice([*PAGES.items(), *CALLS.items()])
        headers = {"cookie": person.cookie} if kind in PAGES else person.bearer
        began = time.monotonic()
        try:
            url = f"http://127.0.0.1:{chance.choice(site.ports)}{path}"
            async with session.get(url, headers=headers, allow_redirects=False) as answer:
                await answer.read()
                what = "" if answer.status == 200 else f"{kind}: {answer.status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            what = f"{kind}: {type(error).__name__}"
        if what:
            seen.errors[what] = seen.errors.get(what, 0) + 1
        seen.took_ms.setdefault(kind, []).append((time.monotonic() - began) * 1e3)
        await asyncio.sleep(chance.uniform(*THINK_S))


def _cpu_s(site: Site) -> dict[str, float]:
    """Per kind of process, including children; ``load`` is this process."""
    assert site.postgres is not None
    heads = {name: process.pid for name, process in site.running.items()}
    heads |= {"postgres": site.postgres.server.get_pid(), "load": os.getpid()}
    sums: dict[str, float] = {}
    for name, pid in heads.items():
        kind = name.partition("-")[0]
        head = psutil.Process(pid)
        for process in [head] if kind == "load" else [head, *head.children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            sums[kind] = sums.get(kind, 0.0) + times.user + times.system
        if kind == "postgres":  # its connection processes come and go
            times = head.cpu_times()
            sums[kind] += times.children_user + times.children_system
    return sums


# Turns

_KEYS = """
from django.contrib.auth.models import User
from llm_credentials import wall
from llm_credentials.models import UserCredential
wall.open_process_for("a proof")
user = User.objects.get(username={name!r})
for number in range({count}):
    row = UserCredential(user=user, provider="sandbox", name=f"k{{number}}", model="sandbox-instant")
    row.seal(f"sbx-good-many-{{number}}")
    row.save()
"""
_QUEUE = """
import json
from django.utils import timezone
from llm_credentials import wall
from llm_credentials.models import ConnectionTest, UserCredential
from llm_credentials.tasks import connection_test
wall.open_process_for("a proof")
ConnectionTest.objects.all().delete()
many, others = {many!r}, {others!r}
keys = list(UserCredential.objects.filter(user__username=many).exclude(name="default").order_by("name"))[:{count}]
keys += UserCredential.objects.filter(user__username__in=others, name="default")
tests = [
    ConnectionTest(user_id=key.user_id, credential=key, provider=key.provider, name=key.name, model=key.model, steps=[])
    for key in keys
]
ConnectionTest.objects.bulk_create(tests)
for test in tests:
    connection_test.apply_async(args=(str(test.pk),))
print(len(tests), timezone.now().timestamp())
"""
_ENDED = """
import json
from llm_credentials import wall
from llm_credentials.connection_tests import expire_abandoned
from llm_credentials.models import ConnectionTest
wall.open_process_for("a proof")
expire_abandoned()
tests = ConnectionTest.objects.values_list("user__username", "state", "started_at", "finished_at")
print(json.dumps([[name, state, at and at.timestamp(), end and end.timestamp()] for name, state, at, end in tests]))
"""


def turns(site: Site, people: list[Person], many: int) -> Iterator[Line]:
    """Workers are paused until all tests are queued; then measures what one user's many tests cost the others' one
    each.
    """
    first, *others = people[: 101 if many > 500 else 21]
    site.python(_KEYS.format(name=first.name, count=many))
    alone = _queued(site, first.name, others, 0)
    beside = _queued(site, first.name, others, many)
    waits = {name: sorted(end for _, _, end in found) for name, found in (("alone", alone[1]), ("beside", beside[1]))}
    delays = [b - a for a, b in zip(waits["alone"], waits["beside"], strict=True)]
    print(
        f"  {len(others)} tests of as many users took {waits['alone'][-1]:.1f} s alone and"
        f" {waits['beside'][-1]:.1f} s behind {many} of one user, of which {beside[2]} were tested within a minute"
    )
    states = {state for _, state, _ in (*alone[1], *beside[1])}
    yield Line("tests of the others that were tested: all", f"{len(beside[1])} {states}", states == {"valid"})
    measured = f"{max(delays):.1f} s, median {statistics.median(delays):.1f} s"
    claim = f"one user's {many} tests delay another's one by <= {DELAY_LIMIT_S:.0f} s"
    yield Line(claim, measured, max(delays) <= DELAY_LIMIT_S)


def _queued(site: Site, many: str, others: list[Person], count: int) -> tuple[float, list[tuple[str, str, float]], int]:
    """(when the workers were resumed, the others' tests with seconds to their end, how many of the one user's were
    valid)
    """
    workers = [psutil.Process(process.pid) for name, process in site.running.items() if name.startswith("worker")]
    held = [each for worker in workers for each in (worker, *worker.children(recursive=True))]
    for each in held:
        each.send_signal(signal.SIGSTOP)
    try:
        code = _QUEUE.format(many=many, others=[person.name for person in others], count=count)
        asked = int(site.python(code).split()[0])
    finally:
        for each in reversed(held):
            each.send_signal(signal.SIGCONT)
    freed = time.time()

    def ended() -> list[list[object]] | None:
        rows: list[list[object]] = json.loads(site.python(_ENDED))
        return rows if all(row[1] not in ("queued", "running") for row in rows) else None

    rows = servers.wait_until(ended, "the tests", limit_s=120)
    assert len(rows) == asked
    theirs = [(name, state, (end or freed) - freed) for name, state, _, end in rows if name != many]
    tested = sum(state == "valid" for name, state, _, _ in rows if name == many)
    return freed, theirs, tested


def runs(site: Site, people: list[Person], many: int) -> Iterator[Line]:
    """The same for agent runs, over the API."""
    one, other = people[0], people[1]
    alone = _run_s(site, other)
    accepted = sum(_run(site, one)[0] == 202 for _ in range(many))
    beside = _run_s(site, other)
    print(f"  a run took {alone:.1f} s alone and {beside:.1f} s behind {accepted} runs of another user")
    claim = f"one user's {many} runs delay another's one by <= {DELAY_LIMIT_S:.0f} s"
    yield Line(claim, f"{beside - alone:.1f} s", beside - alone <= DELAY_LIMIT_S)


def _run(site: Site, person: Person) -> tuple[int, bytes]:
    body = {"input": "What is 17 * 23?"}
    return ask(random.choice(site.ports), "/api/agents/conversation/runs", person.bearer, body, timeout_s=30)


def _run_s(site: Site, person: Person) -> float:
    began = time.monotonic()
    status, content = _run(site, person)
    assert status == 202, content
    path = f"/api/runs/{json.loads(content)['id']}"

    def done() -> bool:
        state = json.loads(ask(site.ports[0], path, person.bearer, timeout_s=30)[1] or b"{}").get("state")
        return state in ("done", "failed")

    servers.wait_until(done, "the run", limit_s=120)
    return time.monotonic() - began


def lines(*, quick: bool, only: str | None = None) -> Iterator[Line]:
    with running_site() as site:
        people = site.people([f"load-{number}" for number in range(50 if quick else 200)])
        if only != "turns":
            yield from pages(site, people, 8.0 if quick else 30.0)
        if only != "pages":
            yield from turns(site, people, 100 if quick else 900)
            yield from runs(site, people, 30 if quick else 200)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fifty users, a hundred tests")
    parser.add_argument("--only", choices=["pages", "turns"])
    options = parser.parse_args()
    return 1 if print_lines(to_its_end(lambda: lines(quick=options.quick, only=options.only))) else 0


if __name__ == "__main__":
    sys.exit(main())

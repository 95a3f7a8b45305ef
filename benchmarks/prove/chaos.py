"""Nothing is lost: kills web, worker, Valkey and PostgreSQL repeatedly under a mixed load, then checks the ledger.

make prove PART=chaos
python -m benchmarks.prove.chaos [--kills 20] [--every 6] [--only kills|disk|clock|network]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.parts.mixed import Mixed, Told
from benchmarks.parts.site import Person, Site, ask, port_of, running_site
from benchmarks.prove.report import Line, print_lines, to_its_end
from project.tests import servers

VICTIMS = ("web-1", "worker-1", "valkey", "postgres", "web-2", "worker-2", "postgres", "valkey")
PEOPLE = 18
BACK_LIMIT_S = 30.0
"""Includes the start of a process on a busy machine."""
LEDGER_MODELS = ("sandbox-instant", "sandbox-chat")
"""Models of calls, streams and runs; connection tests, which are no user's calls, use another."""
_ROWS = """
import json
from django.db.models import Count
from agents.models import AgentRun
from llm_credentials import wall
from llm_credentials.ledger import books
from llm_credentials.models import ConnectionTest, UsageRecord
wall.open_process_for("a proof")
every = UsageRecord.objects.filter(model__in={models!r})
rows = every.exclude(state="void")
found = {{"all": every.count(), "rows": rows.count(), "ok": rows.filter(outcome="ok").count()}}
reserved = rows.filter(state="reserved").count()
# The clock has swept those of the first kills already.
found["open"] = reserved + rows.filter(outcome=books.LOST).count()
found["reserved"], found["swept"] = reserved, books.sweep(older_than_s=0)
found["left"] = UsageRecord.objects.filter(state="reserved").count()
found["calls"] = rows.values("call_id").distinct().count()
ended = AgentRun.objects.values_list("pk", "state", "error__class")
found["runs"] = {{str(pk): " ".join(filter(None, (state, why))) for pk, state, why in ended}}
found["tests"] = {{str(pk): state for pk, state in ConnectionTest.objects.values_list("pk", "state")}}
print(json.dumps(found))
"""
_OPEN_TESTS = """
from llm_credentials import wall
from llm_credentials.connection_tests import expire_abandoned
from llm_credentials.models import ConnectionTest
wall.open_process_for("a proof")
expire_abandoned()
print(ConnectionTest.objects.unfinished().count())
"""
_LATER = """
from datetime import timedelta
from django.db.models import F
from agents.models import AgentRun
from llm_credentials import wall
wall.open_process_for("a proof")
print(AgentRun.objects.filter(state="queued").update(enqueued_at=F("enqueued_at") - timedelta(minutes=21)))
"""
_OPEN_RUNS = """
from agents.models import AgentRun
from llm_credentials import wall
wall.open_process_for("a proof")
print(AgentRun.objects.filter(state__in=("queued", "running")).count())
"""


def kills(count: int = 20, every_s: float = 6.0) -> Iterator[Line]:
    with running_site() as site:
        people = site.people([f"chaos-{number}" for number in range(PEOPLE)])
        began = time.monotonic()
        told, waits = asyncio.run(_under_load(site, people, count, every_s))
        print(f"chaos: {count} kills in {time.monotonic() - began:.0f} s, {site.restarts} processes started again")
        for surface, seen in sorted(told.statuses.items()):
            print(f"          {surface}: {dict(sorted(seen.items()))}", flush=True)
        yield Line(
            f"all of it works again after each kill: <= {BACK_LIMIT_S:.0f} s",
            _by_kind(waits),
            max(took for _, took in waits) <= BACK_LIMIT_S,
        )
        yield from afterwards(site, told)


async def _under_load(
    site: Site, people: list[Person], count: int, every_s: float
) -> tuple[Told, list[tuple[str, float]]]:
    mixed = Mixed(site, people)
    waits: list[tuple[str, float]] = []

    async def killing() -> None:
        await asyncio.sleep(every_s)
        for number in range(count):
            victim = VICTIMS[number % len(VICTIMS)]
            await asyncio.to_thread(site.kill, victim)
            took = await works_again(site, people[0])
            waits.append((victim.partition("-")[0], took))
            await asyncio.sleep(max(every_s - took, 1.0))

    return await mixed.run(killing), waits


def _by_kind(waits: list[tuple[str, float]]) -> str:
    kinds = dict.fromkeys(kind for kind, _ in waits)
    slowest = {kind: max(took for each, took in waits if each == kind) for kind in kinds}
    return ", ".join(f"{kind} {took:.1f} s" for kind, took in slowest.items())


async def works_again(site: Site, person: Person) -> float:
    """Seconds until both web processes serve a page, the API and a call, and a worker is available."""
    began = time.monotonic()
    while time.monotonic() - began < 60:
        if await asyncio.to_thread(_works, site, person):
            break
        await asyncio.sleep(0.1)
    return time.monotonic() - began


def _works(site: Site, person: Person) -> bool:
    call = {"model": "sandbox/sandbox-fast", "messages": [{"role": "user", "content": "hi"}]}
    asked: tuple[tuple[str, dict[str, str], Any], ...] = (
        ("/readyz", {}, None),
        ("/settings/llm/", {"cookie": person.cookie}, None),
        ("/api/user/llm-credentials", person.bearer, None),
        ("/v1/chat/completions", person.bearer, call),
    )
    return all(ask(port, path, headers, body)[0] == 200 for port in site.ports for path, headers, body in asked)


# Checks afterwards


def afterwards(site: Site, told: Told, cuts: int = 0) -> Iterator[Line]:
    """``cuts``: connections to the provider that were cut, possibly during a call."""
    servers.wait_until(lambda: _counts(site)["open"] == 0, "the sandbox's last answers", limit_s=60)
    late = _runs_to_their_end(site)
    servers.wait_until(lambda: int(site.python(_OPEN_TESTS)) == 0, "tests that their workers left", limit_s=120)
    site.stop_processes(*(name for name in site.commands if name not in ("valkey", "sandbox")))
    asked, found = _counts(site), json.loads(site.python(_ROWS.format(models=list(LEDGER_MODELS))))
    yield from _ledger(asked, found, told, cuts)
    yield from _confirmed(site, told, found, late)
    chain = site.manage("audit_verify")
    said = (chain.stdout.strip() or chain.stderr.strip()).splitlines()
    yield Line("the audit chain holds", said[-1][:120], not chain.returncode)
    bad = told.wrong()
    yield Line("answers that are a fault (500 and the like): 0", str(bad or 0), not bad)
    yield _no_secrets(site, told)


def _ledger(asked: dict[str, Any], found: dict[str, Any], told: Told, cuts: int) -> Iterator[Line]:
    sums = [asked["by_model"].get(model, {"requests": 0, "client_gone": 0}) for model in LEDGER_MODELS]
    requests, gone = (sum(one[name] for one in sums) for name in ("requests", "client_gone"))
    answered = requests - gone
    print(f"          the sandbox: {requests} calls, {gone} left by their caller; the ledger: {found['all']} rows,")
    print(
        f"          {found['open']} of calls whose process died; clients: {told.answers} whole answers, {told.cut} cut"
    )
    missing, double = max(0, requests - found["all"]), max(0, found["ok"] - answered)
    yield Line("calls without a row: 0", f"{missing} of {requests}", missing == 0)
    # Void rows are left out: their calls failed, but may have reached the provider over a cut connection.
    beyond, void = max(0, found["rows"] - requests), found["all"] - found["rows"]
    claim = "rows beyond the calls: no more than were open when their process died" + (" or cut" if cuts else "")
    yield Line(claim, f"{beyond} of {found['open'] + cuts}; {void} void", beyond <= found["open"] + cuts)
    yield Line("answers in the ledger twice: 0", f"{double} of {found['ok']}", double == 0)
    lost = max(0, answered - found["all"])
    yield Line("whole answers neither settled nor open: 0", f"{lost} of {answered}", lost == 0)
    held = found["swept"] >= found["reserved"] and found["left"] == 0
    yield Line("reserved rows that the sweep resolved: all", f"{found['swept']}, {found['left']} left", held)


def _confirmed(site: Site, told: Told, found: dict[str, Any], late: int) -> Iterator[Line]:
    lost = []
    values = json.loads(site.python(_BUDGETS))
    for name, (confirmed, tried) in told.changes.items():
        if not confirmed <= (values.get(name) or 0) <= tried:
            lost.append((name, confirmed, values.get(name)))
    yield Line("changes confirmed and lost: 0", f"{len(lost)} of {told.confirmed:,} {lost[:3]}", not lost)
    gone = [run for run, _ in told.runs if found["runs"].get(run) != "done"]
    states = sorted({str(found["runs"].get(run)) for run in gone})
    yield Line(
        "runs accepted and not done: 0", f"{len(gone)} of {len(told.runs)} {states}; {late} by the clock", not gone
    )
    ends = [found["tests"].get(test) for test, _ in told.tests]
    hanging = sum(state in (None, "queued", "running") for state in ends)
    said = f"{hanging} of {len(ends)}; {ends.count('valid')} valid, {ends.count('expired')} told to try again"
    yield Line("connection tests without an end: 0", said, not hanging)


_BUDGETS = """
import json
from llm_credentials import wall
from llm_credentials.models import LLMSettings
wall.open_process_for("a proof")
rows = LLMSettings.objects.filter(monthly_budget_usd__isnull=False).values_list("user__username", "monthly_budget_usd")
print(json.dumps({name: int(value) for name, value in rows}))
"""


def _runs_to_their_end(site: Site) -> int:
    """Wait for all runs. Returns how many only the scheduler brings back, minutes later; their queue time is moved
    back.
    """

    def quiet() -> bool:
        return int(site.python(_OPEN_RUNS)) == 0

    try:
        servers.wait_until(quiet, "runs", limit_s=90)
        return 0
    except TimeoutError:
        late = int(site.python(_LATER))
    try:
        servers.wait_until(quiet, "runs that the clock brings back", limit_s=120)
    except TimeoutError as error:
        print(f"          {error}")
    return late


def _no_secrets(site: Site, told: Told) -> Line:
    secrets = [b"sbx-good-chaos", site.variables["SECRET_KEY"].encode()]
    secrets.append(site.variables["CREDENTIAL_KEYS"].partition(":")[2].encode())
    secrets += [person.token.encode() for _, person in (*told.runs, *told.tests)]
    files = list(site.logs())
    shown = [path.name for path in files if any(secret in _bytes(path) for secret in set(secrets))]
    size = sum(len(_bytes(path)) for path in files)
    return Line(
        "logs and files of processes that show a key: 0",
        f"{len(shown)} of {len(files)}, {size:,} bytes {shown[:3]}",
        not shown,
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _counts(site: Site) -> dict[str, Any]:
    return dict(json.loads(ask(port_of(site.sandbox), "/_sandbox/counts")[1]))


def main() -> int:
    from benchmarks.prove import disasters  # it imports the checks from here

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--every", type=float, default=6.0, help="seconds from one to the next")
    parser.add_argument("--only", choices=["kills", "disk", "clock", "network"])
    parser.add_argument("--quick", action="store_true", help="four kills and nothing else")
    options = parser.parse_args()
    parts: dict[str, Callable[[], Iterable[Line]]] = {
        "kills": lambda: kills(4 if options.quick else options.kills, options.every),
        "disk": disasters.disk,
        "clock": disasters.clock,
        "network": disasters.network,
    }
    chosen = [options.only] if options.only else ["kills"] if options.quick else list(parts)
    missed = sum(print_lines(to_its_end(parts[name])) for name in chosen)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

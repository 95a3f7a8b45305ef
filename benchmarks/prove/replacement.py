"""Replaces a key under load: two processes keep calling through the sandbox, with Valkey and without it.

python benchmarks/prove/replacement.py      # SQLite; TEST_DATABASE=postgres for PostgreSQL
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.prove.report import Line, print_lines, to_its_end
from benchmarks.prove.stage import stage

# isort: split
from django.conf import settings
from django.contrib.auth.models import User
from django.test import override_settings

from llm_credentials import limits
from llm_credentials.live import listener
from llm_credentials.providers.sandbox.running import start_sandbox_thread
from llm_credentials.tests.replacing import WITHIN_S, Findings, replace_under_load

REPLACEMENTS = 6
NO_LIMITS: dict[str, dict[str, dict[str, str]]] = {"LLM_RATES": {kind: {} for kind in limits.KINDS}}


def run() -> list[Line]:
    return list(lines())


def lines() -> Iterator[Line]:
    for where in ("with Valkey", "without Valkey"):
        with stage(), override_settings(**NO_LIMITS):
            url, stop = start_sandbox_thread()
            address = settings.REDIS_URL
            try:
                settings.SANDBOX_URL, settings.LLM_EGRESS_ALLOW = url, [url.removeprefix("http://")]
                if where == "without Valkey":
                    settings.REDIS_URL = "unix:///nowhere/valkey.sock"
                user = User.objects.create_user("replacing")
                found = replace_under_load(user, url, replacements=REPLACEMENTS, hold_s=2.0)
            finally:
                settings.REDIS_URL = address
                listener.close()
                stop()
        yield from _lines(found, where)


def _lines(found: Findings, where: str) -> Iterator[Line]:
    replaced = f"{found.replaced} of {REPLACEMENTS}"
    yield Line(f"keys replaced {where}: {REPLACEMENTS}", replaced, found.replaced == REPLACEMENTS)
    failed = f"{len(found.failed)} of {found.calls} calls of two processes"
    yield Line(f"failed calls while keys are replaced {where}: 0", failed, not found.failed and found.calls > 0)
    late = f"{found.late}; the last one began after {found.slowest_s:.2f} s"
    yield Line(f"calls with an old key more than {WITHIN_S:g} s later {where}: 0", late, found.late == 0)
    ended = f"{found.outlived} went on to their end, {found.broken} were cut"
    yield Line(f"calls under way end with the old key {where}, all", ended, found.outlived > 0 and not found.broken)


if __name__ == "__main__":
    sys.exit(1 if print_lines(to_its_end(lines)) else 0)

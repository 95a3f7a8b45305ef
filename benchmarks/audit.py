"""Measures audit events per second: ``python benchmarks/audit.py [processes] [threads] [events a thread]``.

Writes permanently to the database of ``DATABASE_URL``: use a separate one.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from project.env import use_settings

use_settings("project.settings")

import django  # noqa: E402

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402

from llm_credentials.audit import Action, record  # noqa: E402
from llm_credentials.audit.verify import verify  # noqa: E402


def write(threads: int, events: int) -> float:
    """Events per second of this process; each is committed before its thread continues."""
    ready = threading.Barrier(threads + 1)

    def go() -> None:
        connection.ensure_connection()
        ready.wait()
        for _ in range(events):
            record(action=Action.KEY_OPEN, subject="1", target="credential:benchmark")
        connection.close()

    workers = [threading.Thread(target=go) for _ in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return threads * events / (time.perf_counter() - began)


def main(processes: int = 2, threads: int = 16, events: int = 200) -> None:
    call_command("migrate", verbosity=0)
    command = [sys.executable, __file__, "write", str(threads), str(events)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    rates = [float(child.communicate()[0]) for child in children]
    print(f"{connection.vendor}: {processes} x {threads} threads: {sum(rates):.0f} events/s")
    began = time.perf_counter()
    report = verify()
    print(f"checked {report.events / (time.perf_counter() - began):.0f} events/s, holds: {report.holds}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        print(write(int(sys.argv[2]), int(sys.argv[3])))
    else:
        main(*map(int, sys.argv[1:]))

"""Every route of the site is in the access matrix, and the whole matrix holds.

python -m benchmarks.prove.matrix
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.prove.report import Line, print_lines
from benchmarks.prove.stage import ROOT

MATRIX = "project/tests/test_isolation.py"


def lines() -> Iterator[Line]:
    from project.tests.route_rules import ALL, TABLE

    routes = {route.name for route in ALL}
    missing, surplus = sorted(routes - set(TABLE)), sorted(set(TABLE) - routes)
    measured = f"{len(routes - set(missing))} of {len(routes)}" + "".join(f"; missing: {name}" for name in missing[:5])
    yield Line("routes in the matrix: 100 %", measured, not missing and not surplus)
    command = [sys.executable, "-m", "pytest", MATRIX, "-q", "-p", "no:cacheprovider", "--no-header"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = re.findall(r"^\d+ .*(?:passed|failed|error).*$", ended.stdout, re.MULTILINE)
    yield Line("the matrix of routes and callers holds", said[-1] if said else "it did not run", ended.returncode == 0)


if __name__ == "__main__":
    sys.exit(1 if print_lines(lines()) else 0)

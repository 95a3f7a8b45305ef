"""Shows a year of a million usage rows on pages, on its own database, which is removed afterwards.

python -m benchmarks.prove.usage [--rows 1000000]
"""

from __future__ import annotations

import argparse
import base64
import secrets
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from project import env


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with TemporaryDirectory(prefix="ks-") as folder:
        variables = env.child_environment(
            DATABASE_URL=f"sqlite:///{Path(folder) / 'usage.sqlite3'}",
            SECRET_KEY=secrets.token_urlsafe(50),
            CREDENTIAL_KEYS=f"k1:{base64.b64encode(secrets.token_bytes(32)).decode()}",
            LOCAL="true",
            LOG_LEVEL="CRITICAL",
        )
        command = [sys.executable, "benchmarks/usage.py", str(options.rows)]
        return subprocess.run(command, cwd=env.BASE_DIR, env=variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

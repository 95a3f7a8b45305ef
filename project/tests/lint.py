"""``make lint``: every check that does not need a running site. All checks run; any failure fails."""

from __future__ import annotations

import base64
import secrets
import subprocess
import sys

from project import env
from project.env import BASE_DIR

LIKE_PRODUCTION = {
    "DJANGO_SETTINGS_MODULE": "project.settings",
    "LOCAL": "false",
    "DEBUG": "false",
    "SECRET_KEY": secrets.token_urlsafe(64),
    "CREDENTIAL_KEYS": f"lint:{base64.b64encode(secrets.token_bytes(32)).decode()}",
    "ALLOWED_HOSTS": "keyswitch.example.com",
    "DATABASE_URL": "sqlite://:memory:",
    "REDIS_URL": "redis://127.0.0.1:6379/0",
}
LIKE_TESTS = {"DJANGO_SETTINGS_MODULE": "project.settings_test"}

CHECKS: list[tuple[list[str], dict[str, str]]] = [
    (["ruff", "check", "--quiet", "."], {}),
    (["ruff", "format", "--check", "--quiet", "."], {}),
    (["lint-imports"], {}),
    (["djlint", "templates", "--lint", "--quiet"], {}),
    ([sys.executable, "manage.py", "makemigrations", "--check", "--dry-run"], LIKE_TESTS),
    ([sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"], LIKE_PRODUCTION),
    (["mypy", "--no-error-summary", "project", "agents", "llm_credentials", "benchmarks", "manage.py"], {}),
]


def main() -> int:
    failed = []
    for command, extra in CHECKS:
        name = " ".join("python" if word == sys.executable else word for word in command)
        done = subprocess.run(
            command, cwd=BASE_DIR, env=env.child_environment(**extra), capture_output=True, text=True, errors="replace"
        )
        print(f"{'ok    ' if done.returncode == 0 else 'FAILED'} {name}", flush=True)
        if done.returncode != 0:
            failed.append(name)
            print(done.stdout, done.stderr, sep="", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

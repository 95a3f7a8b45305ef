"""The settings as a process meets them: bare, local, in production."""

import base64
import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from project.tests.checkout import bare_environment, copy_checkout

CREDENTIAL_KEYS = f"k:{base64.b64encode(secrets.token_bytes(32)).decode()}"
NAMES = [
    "DEBUG",
    "SECRET_KEY",
    "SESSION_COOKIE_NAME",
    "SESSION_COOKIE_SECURE",
    "SESSION_COOKIE_HTTPONLY",
    "SESSION_COOKIE_SAMESITE",
    "CSRF_COOKIE_NAME",
    "CSRF_COOKIE_SECURE",
    "SECURE_SSL_REDIRECT",
    "SECURE_HSTS_SECONDS",
    "REQUIRE_STAFF_MFA",
    "EMAIL_BACKEND",
]
SHOW = f"import json; from django.conf import settings; print(json.dumps({{n: getattr(settings, n) for n in {NAMES}}}))"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which nobody ever ran anything."""
    return copy_checkout(tmp_path_factory.mktemp("bare") / "checkout")


def manage(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=checkout,
        env=bare_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
    )


def shown(checkout: Path, **environment: str) -> dict[str, object]:
    done = manage(checkout, "shell", "-v", "0", "-c", SHOW, **environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_bare_checkout_says_what_is_missing(checkout: Path) -> None:
    done = manage(checkout, "check")
    assert done.returncode == 1
    assert "project.E001" in done.stderr
    assert "make run" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_value_ends_a_command_in_one_line(checkout: Path) -> None:
    done = manage(checkout, "check", DEBUG="perhaps")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["manage.py: DEBUG must be true or false, not 'perhaps'"]


def test_production_settings_pass_the_deployment_checks(checkout: Path) -> None:
    done = manage(
        checkout,
        *("check", "--deploy", "--fail-level", "WARNING"),
        SECRET_KEY="a-key-of-fifty-characters-and-more-0123456789-abcdefghij",
        CREDENTIAL_KEYS=CREDENTIAL_KEYS,
        ALLOWED_HOSTS="keyswitch.example.com",
        DATABASE_URL="sqlite://:memory:",
    )
    assert done.returncode == 0, done.stderr


def test_production_is_the_default_and_local_is_asked_for(checkout: Path) -> None:
    keys = {"SECRET_KEY": "x" * 60, "CREDENTIAL_KEYS": CREDENTIAL_KEYS}
    production, local = shown(checkout, **keys), shown(checkout, LOCAL="true", **keys)
    assert production["DEBUG"] is local["DEBUG"] is False
    for name in ("SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SECURE_SSL_REDIRECT"):
        assert (production[name], local[name]) == (True, False)
    assert production["SECURE_HSTS_SECONDS"]
    assert production["SESSION_COOKIE_NAME"] == "__Host-sessionid" != local["SESSION_COOKIE_NAME"]
    assert (production["CSRF_COOKIE_NAME"], local["CSRF_COOKIE_NAME"]) == ("__Host-csrftoken", "csrftoken")
    for where in (production, local):
        assert where["SESSION_COOKIE_HTTPONLY"] is True
        assert where["SESSION_COOKIE_SAMESITE"] == "Lax"


def test_secret_files_are_read(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-a-file\n")
    found = shown(checkout, SECRET_KEY_FILE=str(tmp_path / "key"), CREDENTIAL_KEYS=CREDENTIAL_KEYS)
    assert found["SECRET_KEY"] == "from-a-file"

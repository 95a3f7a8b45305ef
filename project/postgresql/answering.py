"""Detects a database server that no longer responds.

A stopped server, or a machine that is gone, leaves its connections open and silent: queries would wait for ever, and
none of the server's own timeouts can help. So after ``SILENT_S`` without data, a connection probes the server through a
second one: a slow query continues, a dead server raises an error.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar

import psycopg
from psycopg import pq

T = TypeVar("T")

SILENT_S: Final = 0.7
SUSPICIOUS_S: Final = 0.1
"""Used instead of ``SILENT_S`` after a server has failed to respond."""
KNOCK_S: Final = 0.4
"""Timeout of a probe."""
KNOWN_FOR_S: Final = 0.3
"""How long a probe's result is shared by all connections."""
_SSL_REQUEST: Final = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
"""Every server answers this with one letter, before authentication."""


@dataclass
class Server:
    """State of the one server in this process; ``suspect`` from a failure until a probe succeeds."""

    suspect: bool = False
    lives: bool = True
    seen_at: float = 0.0
    failures: int = 0
    """Connections that could not be opened, or broke."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_there(self, host: str, port: int) -> bool:
        """Probes the server unless a recent result exists. Takes ``KNOCK_S`` at most."""
        with self.lock:
            if time.monotonic() - self.seen_at >= KNOWN_FOR_S:
                self.lives = knock(host, port)
                self.seen_at = time.monotonic()
            return self.lives


server = Server()


def knock(host: str, port: int) -> bool:
    """Hosts that cannot be probed, such as a list of several, count as alive."""
    if not host or "," in host:
        return True
    try:
        with _door(host, port) as door:
            door.sendall(_SSL_REQUEST)
            return bool(door.recv(1))
    except OSError:
        return False


def _door(host: str, port: int) -> socket.socket:
    if not host.startswith("/"):
        return socket.create_connection((host, port), timeout=KNOCK_S)
    door = socket.socket(socket.AF_UNIX)
    door.settimeout(KNOCK_S)
    try:
        door.connect(f"{host}/.s.PGSQL.{port}")
    except BaseException:
        door.close()
        raise
    return door


class Connection(psycopg.Connection[Any]):
    """Raises OperationalError and closes itself when the server is gone."""

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Self:
        try:
            return super().connect(*args, **kwargs)
        except psycopg.OperationalError:
            server.failures += 1
            raise

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().wait(self._watched(gen), *args, **kwargs)
        except psycopg.OperationalError:
            if self.pgconn.status == pq.ConnStatus.BAD:
                server.suspect = True
                server.failures += 1
            raise

    def _watched(self, gen: Generator[Any, int, T]) -> Generator[Any, int, T]:
        asked_at = time.monotonic() + (SUSPICIOUS_S if server.suspect else SILENT_S)
        try:
            waits_for = next(gen)
            while True:
                ready = yield waits_for
                if not ready and time.monotonic() >= asked_at:
                    if not server.is_there(self.info.host, self.info.port):
                        server.suspect = True
                        self.close()
                        raise psycopg.OperationalError("the database server does not answer")
                    asked_at = time.monotonic() + SILENT_S
                waits_for = gen.send(ready)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

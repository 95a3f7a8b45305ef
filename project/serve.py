"""The web server of ``manage.py up``, on a listening socket from its parent: ``python -m project.serve <fd>``."""

from __future__ import annotations

import socket
import sys

import uvicorn

GRACE_S = 5
"""After this time, a stop closes streams that are still open."""


def main() -> None:
    door = socket.socket(fileno=int(sys.argv[1]))
    server = uvicorn.Server(
        uvicorn.Config(
            "project.asgi:application", timeout_graceful_shutdown=GRACE_S, server_header=False, proxy_headers=False
        )
    )
    server.run(sockets=[door])
    sys.exit(not server.started)


if __name__ == "__main__":
    main()

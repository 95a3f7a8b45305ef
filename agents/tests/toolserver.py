"""A real tool server on a socket of this machine; what it says of its tools can be changed while it runs."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer as Server
from mcp.server.transport_security import TransportSecuritySettings

from project.tests.servers import wait_until


class ToolServer:
    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.netloc = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.url = f"http://{self.netloc}/mcp"
        self.seen: list[dict[str, str]] = []
        """The headers of each request."""
        self.called: list[str] = []
        self.redirect_to = ""
        self.mcp = Server("test")
        self.describe("Add two numbers.")
        self.mcp.add_tool(self._echo, name="echo", description="Say back the headers.")
        self.mcp.add_tool(self._long, name="long", description="Say very much.")
        self.mcp.add_tool(self._fail, name="fail", description="Fail.")
        security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        self.inner = self.mcp.streamable_http_app(stateless_http=True, json_response=True, transport_security=security)
        self.server = uvicorn.Server(uvicorn.Config(self._app, log_config=None, lifespan="on", interface="asgi3"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def describe(self, words: str) -> None:
        """What ``add`` says of itself from now on."""
        if any(tool.name == "add" for tool in asyncio.run(self.mcp.list_tools())):
            self.mcp.remove_tool("add")
        self.mcp.add_tool(self._add, name="add", description=words)

    async def _add(self, a: int, b: int) -> str:
        self.called.append("add")
        return str(a + b)

    async def _echo(self) -> str:
        self.called.append("echo")
        return self.seen[-1].get("authorization", "")

    async def _long(self) -> str:
        return "x" * 100_000

    async def _fail(self) -> str:
        raise RuntimeError("with-a-secret-in-it")

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.seen.append({name.decode(): value.decode() for name, value in scope["headers"]})
            if self.redirect_to:
                location = (b"location", self.redirect_to.encode())
                await send({"type": "http.response.start", "status": 307, "headers": [location]})
                await send({"type": "http.response.body", "body": b""})
                return
        await self.inner(scope, receive, send)


@contextmanager
def running() -> Iterator[ToolServer]:
    server = ToolServer()
    server.thread.start()
    wait_until(lambda: server.server.started, "the tool server")
    yield server
    server.server.should_exit = True
    server.thread.join(15)
    server.socket.close()

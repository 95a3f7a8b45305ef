"""The sandbox's HTTP side."""

from dataclasses import dataclass

from aiohttp import web


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxOptions:
    """How a sandbox behaves where a request does not say so itself."""

    delay_ms: float = 10.0
    """Pause between two word pieces of a stream."""
    slow_s: float = 2.0
    """What `sbx-slow…` keys and `sandbox-slow` wait before they answer."""
    stall_s: float = 600.0
    """How long a stalled answer stays silent."""


class Sandbox:
    """One sandbox: its options, what it was asked, and its request handler."""

    def __init__(self, options: SandboxOptions) -> None:
        self.options = options
        self.stopping = False

    def http_server(self) -> web.Server:
        """The handler as aiohttp wants it; a client that leaves cancels the handler."""
        return web.Server(self.handle, handler_cancellation=True, access_log=None)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        return web.Response(status=501, text="This sandbox does not answer yet.", headers={"x-keyswitch-sandbox": "1"})

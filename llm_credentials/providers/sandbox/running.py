"""Runs a sandbox: in an event loop, in a thread, or until a signal."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from llm_credentials.providers.sandbox.server import Sandbox, SandboxOptions

HOST = "127.0.0.1"
SHUTDOWN_TIMEOUT_S = 0.2
START_TIMEOUT_S = 10.0


@asynccontextmanager
async def running_sandbox(port: int = 0, host: str = HOST, options: SandboxOptions | None = None) -> AsyncIterator[str]:
    """Serve a sandbox in this event loop; yields its root address, `http://host:port`. Port 0 picks a free one.

    Raises OSError if the port is taken. Streams still open at the end are cut.
    """
    sandbox = Sandbox(options or SandboxOptions())
    runner = web.ServerRunner(sandbox.http_server(), shutdown_timeout=SHUTDOWN_TIMEOUT_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
        bound_port: int = runner.addresses[0][1]
        yield f"http://[{host}]:{bound_port}" if ":" in host else f"http://{host}:{bound_port}"
    finally:
        sandbox.stopping = True
        await runner.cleanup()


def start_sandbox_thread(
    port: int = 0, host: str = HOST, options: SandboxOptions | None = None
) -> tuple[str, Callable[[], None]]:
    """Serve a sandbox from a thread; returns its root address and the function that stops it.

    Raises OSError if the port is taken. The stop function may be called twice.
    """
    ready = threading.Event()
    state: dict[str, object] = {}

    async def serve() -> None:
        stop = asyncio.Event()
        state["loop"], state["stop"] = asyncio.get_running_loop(), stop
        async with running_sandbox(port, host, options) as url:
            state["url"] = url
            ready.set()
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            state["error"] = error
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="sandbox-provider", daemon=True)
    thread.start()
    if not ready.wait(START_TIMEOUT_S):
        raise TimeoutError("The sandbox did not start in time.")
    if isinstance(error := state.get("error"), BaseException):
        raise error
    loop, stop = state["loop"], state["stop"]
    assert isinstance(loop, asyncio.AbstractEventLoop) and isinstance(stop, asyncio.Event)

    def stop_thread() -> None:
        if thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
            thread.join()

    return str(state["url"]), stop_thread


def serve_until_signal(port: int, host: str, options: SandboxOptions, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `announce` is called with the address. Raises OSError if the port is taken."""

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with running_sandbox(port, host, options) as url:
            announce(url)
            await stop.wait()

    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        runner.run(serve())


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The faster event loop, if installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop

import asyncio
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import aiohttp
import pytest
from django.core.management import CommandError, call_command

from llm_credentials.providers.sandbox.running import running_sandbox, start_sandbox_thread
from llm_credentials.providers.sandbox.server import SandboxOptions
from llm_credentials.providers.sandbox.tests.conftest import Door


def test_sandbox_thread_serves_until_it_is_stopped() -> None:
    url, stop = start_sandbox_thread()
    with urllib.request.urlopen(url) as response:
        assert response.headers["x-keyswitch-sandbox"] == "1"
    stop()
    stop()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url)


def test_sandbox_thread_says_that_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        start_sandbox_thread(port=taken.getsockname()[1])


async def test_sandbox_stops_at_once_and_cuts_open_streams() -> None:
    async with aiohttp.ClientSession() as session:
        async with running_sandbox(options=SandboxOptions(delay_ms=50)) as url:
            door = Door(url, session)
            stream = door.post("chat", "sandbox-chat", stream=True, text="count to 5000")
            response = await stream
            await response.content.readany()
        with pytest.raises(aiohttp.ClientPayloadError):
            async with asyncio.timeout(5):
                await response.read()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sandbox_command_stops_cleanly(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "manage.py", "sandbox_provider", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[4],
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found
        with urllib.request.urlopen(found[0]) as response:
            assert response.status == 200
        process.send_signal(number)
        _, errors = process.communicate(timeout=15)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()


def test_sandbox_command_says_in_one_line_that_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandError, match=f"Cannot listen on 127.0.0.1:{port}"):
            call_command("sandbox_provider", port=port)

"""Run the sandbox provider on its own."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from llm_credentials.providers.sandbox.running import HOST, serve_until_signal
from llm_credentials.providers.sandbox.server import SandboxOptions


class Command(BaseCommand):
    help = "Runs a local server that speaks like a provider, answers without a model, and injects faults on request."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        usual = SandboxOptions()
        parser.add_argument("--port", type=int, default=8900, help="0 takes a free one (default: %(default)s)")
        parser.add_argument("--host", default=HOST, help="address to listen on (default: %(default)s)")
        parser.add_argument(
            "--delay-ms", type=float, default=usual.delay_ms, help="pause between two words (default: %(default)s)"
        )
        parser.add_argument(
            "--slow-s", type=float, default=usual.slow_s, help="what slow keys and models wait (default: %(default)s)"
        )

    def handle(self, *args: Any, port: int, host: str, delay_ms: float, slow_s: float, **options: Any) -> None:
        settings = SandboxOptions(delay_ms=delay_ms, slow_s=slow_s)
        try:
            serve_until_signal(port, host, settings, announce=self.announce)
        except OSError as error:
            raise CommandError(f"Cannot listen on {host}:{port}: {error.strerror or error}.") from None

    def announce(self, url: str) -> None:
        self.stdout.write(f"Sandbox provider at {url} (keys that begin with sbx-good work)")
        self.stdout.flush()

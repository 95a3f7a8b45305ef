from __future__ import annotations

import sys
from argparse import ArgumentParser
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand

from project import env


class Command(BaseCommand):
    help = "Start the whole site on this machine: Valkey, sandbox provider, web server, worker. Ctrl-C stops it."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, help="default: PORT, else 8000")
        parser.add_argument("--host", help="default: HOST, else 127.0.0.1")

    def handle(self, *args: Any, port: int | None, host: str | None, **options: Any) -> None:
        from project.supervisor import Supervisor

        if made := env.complete_env_file():
            self.say(f"Wrote {' and '.join(made)} to .env. Keep that file: stored API keys open with it alone.")
        port = env.whole("PORT", default=8000) if port is None else port
        host = host or env.text("HOST", "127.0.0.1")
        sys.exit(Supervisor(self.say, port=port, host=host).run())

    def say(self, text: str) -> None:
        with suppress(OSError):  # the terminal may be gone; what was started must be stopped all the same
            self.stdout.write(text)
            self.stdout.flush()

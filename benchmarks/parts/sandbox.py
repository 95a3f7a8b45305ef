"""A fresh database, a Valkey and the sandbox provider in its own process. Import it before anything of Django's,
because it selects the test settings. ``TEST_DATABASE=postgres`` for PostgreSQL.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from project import env  # noqa: E402

env.use_settings("project.settings_test")

import django  # noqa: E402

django.setup()

from django.conf import settings  # noqa: E402
from django.db import connection  # noqa: E402

from llm_credentials import bridge  # noqa: E402
from llm_credentials.ledger import writer  # noqa: E402
from project.tests import servers  # noqa: E402

_SANDBOX = """
from llm_credentials.providers.sandbox.running import serve_until_signal
from llm_credentials.providers.sandbox.server import SandboxOptions
serve_until_signal(0, "127.0.0.1", SandboxOptions(), lambda url: print(url, flush=True))
"""


@contextmanager
def running_sandbox() -> Iterator[str]:
    """Yields the sandbox's address, which egress allows."""
    name = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, serialize=False)
    sandbox = subprocess.Popen([sys.executable, "-c", _SANDBOX], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert sandbox.stdout is not None
    try:
        with servers.running_valkey() as settings.REDIS_URL:
            url = settings.SANDBOX_URL = sandbox.stdout.readline().strip()
            settings.LLM_EGRESS_ALLOW = [url.removeprefix("http://")]
            yield url
    finally:
        sandbox.terminate()
        sandbox.wait(10)
        bridge.close()
        writer.close()
        servers.drop_database(name)

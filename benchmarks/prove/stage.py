"""Environment of a proof: a fresh database and its own Valkey, both removed afterwards.

Import it before anything of Django's, because it selects the test settings. ``TEST_DATABASE=postgres`` for PostgreSQL.
"""

from __future__ import annotations

import logging
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
from django.core.cache import caches  # noqa: E402
from django.db import connection  # noqa: E402
from django.test.utils import setup_test_environment, teardown_test_environment  # noqa: E402

from llm_credentials import bridge  # noqa: E402
from llm_credentials.live import listener  # noqa: E402
from llm_credentials.wall import open_process_for  # noqa: E402
from project.celery import app  # noqa: E402
from project.tests import servers  # noqa: E402


@contextmanager
def stage() -> Iterator[None]:
    """One after the other, never nested."""
    logging.disable(logging.CRITICAL)
    open_process_for("a proof")
    setup_test_environment()
    name = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, serialize=False)
    try:
        with servers.running_valkey() as valkey:
            settings.REDIS_URL = settings.CACHES["default"]["LOCATION"] = valkey
            settings.CELERY_BROKER_URL = env.redis_addresses(valkey)["broker"]
            app.conf.update(broker_url=settings.CELERY_BROKER_URL)
            _forget_cache()
            yield
    finally:
        bridge.close()
        listener.close()
        _forget_cache()
        servers.drop_database(name)
        teardown_test_environment()
        logging.disable(logging.NOTSET)


def _forget_cache() -> None:
    if hasattr(caches._connections, "default"):  # type: ignore[attr-defined]
        caches["default"].close()
        del caches["default"]

"""A user with a key, a budget and a priced model, on a fresh database of tests and a Valkey; gone with this process.

Import it before anything of Django's: it chooses the settings of the tests. ``TEST_DATABASE=postgres`` for PostgreSQL.
"""

from __future__ import annotations

import atexit
import logging
from contextlib import ExitStack

from project import env

env.use_settings("project.settings_test")

import django  # noqa: E402

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.db import connection  # noqa: E402

from llm_credentials import wall  # noqa: E402
from llm_credentials.ledger import writer  # noqa: E402
from llm_credentials.models import LLMSettings, UserCredential  # noqa: E402
from project.tests import servers  # noqa: E402


def user_with_key(url: str, key: str, model: str) -> User:
    logging.disable(logging.CRITICAL)
    wall.open_process_for("a benchmark")
    stack = ExitStack()
    atexit.register(stack.close)
    name = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, serialize=False)
    stack.callback(servers.drop_database, name)
    stack.callback(writer.close)
    settings.REDIS_URL = stack.enter_context(servers.running_valkey())
    settings.LLM_EGRESS_ALLOW = [url.removeprefix("http://")]
    user = User.objects.create_user("bench")
    LLMSettings.objects.create(user=user, monthly_budget_usd=100_000)
    row = UserCredential(user=user, provider="openai", base_url=f"{url}/v1", model=model)
    row.seal(key)
    row.save()
    return user

"""How often each page asks the database: never more often than is written down in ``query_counts.json``.

As in production: a process remembers for a while what concerns all users, and how somebody's calls are routed.

    pytest project/tests/test_queries.py --write-query-counts

writes the file anew; what has grown is for its reviewer to see.
"""

from __future__ import annotations

import json
import re

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from llm_credentials.tests.proofs import proven
from project.env import BASE_DIR
from project.tests import pages

COUNTS = BASE_DIR / "project/tests/query_counts.json"
MOST = 10
NO_QUESTION = re.compile(r"SAVEPOINT|RELEASE|ROLLBACK|BEGIN|COMMIT|SET |SELECT set_config", re.IGNORECASE)
"""What holds a transaction together, and says on PostgreSQL whose rows are meant."""


def queries_of(client: Client, path: str) -> list[str] | None:
    """The questions that a page asks the database; None for what is no page."""
    with CaptureQueriesContext(connection) as captured:
        response = client.get(path)
    if not pages.is_page(response):
        return None
    return [query["sql"] for query in captured.captured_queries if not NO_QUESTION.match(query["sql"])]


@pytest.mark.django_db(transaction=True)
def test_pages_ask_the_database_no_more_than_before(
    alice: User, live_as_in_production: None, request: pytest.FixtureRequest
) -> None:
    addresses = pages.page_addresses(pages.furnish(alice))
    client = proven(alice)
    for learning in ("llm_credentials:provider-list", "agents:agent-list"):
        client.get(addresses[learning])
    asked = {name: found for name, path in addresses.items() if (found := queries_of(client, path)) is not None}
    counts = {name: len(queries) for name, queries in sorted(asked.items())}
    if request.config.getoption("--write-query-counts", default=False):
        COUNTS.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    known: dict[str, int] = json.loads(COUNTS.read_text(encoding="utf-8"))
    too_many = {name: asked[name] for name, count in counts.items() if count > min(MOST, known.get(name, MOST))}
    assert not too_many, json.dumps(too_many, indent=1)

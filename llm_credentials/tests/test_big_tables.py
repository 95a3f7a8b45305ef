from __future__ import annotations

import pytest

from llm_credentials.ledger import budgets
from llm_credentials.tests.big_tables import explained, fill, hot_queries

pytestmark = pytest.mark.django_db


def test_calls_read_no_large_table_from_end_to_end() -> None:
    user = fill(users=4_000, credentials=20_000, usage=20_000)
    with explained() as plans:
        hot_queries(user)
    assert plans.scans() == []
    assert len(plans.seen) >= 10


def test_what_the_site_spends_in_a_day_is_read_by_an_index() -> None:
    fill(users=4_000, credentials=1, usage=20_000)
    with explained() as plans:
        budgets.spent_usd("total", None)
    assert plans.scans() == []

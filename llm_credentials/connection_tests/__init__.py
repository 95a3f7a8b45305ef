"""Does this key work? Asked of the provider by a worker, one step after the other, and told in our own words.

A test is a row: the page and the API make it, a worker claims it by its id and runs it, everybody reads it. A key that
is not saved yet waits sealed in that row; it is destroyed when the test ends, or after ``UNSAVED_KEY_TTL_S``.
"""

from llm_credentials.connection_tests.available import (
    ModelList,
    from_catalogue,
    models_available,
    site_models_available,
)
from llm_credentials.connection_tests.expiring import ABANDONED_AFTER_S, UNSAVED_KEY_TTL_S, expire_abandoned
from llm_credentials.connection_tests.running import REMOVED, test_run
from llm_credentials.connection_tests.starting import (
    QueueUnavailable,
    SiteKey,
    TestBusy,
    TestLimited,
    site_test_start,
    test_start,
)
from llm_credentials.connection_tests.steps import EMBEDDINGS_ROLE
from llm_credentials.connection_tests.turns import next_test, run_next

__all__ = [
    "ABANDONED_AFTER_S",
    "EMBEDDINGS_ROLE",
    "REMOVED",
    "UNSAVED_KEY_TTL_S",
    "ModelList",
    "QueueUnavailable",
    "SiteKey",
    "TestBusy",
    "TestLimited",
    "expire_abandoned",
    "from_catalogue",
    "models_available",
    "next_test",
    "run_next",
    "site_models_available",
    "site_test_start",
    "test_run",
    "test_start",
]

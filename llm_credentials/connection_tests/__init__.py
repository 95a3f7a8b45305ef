"""Connection tests: a worker checks step by step with the provider whether a key works, and reports it in our own
words.

A test is a row: the page or the API creates it, a worker claims it by its id and runs it, and all readers see it. An
unsaved key stays sealed in that row and is destroyed when the test ends, or after ``UNSAVED_KEY_TTL_S``.
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

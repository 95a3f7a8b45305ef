"""How keys are used, and what that may cost."""

from __future__ import annotations

from typing import Final

from benchmarks.prove.guards.guard import LLM, LLM_TESTS, Guard, tests

USE: Final = [
    Guard(
        "a client is kept by the version of its key",
        f"{LLM}/opening.py",
        "credential.pk, credential.version, credential.base_url)",
        "credential.pk, credential.base_url)",
        tests("factory", "opening"),
    ),
    Guard(
        "use of an older version blames no newer key",
        f"{LLM}/routing/key_status.py",
        "filter(pk=row.pk, version=row.version)",
        "filter(pk=row.pk)",
        tests("router_health"),
    ),
    Guard(
        "a test of an older version blames no newer key",
        f"{LLM}/connection_tests/running.py",
        "filter(pk=test.credential_id, version=version)",
        "filter(pk=test.credential_id)",
        tests("connection_tests"),
    ),
    Guard(
        "a key that was turned off is not used",
        f"{LLM}/routing/faults.py",
        "        if not key.is_active:\n",
        "        if False:\n",
        tests("resolve", "resolve_always"),
    ),
    Guard(
        "a failing destination is left alone",
        f"{LLM}/routing/health.py",
        "if mine >= FAILURES:",
        "if False:",
        tests("health"),
    ),
    Guard(
        "a call beyond the budget is refused",
        f"{LLM}/ledger/budgets.py",
        "if used_e8 < limit_e8 and used_e8 + e8(worst_usd) <= limit_e8:",
        "if True:",
        tests("ledger"),
    ),
    Guard(
        "a call beyond the budget is refused by its counter",
        f"{LLM}/ledger/budgets.py",
        " AND used_e8 + %s < %s AND used_e8 + %s <= %s",
        " AND used_e8 + %s < 9 + %s + used_e8 AND used_e8 + %s <= 9 + %s + used_e8 * 2",
        tests("ledger"),
    ),
    Guard(
        "what is reserved counts",
        f"{LLM}/ledger/budgets.py",
        'When(state=_State.RESERVED, then=F("reserved_usd"))',
        'When(state=_State.RESERVED, then=F("cost_usd"))',
        tests("ledger"),
    ),
    Guard(
        "connection tests are limited",
        f"{LLM}/limits.py",
        'if usage["should_limit"]:',
        "if False:",
        tests("connection_tests"),
    ),
    Guard(
        "an answer is sanitised",
        "agents/markdown.py",
        "return _clean(_parser().render(_encodable(text)))",
        "return mark_safe(text)",
        ("agents/tests/test_markdown.py",),
    ),
    Guard(
        "workers take JSON alone",
        "project/settings.py",
        'CELERY_ACCEPT_CONTENT = ["json"]',
        'CELERY_ACCEPT_CONTENT = ["json", "pickle"]',
        ("project/tests/test_queue.py",),
    ),
    Guard(
        "a test refers to a key that is still there",
        f"{LLM}/connection_tests/starting.py",
        "                _hold(draft.credential_id)\n",
        "                pass\n",
        (f"{LLM_TESTS}/test_locks.py::test_test_of_a_key_that_was_just_removed_is_not_found",),
    ),
    Guard(
        "what is chosen for a task is still there",
        f"{LLM}/preferences.py",
        '        _own_key(user, wanted["credential_id"], hold=True)\n',
        "",
        (f"{LLM_TESTS}/test_locks.py::test_override_with_a_key_that_was_just_removed_is_refused_in_words",),
    ),
]

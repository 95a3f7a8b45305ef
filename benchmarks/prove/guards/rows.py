"""Whose rows: each one's own, the wall behind that, and the stored key that must not leave."""

from __future__ import annotations

from typing import Final

from benchmarks.prove.guards.guard import LLM, LLM_TESTS, Guard, tests

FOR_USER = "return self.filter(user_id=user.pk) if user.pk is not None else self.none()"
FOR_PERSON = "return self.filter(user_id=user.pk) if user.is_authenticated else self.none()"


def own(what: str, path: str, before: str, *tests: str) -> Guard:
    return Guard(f"{what}: only one's own", path, before, "return self.all()", tests)


OWN_ROWS: Final = [
    own(
        "keys",
        f"{LLM}/models/credentials.py",
        FOR_USER,
        f"{LLM_TESTS}/test_api_credentials.py::test_list_shows_nothing_of_others",
    ),
    own("connection tests", f"{LLM}/models/connection_tests.py", FOR_USER, *tests("views_connection_tests")),
    own("access tokens", f"{LLM}/models/tokens.py", FOR_USER, *tests("access_tokens")),
    own("task overrides", f"{LLM}/models/settings.py", FOR_USER, *tests("models", "router", "resolve")),
    own("usage", f"{LLM}/models/usage.py", FOR_USER, *tests("models"), "project/tests/test_leaving.py"),
    own(
        "audit events",
        f"{LLM}/models/audit.py",
        "return self.filter(subject=str(user.pk)) if user.pk is not None else self.none()",
        f"{LLM_TESTS}/test_views_security.py",
    ),
    Guard(
        "conversations: only one's own",
        "agents/models.py",
        FOR_PERSON,
        "return self.all()",
        ("agents/tests/test_views.py",),
    ),
    Guard(
        "messages: only one's own",
        "agents/models.py",
        "return self.filter(conversation__user_id=user.pk) if user.is_authenticated else self.none()",
        "return self.all()",
        ("agents/tests/test_views.py",),
    ),
    Guard(
        "runs: only one's own",
        "agents/models.py",
        FOR_PERSON,
        "return self.all()",
        ("agents/tests/test_views.py",),
        nth=2,
    ),
]

SECOND: Final = [
    Guard(
        "no statement about users' rows unless somebody said whose",
        f"{LLM}/wall/statements.py",
        "    table = named_in(sql)\n",
        "    table = None\n",
        ("project/tests/test_wall_statements.py",),
    ),
    Guard(
        "a statement about users' rows is one, whatever it begins with",
        f"{LLM}/wall/statements.py",
        "if table is None or first_word(sql) in _ABOUT_TABLES:",
        'if table is None or first_word(sql) not in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"}:',
        ("project/tests/test_wall_statements.py",),
    ),
    Guard(
        "a table is the same in capitals",
        f"{LLM}/wall/tables.py",
        "    text = sql.lower()\n",
        "    text = sql\n",
        ("project/tests/test_wall_statements.py",),
    ),
    Guard(
        "work for one user stays with that user",
        f"{LLM}/wall/standing.py",
        "    if now not in (None, EVERYBODY, wanted) and wanted != NOBODY:\n",
        "    if False:\n",
        ("project/tests/test_wall.py",),
    ),
    Guard(
        "no stored key in a request",
        f"{LLM}/routed_client.py",
        "            await refuse_secrets(loaded.tripwire, leaving)\n",
        "            pass\n",
        ("agents/tests/test_tripwire.py",),
    ),
    Guard(
        "no stored key in a message",
        "agents/services.py",
        "    if secret := tripwire_for(user).name_in(text):\n",
        "    if secret := None:\n",
        ("agents/tests/test_tripwire.py",),
    ),
    Guard(
        "no stored key in a tool's answer",
        "agents/calling.py",
        "content=guard.redacted(answer) if guard else answer",
        "content=answer",
        ("agents/tests/test_tripwire.py",),
    ),
]

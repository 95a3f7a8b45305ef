"""What agents found, as their runs show it: what strangers wrote becomes no markup and no odd link."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from agents.models import RunState
from agents.tests.factories import AgentRunFactory

EVIL = "<script>alert(1)</script>"
RESULTS: dict[str, dict[str, Any]] = {
    "search_engine": {
        "answer": "See [1].",
        "struck": [7],
        "queries": ["fox"],
        "notices": ["Tavily is out of order just now."],
        "results": [
            {"number": 1, "url": "https://x.example/", "title": EVIL, "snippet": EVIL, "services": ["Tavily"]},
            {"number": 2, "url": "javascript:alert(1)", "title": "Odd", "snippet": "", "services": []},
        ],
    },
    "research": {
        "answer": "So it is [1].",
        "struck": [7],
        "questions": [EVIL],
        "queries": [EVIL],
        "notices": [],
        "sources": [
            {"number": 1, "url": "https://x.example/", "title": EVIL, "cited": True},
            {"number": 2, "url": "javascript:alert(1)", "title": "Odd", "cited": False},
        ],
        "not_read": {"https://y.example/": "robots.txt"},
    },
    "code": {
        "answer": "Mended.",
        "diff": f"--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+```{EVIL}\n",
        "added_lines": 1,
        "removed_lines": 1,
        "downloads": [{"name": EVIL, "url": "/attachments/x/"}],
        "notices": ["photo.png was left out: it holds no text."],
    },
    "analysis": {
        "answer": "Paris leads.",
        "tables": [
            {
                "name": "sales",
                "file": EVIL,
                "part": "",
                "rows": 3,
                "columns": [
                    {"name": EVIL, "type": "VARCHAR", "nulls": 0, "distinct": 3, "min": EVIL, "max": "z", "samples": []}
                ],
            }
        ],
        "queries": [
            {
                "title": EVIL,
                "sql": f"SELECT '```{EVIL}'",
                "columns": [{"name": EVIL, "type": "VARCHAR"}, {"name": "n", "type": "DOUBLE"}],
                "rows": [[EVIL, 12345.5], [None, None]],
                "more": True,
            }
        ],
        "charts": [
            {
                "title": EVIL,
                "kind": kind,
                "label": EVIL,
                "labels": [EVIL, "b"],
                "series": [{"name": EVIL, "values": [1234.5, None]}],
                "sql": "SELECT 1",
            }
            for kind in ("bar", "line")
        ],
        "notices": ["photo.png was left out: it is no table."],
    },
}
SAYS = {
    "search_engine": ("taken out: 7", "out of order", "[1]", 'href="https://x.example/"'),
    "research": ("taken out: 7", "not cited", "How it was found", "https://y.example/"),
    "analysis": ("1,234.5", "12,345.5", "There are more rows than these 2.", "files/result-1.csv", "<rect", "M0 "),
    "code": ("Mended.", "git apply", "photo.png was left out", 'href="/attachments/x/"'),
}


@pytest.mark.django_db
@pytest.mark.parametrize("slug", RESULTS)
def test_result_is_shown_in_the_agents_own_form(slug: str, alice: User, client: Client) -> None:
    result = RESULTS[slug]
    run = AgentRunFactory(user=alice, agent=slug, state=RunState.DONE, output=result["answer"], result=result)
    client.force_login(alice)
    page = client.get(run.get_absolute_url()).content.decode()
    for words in SAYS[slug]:
        assert words in page
    assert EVIL not in page
    assert 'href="javascript:' not in page

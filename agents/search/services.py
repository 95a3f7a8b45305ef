"""Which services search for a user: those with keys of the user, else those of the site, else its own documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agents.search.local import documentation
from agents.search.searching import Searcher
from llm_credentials.search_keys import searches_for

if TYPE_CHECKING:
    from django.contrib.auth.models import User

LOCAL_ONLY = (
    "No search service is set up, so only this site's documentation was searched. Add one under Settings, Search."
)


async def searchers_for(user: User) -> tuple[Sequence[Searcher], str]:
    """The services, and a notice about them; empty if there is none."""
    found = await searches_for(user)
    return (found, "") if found else ([documentation()], LOCAL_ONLY)

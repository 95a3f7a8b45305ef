"""Web search for agents: several queries to several services at once, merged into one ranked list. Django-free."""

from agents.search.merging import Result, canonical, merged
from agents.search.searching import Found, Searcher, search_all

__all__ = ["Found", "Result", "Searcher", "canonical", "merged", "search_all"]

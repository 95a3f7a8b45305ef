"""Reading the web for agents: only where the egress policy leads, only what robots.txt allows, never more than fits."""

from agents.web.reading import Page, PageReader, PageRefused

__all__ = ["Page", "PageReader", "PageRefused"]

"""Reads web pages for agents: only where the egress policy and robots.txt allow it, and up to a size limit."""

from agents.web.reading import Page, PageReader, PageRefused

__all__ = ["Page", "PageReader", "PageRefused"]

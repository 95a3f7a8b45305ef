"""Remembers prompt prefixes, so that a repeated one is billed as cached."""

from __future__ import annotations

from collections import OrderedDict

from llm_credentials.providers.sandbox.asks import Ask

MIN_TOKENS = 1_024
"""Shorter prefixes are not cached, as with real providers."""
STEP_TOKENS = 128
MAX_ENTRIES = 10_000


class PromptCache:
    def __init__(self) -> None:
        self._seen: OrderedDict[int, None] = OrderedDict()

    def clear(self) -> None:
        self._seen.clear()

    def bill(self, ask: Ask, owner: str) -> None:
        """Sets how much of this prompt is read from the cache and, if its prefix is marked, how much is written."""
        marked = ask.cache_upto is not None
        if ask.prompt_tokens < MIN_TOKENS and not marked:
            return
        items = ask.prefix[: ask.cache_upto] if marked else ask.prefix
        rolling, tokens, known = hash((owner, ask.model)), 0, 0
        for item, item_tokens in items:
            rolling = hash((rolling, item))
            tokens += item_tokens
            if rolling in self._seen:
                known = tokens
            self._seen[rolling] = None
            self._seen.move_to_end(rolling)
        while len(self._seen) > MAX_ENTRIES:
            self._seen.popitem(last=False)
        if marked:
            ask.cached_tokens, ask.cache_write_tokens = known, tokens - known
        elif known >= MIN_TOKENS:
            ask.cached_tokens = known - known % STEP_TOKENS

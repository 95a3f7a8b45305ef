"""How often somebody may do something: one counter a (group, user), shared by pages, API and jobs."""

from __future__ import annotations

from django_ratelimit.core import get_usage


class LimitReached(Exception):
    """Too often. ``retry_after_s`` is whole seconds until the window ends."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"Too many requests. Try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


def use(group: str, value: str, rate: str) -> None:
    """Count one use of ``group`` by ``value`` (``rate`` such as ``"10/m"``). Raises LimitReached past it."""
    usage = get_usage(None, group=group, key=lambda _group, _request: value, rate=rate, increment=True)
    if usage is not None and usage["should_limit"]:
        raise LimitReached(max(1, int(usage["time_left"])))

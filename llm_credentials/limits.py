"""Rate limits: one counter for each (kind, rate, user or token or provider), shared by pages, API and jobs, and across
processes through Valkey. While Valkey is down each process counts on its own.

The site's rates are the setting ``LLM_RATES``. The organisation's policies add to them, and all of them apply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.http import HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django_ratelimit.core import get_usage

from llm_credentials.policies import policy_of

KINDS: Final[Mapping[str, str]] = {
    "test": gettext_noop("connection tests"),
    "models": gettext_noop("lists of models"),
    "chat": gettext_noop("messages to agents"),
    "stream": gettext_noop("answers read as they are written"),
    "run": gettext_noop("background runs"),
    "upload": gettext_noop("uploaded files"),
    "api": gettext_noop("requests to the API"),
    "gateway": gettext_noop("calls through the gateway"),
}
"""Each kind of use, with its label."""
_SECONDS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RATE = re.compile(r"(\d{1,7})/(\d{0,4})([smhd])")


class LimitReached(Exception):
    """The rate limit is exceeded. ``retry_after_s``: whole seconds until the window ends."""

    def __init__(self, retry_after_s: int, limit: int = 0) -> None:
        super().__init__(_("Too many requests. Try again in %(retry_after_s)s s.") % {"retry_after_s": retry_after_s})
        self.retry_after_s = retry_after_s
        self.usage = Usage(limit=limit, remaining=0, reset_s=retry_after_s)


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage of the tightest limit."""

    limit: int
    remaining: int
    reset_s: int
    """Seconds until its window ends."""

    @property
    def values(self) -> tuple[tuple[str, int], ...]:
        """(header, value) pairs."""
        limit, remaining = ("RateLimit-Limit", self.limit), ("RateLimit-Remaining", self.remaining)
        return (limit, remaining, ("RateLimit-Reset", self.reset_s))

    @property
    def headers(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.values}


def with_pause(response: HttpResponse, refusal: Exception) -> HttpResponse:
    """Sets ``Retry-After`` and the limit headers if the refusal is a rate limit."""
    if isinstance(refusal, LimitReached):
        for name, value in {"Retry-After": str(refusal.retry_after_s), **refusal.usage.headers}.items():
            response[name] = value
    return response


def use(group: str, value: str, rate: str) -> Usage | None:
    """Count one use of ``group`` by ``value`` (``rate`` such as ``"10/m"``). Raises LimitReached beyond it."""
    usage = _counted(group, value, rate)
    if usage is not None and usage["time_left"] < 0:  # the counter was lost as Valkey went or came back: count again
        usage = _counted(group, value, rate)
    if usage is None:
        return None
    left_s = max(1, int(usage["time_left"]))
    if usage["should_limit"]:
        raise LimitReached(left_s, usage["limit"])
    return Usage(limit=usage["limit"], remaining=max(0, usage["limit"] - usage["count"]), reset_s=left_s)


def _counted(group: str, value: str, rate: str) -> dict[str, Any] | None:
    usage: dict[str, Any] | None = get_usage(
        None, group=group, key=lambda _group, _request: value, rate=rate, increment=True
    )
    return usage


def admit(kind: str, user: AbstractBaseUser, *, provider: str = "", token_id: Any = None) -> Usage | None:
    """Count one use by the user, by their token and at the provider (over all users). Raises LimitReached."""
    usages = [use(f"{kind}:{scope}", value, rate) for scope, value, rate in _rates(kind, user, provider, token_id)]
    return min((usage for usage in usages if usage), key=lambda usage: usage.remaining, default=None)


def _rates(kind: str, user: AbstractBaseUser, provider: str, token_id: Any) -> Iterator[tuple[str, str, str]]:
    """(scope, counted value, rate). The user's come first."""
    site: Mapping[str, str] = settings.LLM_RATES[kind]
    own = dict.fromkeys([*filter(None, [site.get("user")]), *policy_of(user).rates.get(kind, ())])
    for rate in own:
        yield "user", str(user.pk), rate
    if token_id is not None and "token" in site:
        yield "token", str(token_id), site["token"]
    if provider and "provider" in site:
        yield "provider", provider, site["provider"]


def parse_rate(rate: str) -> tuple[int, int]:
    """(count, period in seconds). Raises ValueError for an invalid rate."""
    found = _RATE.fullmatch(check_rate(rate))
    assert found
    count, times, unit = found.groups()
    return int(count), int(times or 1) * _SECONDS[unit]


def check_rate(rate: str) -> str:
    """Raises ValueError for an invalid rate."""
    found = _RATE.fullmatch(rate)
    if not found or found[2] == "0" * len(found[2]) != "":
        raise ValueError("A rate is a count and a period, such as 10/m, 500/h or 5/30s.")
    return rate

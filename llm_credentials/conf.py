"""This app's settings, typed. Read at each access, so that a changed setting takes effect at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from django.conf import settings


def _text(name: str, default: str = "") -> str:
    return cast("str", getattr(settings, name, default) or default)


def credential_keys() -> str:
    """``id:base64(32 bytes)[,id:…]``: the first key seals, all of them open. Empty: the site has no key ring."""
    return _text("CREDENTIAL_KEYS")


def default_provider() -> str:
    return _text("LLM_DEFAULT_PROVIDER", "openai")


def require_second_factor() -> bool:
    """Whether only users with a second factor may change keys and tokens."""
    return bool(getattr(settings, "REQUIRE_SECOND_FACTOR", False))


def site_address(setting: str) -> str:
    """The site's address for a provider that has none of its own; empty: that provider is off."""
    return _text(setting) if setting else ""


def egress_allow() -> tuple[str, ...]:
    """What the operator lists in LLM_EGRESS_ALLOW."""
    return tuple(getattr(settings, "LLM_EGRESS_ALLOW", ()))


def searxng_url() -> str:
    """The search service for users who have set up none of their own; empty: none."""
    return _text("SEARXNG_URL")


def system_keys() -> Mapping[str, Mapping[str, Any]]:
    """Provider slug → ``{"api_key", "model", "base_url"}`` of the keys in the environment."""
    return cast("Mapping[str, Mapping[str, Any]]", getattr(settings, "LLM_SYSTEM_KEYS", {}))


def row_security() -> bool:
    """Whether PostgreSQL enforces row-level security on users' rows."""
    return bool(getattr(settings, "DATABASE_ROW_SECURITY", True))

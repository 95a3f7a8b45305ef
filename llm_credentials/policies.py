"""What staff allow a user, for saving, testing and showing keys. Calls read it from their routing snapshot."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, cast

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser, PermissionsMixin
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from llm_credentials.models import GroupPolicy
from llm_credentials.providers import ProviderSpec, registry
from llm_credentials.routing.policy import NO_OWN_KEYS, Policy, combined

OPERATE_KEYS: Final = "llm_credentials.change_usercredential"
"""Permission to test users' keys, turn them off or request re-entry; no permission allows changing another user's key.
"""
PATTERNS_MAX: Final = 100
PATTERN_LENGTH_MAX: Final = 200
_PATTERN = re.compile(r"[a-z0-9_*?]+/[\x21-\x7e]+")


def policy_of(user: AbstractBaseUser | AnonymousUser) -> Policy:
    """The current policy. One query."""
    return combined(row.value for row in GroupPolicy.objects.for_user(user).order_by("created_at"))


def check_own_key(policy: Policy, spec: ProviderSpec, *, model: str | None, base_url: str) -> None:
    """Whether a user may store, test or list models with such a key of their own. Raises ValidationError.

    An empty ``model`` is the provider's default; ``None``: no model is called.
    """
    errors: dict[str, list[str]] = {}
    if refusal := policy.refusal_of_provider(spec) or ("" if policy.own_keys else _(NO_OWN_KEYS)):
        errors["api_key"] = [refusal]
    elif refusal := policy.refusal_of_address(spec, base_url):
        errors["base_url"] = [refusal]
    called = "" if model is None else model or spec.default_model
    if "api_key" not in errors and (refusal := policy.refusal_of_model(spec.slug, called)):
        errors["model"] = [refusal]
    if errors:
        raise ValidationError(errors)


def allows_own_key(policy: Policy, spec: ProviderSpec, *, base_url: str = "") -> bool:
    """Regardless of the model."""
    return policy.own_keys and not (policy.refusal_of_provider(spec) or policy.refusal_of_address(spec, base_url))


def check_choice(policy: Policy, spec: ProviderSpec | None, model: str) -> None:
    """Whether a user may choose this provider and model for a task or a conversation. Raises ValidationError."""
    if spec is None:
        return
    if refusal := policy.refusal_of_provider(spec):
        raise ValidationError({"provider": [refusal]})
    if refusal := policy.refusal_of_model(spec.slug, model):
        raise ValidationError({"model": [refusal]})


def may_see_site(user: AbstractBaseUser) -> bool:
    """Whether a user may see the site's settings and which keys exist, but nothing more of a key."""
    return may_change_site(user) or _is_staff_with(user, "llm_credentials.view_systemconfig")


def may_change_site(user: AbstractBaseUser) -> bool:
    """Whether a user may set the site's models and keys and test those keys."""
    return _is_staff_with(user, "llm_credentials.change_systemconfig")


def _is_staff_with(user: AbstractBaseUser, permission: str) -> bool:
    return (
        bool(getattr(user, "is_staff", False))
        and user.is_active
        and cast("PermissionsMixin", user).has_perm(permission)
    )


# Input from staff


def clean_patterns(lines: Iterable[str]) -> list[str]:
    """Patterns ``provider/model``, one per line; a line without a slash applies to every provider. Raises
    ValidationError.
    """
    patterns = list(dict.fromkeys(_clean_pattern(line.strip()) for line in lines if line.strip()))
    if len(patterns) > PATTERNS_MAX:
        raise ValidationError(_("At most %(max)s patterns.") % {"max": PATTERNS_MAX})
    return patterns


def _clean_pattern(line: str) -> str:
    pattern = line if "/" in line else f"*/{line}"
    if len(pattern) > PATTERN_LENGTH_MAX or not _PATTERN.fullmatch(pattern):
        raise ValidationError(
            _(
                "A pattern is provider/model, such as openai/gpt-5* or */llama-*, without spaces, with "
                "at most %(max)s characters."
            )
            % {"max": PATTERN_LENGTH_MAX}
        )
    provider = pattern.partition("/")[0]
    if not any(Policy(models=((f"{provider}/*",),)).allows_model(spec.slug, "") for spec in registry.all_specs()):
        raise ValidationError(
            _(
                "No provider fits «%(provider)s». Where a model's own name has a slash, begin with the "
                "provider: */%(line)s for instance."
            )
            % {"provider": provider, "line": line}
        )
    return pattern

"""System checks of the site's own settings."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register


@register
def secret_key_is_set(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if not settings.SECRET_KEY_MISSING:
        return []
    return [
        Error(
            "SECRET_KEY is not set, so every process would sign sessions with a key of its own.",
            hint="Run `make run` once, which writes .env, or set SECRET_KEY or SECRET_KEY_FILE: see .env.example.",
            id="project.E001",
        )
    ]


@register(Tags.security, deploy=True)
def staff_need_a_second_factor(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if settings.REQUIRE_STAFF_MFA:
        return []
    return [
        Warning(
            "REQUIRE_STAFF_MFA is off: a password alone opens the admin, with the keys and allowances of the site.",
            hint="Take REQUIRE_STAFF_MFA=false out of the environment; staff are led to set up a second factor.",
            id="project.W001",
        )
    ]

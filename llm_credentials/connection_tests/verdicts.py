"""Translates an error into our own words about the tested key."""

from __future__ import annotations

from django.conf import settings
from django.utils.translation import gettext as _

from llm_credentials.models import ConnectionTest
from llm_credentials.providers import (
    AuthenticationFailed,
    ConnectionFailed,
    CredentialUnreadable,
    DeadlineExceeded,
    EgressBlocked,
    LLMError,
    ModelNotFound,
    PermissionDenied,
    ProviderSpec,
    QuotaExhausted,
    RateLimited,
)


def verdict(error: LLMError, passed: set[str]) -> tuple[str, str, str | None]:
    """(the failed step, state of the test, status of the credential or None for unchanged)."""
    match error:
        case CredentialUnreadable():
            return "key", ConnectionTest.State.INVALID, "needs_reentry"
        case AuthenticationFailed():
            return "key", ConnectionTest.State.INVALID, "invalid"
        case ModelNotFound():
            return "model", ConnectionTest.State.INVALID, "error"
        case QuotaExhausted():
            return "reply", ConnectionTest.State.INVALID, "error"
        case EgressBlocked():
            return "address", ConnectionTest.State.INVALID, "error"
        case RateLimited() | PermissionDenied():
            return "reply", ConnectionTest.State.ERROR, None
        case ConnectionFailed() | DeadlineExceeded():
            return "reply" if "key" in passed else "address", ConnectionTest.State.ERROR, "error"
        case _:
            return "reply", ConnectionTest.State.ERROR, "error"


def words(error: LLMError, spec: ProviderSpec, model: str) -> str:
    """What failed and how to fix it. Never quotes the provider's response."""
    code = f" ({error.status_code})" if error.status_code else ""
    match error:
        case AuthenticationFailed():
            return _("%(provider)s refused this key%(code)s. Mistyped or revoked? Make a new one on its key page.") % {
                "provider": spec.label,
                "code": code,
            }
        case QuotaExhausted():
            return _("The key works, but its account at %(provider)s has no credit or quota left%(code)s.") % {
                "provider": spec.label,
                "code": code,
            }
        case ModelNotFound():
            return _(
                "%(provider)s does not know the model %(model)s%(code)s, or this key may not use it. Choose another."
            ) % {"provider": spec.label, "model": model, "code": code}
        case RateLimited():
            return _("%(provider)s asks for fewer requests just now%(code)s. Try again in a minute.") % {
                "provider": spec.label,
                "code": code,
            }
        case PermissionDenied():
            return _("%(provider)s knows the key but closes a region, model or feature to it%(code)s.") % {
                "provider": spec.label,
                "code": code,
            }
        case EgressBlocked():
            return _("%(error)s Check the address.") % {"error": error}
        case DeadlineExceeded():
            return _("%(provider)s did not answer within %(LLM_TEST_TIMEOUT_S)s s. Check the address.") % {
                "provider": spec.label,
                "LLM_TEST_TIMEOUT_S": f"{settings.LLM_TEST_TIMEOUT_S:g}",
            }
        case ConnectionFailed():
            return _("No connection to the address. Check it, and whether the server is up.")
        case _:
            return f"{error.user_message}{code}"

"""The kinds of notices."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """Each has a template of its name in ``templates/llm_credentials/mail/``."""

    KEY_ADDED = "key_added"
    KEY_REPLACED = "key_replaced"
    KEY_REMOVED = "key_removed"
    KEY_RESTORED = "key_restored"
    KEY_TURNED_OFF = "key_turned_off"
    REENTRY_ASKED = "reentry_asked"
    ADDRESS_CHANGED = "address_changed"
    TOKEN_MADE = "token_made"  # noqa: S105  (a name)
    TOKEN_REVOKED = "token_revoked"  # noqa: S105  (a name)
    FACTOR_ADDED = "factor_added"
    FACTOR_REMOVED = "factor_removed"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105  (a name)
    EMAIL_CHANGED = "email_changed"
    """Sent to the previous address."""
    DATA_EXPORTED = "data_exported"

    # Detected in use or by the site; nobody acted.
    KEY_REFUSED = "key_refused"
    KEY_SPENT = "key_spent"
    KEY_NEEDS_REENTRY = "key_needs_reentry"

    KEY_LIMITED = "key_limited"
    BUDGET_WARNED = "budget_warned"
    BUDGET_USED_UP = "budget_used_up"
    WEBHOOK_OFF = "webhook_off"

    @property
    def was_done_by_somebody(self) -> bool:
        """The mail says who, when and from where, and what to do if it was not the owner."""
        return self not in ALERTS


ALERTS: Final = (
    *(Kind.KEY_REFUSED, Kind.KEY_SPENT, Kind.KEY_NEEDS_REENTRY, Kind.KEY_LIMITED),
    *(Kind.BUDGET_WARNED, Kind.BUDGET_USED_UP, Kind.WEBHOOK_OFF),
)
"""Shown on pages until fixed or dismissed; these can be muted."""

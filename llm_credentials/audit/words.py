"""The actions, with their names in rows and on pages."""

from __future__ import annotations

from uuid import UUID

from django.db import models
from django.utils.translation import gettext_lazy as _


class Action(models.TextChoices):
    KEY_OPEN = "key.open", _("Key opened for use")
    CREDENTIAL_CREATE = "credential.create", _("Key added")
    CREDENTIAL_REPLACE = "credential.replace", _("Key replaced")
    CREDENTIAL_CHANGE = "credential.change", _("Settings of a key changed")
    CREDENTIAL_TOGGLE = "credential.toggle", _("Key turned on or off")
    CREDENTIAL_ASK = "credential.ask", _("Owner asked to enter the key again")
    CREDENTIAL_DELETE = "credential.delete", _("Key removed")
    CREDENTIAL_RESTORE = "credential.restore", _("Removal undone")
    CREDENTIAL_DESTROY = "credential.destroy", _("Removed key destroyed")
    CREDENTIAL_VIEW = "credential.view", _("Key's record viewed")
    CREDENTIAL_QUARANTINE = "credential.quarantine", _("Key needs re-entry")
    TEST_START = "test.start", _("Key test started")
    SETTINGS_CHANGE = "settings.change", _("Settings changed")
    WEBHOOK_CHANGE = "webhook.change", _("Webhook changed")
    HEADERS_OPEN = "headers.open", _("Headers of a tool server opened for use")
    TOOLS_CHANGE = "tools.change", _("Tool server or its tools changed")
    CONFIG_CHANGE = "config.change", _("Site configuration changed")
    EGRESS_ALLOW = "egress.allow", _("Address allowed")
    EGRESS_CHANGE = "egress.change", _("Allowed address changed")
    EGRESS_WITHDRAW = "egress.withdraw", _("Allowed address withdrawn")
    LOGIN = "login", _("Logged in")
    LOGIN_FAILED = "login.failed", _("Login refused")
    LOGOUT = "logout", _("Logged out")
    PASSWORD_CHANGE = "password.change", _("Password changed")
    FACTOR_ADD = "factor.add", _("Second factor added")
    FACTOR_REMOVE = "factor.remove", _("Second factor removed")
    TOKEN_CREATE = "token.create", _("Access token made")
    TOKEN_REVOKE = "token.revoke", _("Access token revoked")
    TOKEN_REFUSED = "token.refused", _("Access token refused")
    ACCESS_DENIED = "access.denied", _("Access refused")
    ACCOUNT_CREATE = "account.create", _("Account made")
    ACCOUNT_CHANGE = "account.change", _("Account changed")
    ACCOUNT_EXPORT = "account.export", _("Data exported")
    ACCOUNT_DELETE = "account.delete", _("Account deleted")
    RING_ROTATE = "ring.rotate", _("Keys moved to a new encryption key")
    AUDIT_VERIFY = "audit.verify", _("Audit trail checked")
    AUDIT_EXPORT = "audit.export", _("Audit events exported")
    AUDIT_ARCHIVE = "audit.archive", _("Old events archived")


def target_of(kind: str, *parts: UUID | str | None) -> str:
    """``kind:…:id``, without empty parts. Must not contain user input."""
    return ":".join([kind, *(str(part) for part in parts if part)])[:200]

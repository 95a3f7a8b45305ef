"""What can happen, and how it is named in rows and on pages."""

from __future__ import annotations

from uuid import UUID

from django.db import models


class Action(models.TextChoices):
    KEY_OPEN = "key.open", "Key opened for use"
    CREDENTIAL_CREATE = "credential.create", "Key added"
    CREDENTIAL_REPLACE = "credential.replace", "Key replaced"
    CREDENTIAL_CHANGE = "credential.change", "Settings of a key changed"
    CREDENTIAL_TOGGLE = "credential.toggle", "Key turned on or off"
    CREDENTIAL_DELETE = "credential.delete", "Key removed"
    CREDENTIAL_RESTORE = "credential.restore", "Removal undone"
    CREDENTIAL_DESTROY = "credential.destroy", "Removed key destroyed"
    CREDENTIAL_VIEW = "credential.view", "Key's record viewed"
    CREDENTIAL_QUARANTINE = "credential.quarantine", "Key needs re-entry"
    TEST_START = "test.start", "Key test started"
    SETTINGS_CHANGE = "settings.change", "Settings changed"
    WEBHOOK_CHANGE = "webhook.change", "Webhook changed"
    CONFIG_CHANGE = "config.change", "Site configuration changed"
    EGRESS_ALLOW = "egress.allow", "Address allowed"
    EGRESS_CHANGE = "egress.change", "Allowed address changed"
    EGRESS_WITHDRAW = "egress.withdraw", "Allowed address withdrawn"
    LOGIN = "login", "Logged in"
    LOGIN_FAILED = "login.failed", "Login refused"
    LOGOUT = "logout", "Logged out"
    PASSWORD_CHANGE = "password.change", "Password changed"
    FACTOR_ADD = "factor.add", "Second factor added"
    FACTOR_REMOVE = "factor.remove", "Second factor removed"
    TOKEN_CREATE = "token.create", "Access token made"
    TOKEN_REVOKE = "token.revoke", "Access token revoked"
    TOKEN_REFUSED = "token.refused", "Access token refused"
    ACCESS_DENIED = "access.denied", "Access refused"
    ACCOUNT_CREATE = "account.create", "Account made"
    ACCOUNT_CHANGE = "account.change", "Account changed"
    ACCOUNT_EXPORT = "account.export", "Data exported"
    ACCOUNT_DELETE = "account.delete", "Account deleted"
    RING_ROTATE = "ring.rotate", "Keys moved to a new encryption key"
    AUDIT_VERIFY = "audit.verify", "Audit trail checked"
    AUDIT_EXPORT = "audit.export", "Audit events exported"
    AUDIT_ARCHIVE = "audit.archive", "Old events archived"


def target_of(kind: str, *parts: UUID | str | None) -> str:
    """``kind:…:id``, without what is empty; nothing that a person typed belongs in it."""
    return ":".join([kind, *(str(part) for part in parts if part)])[:200]

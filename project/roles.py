"""The two built-in staff groups; assign a group and staff status in the admin.

Each migration sets their permissions again, so that they include new pages from the start; for other permissions create
another group. No permission gives access to a key.
"""

from __future__ import annotations

from typing import Any, Final

from django.contrib.auth.models import Group, Permission
from django.db.models import Q

from llm_credentials.policies import OPERATE_KEYS

AUDITORS: Final = "Auditors"
OPERATORS: Final = "Operators"
ROLES: Final = (AUDITORS, OPERATORS)

_SEEN_BY_AUDITORS: Final = {
    "agents": ("agentrun", "conversation"),
    "auth": ("group", "user"),
    "account": ("emailaddress",),
    "mfa": ("authenticator",),
    "usersessions": ("usersession",),
    "llm_credentials": (
        *("auditevent", "connectiontest", "egressallowance", "grouppolicy", "llmsettings", "personalaccesstoken"),
        *("systemconfig", "systemcredential", "usagerecord", "userallowance", "usercredential"),
    ),
}
_SEEN_BY_OPERATORS: Final = {
    "agents": ("agentrun",),
    "auth": ("group", "user"),
    "llm_credentials": ("connectiontest", "llmsettings", "personalaccesstoken", "usagerecord", "usercredential"),
}
_RUN_BY_OPERATORS: Final = ("egressallowance", "grouppolicy", "systemconfig", "systemcredential", "userallowance")
"""All permissions for these models."""


def after_migrate(using: str, **kwargs: Any) -> None:
    """Permissions are created app by app after each migration: this runs after the last one."""
    for name, wanted in ((AUDITORS, _seen(_SEEN_BY_AUDITORS)), (OPERATORS, _of_operators())):
        group, _created = Group.objects.using(using).get_or_create(name=name)
        permissions = set(Permission.objects.using(using).filter(wanted).values_list("pk", flat=True))
        if permissions != set(group.permissions.values_list("pk", flat=True)):
            group.permissions.set(permissions)


def _of_operators() -> Q:
    ours = Q(content_type__app_label="llm_credentials")
    run = ours & Q(content_type__model__in=_RUN_BY_OPERATORS)
    return _seen(_SEEN_BY_OPERATORS) | run | (ours & Q(codename=OPERATE_KEYS.partition(".")[2]))


def _seen(models: dict[str, tuple[str, ...]]) -> Q:
    wanted = Q()
    for app, names in models.items():
        wanted |= Q(content_type__app_label=app, codename__in=[f"view_{name}" for name in names])
    return wanted

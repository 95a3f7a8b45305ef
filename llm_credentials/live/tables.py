"""The watched tables of this app, and the signals that manage their triggers and caches."""

from __future__ import annotations

from typing import Any

import structlog
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db import DatabaseError, connections
from django.db.models.signals import m2m_changed, post_migrate, pre_migrate

from llm_credentials.live import changes, watched
from llm_credentials.models import (
    EgressAllowance,
    GroupPolicy,
    LLMSettings,
    PersonalAccessToken,
    SearchCredential,
    SystemConfig,
    SystemCredential,
    TaskOverride,
    UserAllowance,
    UserCredential,
)
from llm_credentials.routing import snapshot_cache

log = structlog.get_logger(__name__)

COUNTERS = ("request_count", "last_used_at", "tested_at", "abilities", "created_at", "updated_at")


def watch_ours() -> None:
    watched.watch(get_user_model(), user=get_user_model()._meta.pk.column, ignored=("last_login",))
    watched.watch(UserCredential, user="user_id", ignored=COUNTERS)
    watched.watch(SearchCredential, user="user_id", ignored=("status", "status_detail", *COUNTERS))
    watched.watch(LLMSettings, user="user_id", ignored=("created_at", "updated_at"))
    watched.watch(TaskOverride, user="user_id", ignored=("created_at", "updated_at"))
    watched.watch(PersonalAccessToken, user="user_id", ignored=("last_used_at",))
    watched.watch(UserAllowance, user="user_id", ignored=("created_at", "updated_at"))
    watched.watch(get_user_model().groups.through, user="user_id")
    watched.watch(SystemCredential, ignored=COUNTERS)
    watched.watch(EgressAllowance, ignored=("note", "created_at", "updated_at"))
    watched.watch(GroupPolicy, ignored=("created_at", "updated_at"))
    watched.watch(SystemConfig, ignored=("created_at", "updated_at"))
    ours = apps.get_app_config("llm_credentials")
    pre_migrate.connect(_before_migrations, sender=ours, dispatch_uid="live")
    post_migrate.connect(_after_migrations, sender=ours, dispatch_uid="live")
    m2m_changed.connect(_groups_changed, sender=get_user_model().groups.through, dispatch_uid="live")
    user_logged_in.connect(_logged_in, dispatch_uid="live")
    user_logged_out.connect(_logged_out, dispatch_uid="live")


def _before_migrations(using: str, **kwargs: Any) -> None:
    watched.remove(connections[using])


def _after_migrations(using: str, **kwargs: Any) -> None:
    watched.install(connections[using])


def _groups_changed(**kwargs: Any) -> None:
    """Either side may have made the change; it is rare enough to invalidate everything."""
    changes.site_changed(noted=True)


def _logged_in(user: Any, **kwargs: Any) -> None:
    """Preload what the first call of this session will need."""
    if snapshot_cache.KEPT_S <= 0:
        return
    try:
        snapshot_cache.load(user)
    except DatabaseError as error:
        log.warning("snapshot_not_warmed", error=type(error).__name__)


def _logged_out(user: Any, **kwargs: Any) -> None:
    """Drops the user's cached data, and ends streams opened with this session."""
    if user is not None:
        changes.user_changed(user.pk, noted=True)

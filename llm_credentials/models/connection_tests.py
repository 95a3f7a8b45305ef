"""Connection tests: one row per test, which all pages and the API read."""

from __future__ import annotations

from typing import Self

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from llm_credentials.models.credentials import UserCredential
from llm_credentials.models.sealed import KeyHolder

UNFINISHED = ("queued", "running")


class ConnectionTestQuerySet(models.QuerySet["ConnectionTest"]):
    def for_user(self, user: AbstractBaseUser | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.pk is not None else self.none()

    def unfinished(self) -> Self:
        return self.filter(state__in=UNFINISHED)


class ConnectionTest(KeyHolder):
    """A test of a stored key (``credential``), or of a typed one that stays sealed in ``api_key`` until it is tested.

    ``for_site``: staff test a key of the site: the stored one of ``system_credential_id``, one from the environment, or
    a typed one; ``user`` is the requester.
    """

    class State(models.TextChoices):
        QUEUED = "queued", _("Waiting")
        RUNNING = "running", _("Testing")
        VALID = "valid", _("Working")
        INVALID = "invalid", _("Refused")
        ERROR = "error", _("Could not be tested")
        EXPIRED = "expired", _("Not finished")

    class Replacement(models.TextChoices):
        """The outcome for a new key that is to replace a stored one."""

        WAITING = "waiting", _("Being tested")
        DONE = "done", _("In use")
        KEPT = "kept", _("Did not work: the old key stays")
        CONFLICT = "conflict", _("Worked, but the stored key was changed meanwhile")

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="connection_tests")
    name = models.CharField(max_length=40, default="default")
    credential = models.ForeignKey(
        UserCredential, on_delete=models.SET_NULL, null=True, blank=True, related_name="connection_tests"
    )
    for_site = models.BooleanField(default=False)
    system_credential_id = models.UUIDField(null=True, blank=True)
    """Not a foreign key: whoever removes a site key cannot see other users' tests."""
    token_id = models.UUIDField(null=True, blank=True)
    """Id of the requesting access token; the test ends when the token does. Not a foreign key, so that it outlives the
    token.
    """
    replaces = models.ForeignKey(UserCredential, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    """The stored key that the one in ``api_key`` replaces if it works and ``replaces_version`` is still current."""
    replaces_version = models.PositiveIntegerField(null=True, blank=True)
    replacement = models.CharField(max_length=8, choices=Replacement, blank=True, default="")
    state = models.CharField(max_length=8, choices=State, default=State.QUEUED)
    steps = models.JSONField(blank=True, default=list)
    """``{"name": "address"|"key"|"model"|"reply", "state": "ok"|"failed"|"skipped", "text": …}``, in order."""
    abilities = models.JSONField(blank=True, default=dict)
    """What a working key can do; see ``probing``."""
    detail = models.CharField(max_length=500, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = ConnectionTestQuerySet.as_manager()

    class Meta:
        db_table = "llm_connection_tests"
        constraints = [
            models.UniqueConstraint(
                fields=["user", "provider", "name", "for_site"],
                condition=Q(state__in=UNFINISHED),
                name="one_test_at_a_time",
            )
        ]
        indexes = [models.Index(fields=["user", "-created_at"], name="tests_by_user_and_time")]

    def __str__(self) -> str:
        return f"Test of {self.provider} · {self.name}: {self.state}"

    def owner_ref(self) -> str:
        return str(self.user_id)

    @property
    def can_be_saved(self) -> bool:
        """Whether a new key that was not swapped in is still held, so that the user can save it anyway."""
        waits = self.replacement in (self.Replacement.KEPT, self.Replacement.CONFLICT)
        return waits and self.has_key and self.replaces_id is not None

    @property
    def is_finished(self) -> bool:
        return self.state not in UNFINISHED

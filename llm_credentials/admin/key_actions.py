"""Actions on selected keys. Each reports how many keys it handled and why it skipped others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db import models
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from llm_credentials import staff
from llm_credentials.admin.bases import ModelAdmin
from llm_credentials.connection_tests import QueueUnavailable, TestBusy, TestLimited
from llm_credentials.limits import LimitReached
from llm_credentials.models import SystemCredential, UserCredential
from llm_credentials.policies import OPERATE_KEYS
from llm_credentials.tasks import enqueue_connection_test

Keys: TypeAlias = models.QuerySet[Any]


class KeyActions(ModelAdmin):
    """For staff who may operate the listed keys."""

    actions: Any = ("retest", "turn_off")

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return self.has_change_permission(request)

    @admin.action(description=gettext_lazy("Test the selected keys again"), permissions=["operate"])
    def retest(self, request: HttpRequest, queryset: Keys) -> None:
        def begin(key: UserCredential | SystemCredential) -> bool:
            user: Any = request.user
            enqueue_connection_test(staff.retest(key, by=user))
            return True

        done = self._each(request, queryset, begin)
        words = ngettext(
            "%(n)d key is being tested; its status changes when the test ends.",
            "%(n)d keys are being tested; their status changes when the tests end.",
            done,
        )
        self._tell(request, done, words)

    @admin.action(description=gettext_lazy("Turn the selected keys off"), permissions=["operate"])
    def turn_off(self, request: HttpRequest, queryset: Keys) -> None:
        done = self._each(request, queryset, staff.turn_off)
        words = ngettext("%(n)d key is turned off.", "%(n)d keys are turned off.", done)
        self._tell(request, done, words)

    def _tell(self, request: HttpRequest, done: int, words: str) -> None:
        if done:
            self.message_user(request, words % {"n": done}, messages.SUCCESS)
        else:
            self.message_user(request, _("Nothing was to be done."), messages.INFO)

    def _each(self, request: HttpRequest, keys: Iterable[Any], do: Callable[[Any], bool | None]) -> int:
        """Returns how many succeeded. A failure of one does not stop the others, except a rate limit."""
        refusals: Counter[str] = Counter()
        done = 0
        for key in keys:
            try:
                done += do(key) is not False
            except (TestLimited, QueueUnavailable) as reason:
                refusals[str(reason)] += 1
                break
            except (TestBusy, LimitReached) as reason:
                refusals[str(reason)] += 1
            except ValidationError as error:
                refusals[" ".join(error.messages)] += 1
        for words, count in refusals.items():
            self.message_user(request, f"{words} ({count})" if count > 1 else words, messages.WARNING)
        return done


class UserKeyActions(KeyActions):
    actions = ("retest", "turn_off", "ask_for_reentry")

    def has_operate_permission(self, request: HttpRequest) -> bool:
        user: Any = request.user
        return bool(user.has_perm(OPERATE_KEYS))

    @admin.action(description=gettext_lazy("Ask the owners to enter the selected keys again"), permissions=["operate"])
    def ask_for_reentry(self, request: HttpRequest, queryset: Keys) -> None:
        def ask(key: UserCredential) -> None:
            try:
                staff.ask_for_reentry(key)
            except LimitReached:
                words = _("The owner of %(key)s was asked already today.") % {"key": str(key)}
                raise ValidationError(words) from None

        done = self._each(request, queryset, ask)
        words = ngettext("%(n)d owner is asked by mail.", "%(n)d owners are asked by mail.", done)
        self._tell(request, done, words)

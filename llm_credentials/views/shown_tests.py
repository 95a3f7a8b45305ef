"""Connection tests as pages show them: steps, words and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from llm_credentials.models import ConnectionTest
from llm_credentials.providers import ProviderSpec

UNPICKED_AFTER_S = 4
"""A test queued longer than this is waiting for a worker; with one poll a second the page says so within 5 s."""

STEP_LABELS = (
    ("address", gettext_noop("Address")),
    ("key", gettext_noop("Key")),
    ("model", gettext_noop("Model")),
    ("reply", gettext_noop("Reply")),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    label: str
    state: str
    """``ok``, ``failed``, ``skipped``, ``running`` or ``waiting``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ability:
    """An ability for which a key was tested."""

    label: str
    answer: str
    """``yes``, ``no`` or ``unknown``."""

    @property
    def words(self) -> str:
        match self.answer:
            case "yes":
                return self.label
            case "no":
                return _("%(ability)s: no") % {"ability": self.label}
            case _:
                return _("%(ability)s: not known") % {"ability": self.label}


def abilities_of(found: Mapping[str, Any]) -> list[Ability]:
    """The results of ``probing.probe`` for display; empty if there are none."""
    results: Mapping[str, str] = found.get("results", {})
    labels = {
        "auth": _("Key"),
        "list": _("Model list"),
        "chat": _("Chat"),
        "stream": _("Streaming"),
        "tools": _("Tools"),
        "json": _("JSON"),
        "vision": _("Images"),
        "embeddings": _("Embeddings"),
    }
    if found.get("dimension"):
        labels["embeddings"] = _("Embeddings of %(count)s numbers") % {"count": number_format(found["dimension"])}
    return [Ability(label=label, answer=results[name]) for name, label in labels.items() if name in results]


@dataclass(frozen=True, kw_only=True, slots=True)
class TestView:
    """A connection test as a card shows it."""

    __test__ = False

    test: ConnectionTest
    spec: ProviderSpec | None

    @property
    def id(self) -> UUID:
        return self.test.pk

    @property
    def is_finished(self) -> bool:
        return self.test.is_finished

    @property
    def is_unpicked(self) -> bool:
        waited = timezone.now() - self.test.created_at
        return self.test.state == ConnectionTest.State.QUEUED and waited >= timedelta(seconds=UNPICKED_AFTER_S)

    @property
    def of_unsaved_key(self) -> bool:
        return self.test.credential_id is None

    @property
    def fate(self) -> str:
        """What happened to the tested key, if it was not the stored one."""
        kinds = ConnectionTest.Replacement
        match self.test.replacement:
            case kinds.DONE:
                return _("The new key is in use.")
            case kinds.KEPT:
                return _("The old key stays in use.")
            case kinds.CONFLICT:
                return _("The stored key was changed meanwhile, so it stays.")
            case _ if self.of_unsaved_key and self.test.state == ConnectionTest.State.VALID:
                return _("It is not saved yet.")
            case _:
                return ""

    @property
    def steps(self) -> list[Step]:
        told = {row["name"]: row["state"] for row in self.test.steps}
        running = self.test.state == ConnectionTest.State.RUNNING
        found = []
        for name, label in STEP_LABELS:
            state = told.get(name, "running" if running else "waiting")
            running = running and name in told
            found.append(Step(label=_(label), state=state))
        return found

    @property
    def steps_done(self) -> int:
        return sum(step.state == "ok" for step in self.steps)

    @property
    def abilities(self) -> list[Ability]:
        return abilities_of(self.test.abilities)

    @property
    def failed_step(self) -> str:
        return next((row["name"] for row in self.test.steps if row["state"] == "failed"), "")

    @property
    def meaning(self) -> str:
        """Style of its note."""
        match self.test.state:
            case ConnectionTest.State.VALID if self.test.replacement == ConnectionTest.Replacement.CONFLICT:
                return "attention"
            case ConnectionTest.State.VALID:
                return "valid"
            case ConnectionTest.State.INVALID:
                return "broken"
            case ConnectionTest.State.ERROR | ConnectionTest.State.EXPIRED:
                return "attention"
            case _:
                return "attention" if self.is_unpicked else "idle"

    @property
    def seen(self) -> str:
        """Changes whenever there is something new to show."""
        return f"{self.test.state}-{len(self.test.steps)}-{int(self.is_unpicked)}"

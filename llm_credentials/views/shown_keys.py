"""One key, or an empty place for one, as pages show it: its name, its state and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from llm_credentials import stepup
from llm_credentials.connection_tests import ModelList
from llm_credentials.forms import CredentialForm
from llm_credentials.models import UserCredential
from llm_credentials.providers import ProviderSpec
from llm_credentials.views.shown_tests import Ability, TestView, abilities_of

User = AbstractBaseUser | AnonymousUser

DEFAULT_NAME = "default"
RECENT = timedelta(minutes=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Todo:
    """What a key needs next."""

    meaning: str
    words: str
    action: str = ""
    """Label of the link that opens its card; empty if opening it would not help."""
    asks_key: bool = False
    """Whether to link to the provider's key page as well, because another key is needed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    spec: ProviderSpec
    name: str = DEFAULT_NAME
    credential: UserCredential | None = None
    test: TestView | None = None
    rank: int | None = None
    """Its position in the chain, from 1; None: not in use."""
    holds_default: bool = False
    """Whether its provider comes first, by the user's choice or by the order of the chain."""
    leads_provider: bool = True
    """The first of its provider's keys, which shows the default-provider choice."""
    form: CredentialForm | None = None
    models: ModelList | None = None
    asks_removal: bool = False
    refusal: str = ""
    """Why the organisation's policy forbids it; empty: allowed."""
    further_name: str = ""
    """Name for a further key of this provider."""
    locked: bool = False
    """Key and address are read-only until step-up."""

    @property
    def id(self) -> str:
        return f"{self.spec.slug}-{self.name}"

    @property
    def title(self) -> str:
        return self.spec.label if self.name == DEFAULT_NAME else f"{self.spec.label} · {self.name}"

    @property
    def query(self) -> str:
        return "" if self.name == DEFAULT_NAME else f"?name={self.name}"

    @property
    def is_further(self) -> bool:
        """A further key of a provider, which needs a distinct name."""
        return self.credential is None and self.name != DEFAULT_NAME

    @property
    def unlock_url(self) -> str:
        """Step-up that returns to this card with its key unlocked."""
        return stepup.url(reverse("llm_credentials:credential-edit", args=[self.spec.slug]) + self.query)

    @property
    def model_in_use(self) -> str:
        return (self.credential.model if self.credential else "") or self.spec.default_model

    @property
    def key_words(self) -> str:
        """The key's name in the removal dialogue."""
        return key_words(self.credential) if self.credential else ""

    @property
    def is_refused(self) -> bool:
        """Known not to work: refused by its provider, or unreadable."""
        status = UserCredential.Status
        return self.credential is not None and self.credential.shown_status in (status.INVALID, status.NEEDS_REENTRY)

    @property
    def is_ready(self) -> bool:
        """In use, with no known problem."""
        ready = (UserCredential.Status.VALID, UserCredential.Status.UNVERIFIED)
        return self.credential is not None and self.rank is not None and self.credential.shown_status in ready

    @property
    def is_testing(self) -> bool:
        return self.test is not None and not self.test.is_finished

    @property
    def status(self) -> tuple[str, str, bool]:
        """(meaning, words, whether to show the age of the last test)."""
        credential = self.credential
        if credential is None:
            return "idle", _("No key"), False
        if self.is_testing:
            return "active", _("Testing"), False
        if credential.needs_reentry:
            return "broken", _("Enter the key again"), False
        if not credential.is_active:
            return "idle", _("Off"), False
        if self.refusal:
            return "attention", _("Not allowed"), False
        if not self.model_in_use:
            return "attention", _("Choose a model"), False
        match credential.shown_status:
            case UserCredential.Status.VALID:
                return "valid", _("Valid"), True
            case UserCredential.Status.INVALID:
                return "broken", _("Refused"), True
            case UserCredential.Status.ERROR:
                return "attention", _("Test failed"), True
            case _:
                return "idle", _("Not tested"), False

    @property
    def todo(self) -> Todo | None:
        """What to do next, if anything."""
        credential = self.credential
        if credential is None or self.is_testing:
            return None
        if credential.needs_reentry:
            return Todo(
                meaning="broken", words=_("The stored key can no longer be opened."), action=_("Enter it again")
            )
        if not credential.is_active:
            return None
        if self.refusal:
            return Todo(meaning="attention", words=self.refusal)
        if not self.model_in_use:
            words = _("This provider has no usual model, so it cannot answer yet.")
            return Todo(meaning="attention", words=words, action=_("Choose a model"))
        match credential.shown_status:
            case UserCredential.Status.INVALID:
                words = _("It is passed over until it works.")
                return Todo(meaning="broken", words=words, action=_("Replace the key"), asks_key=True)
            case UserCredential.Status.ERROR:
                words = credential.status_detail or _("Its last test failed.")
                return Todo(meaning="attention", words=words, action=_("Look at it and test again"))
            case UserCredential.Status.UNVERIFIED:
                return Todo(meaning="idle", words=_("It has not been tested yet."), action=_("Test it"))
            case _:
                return None

    @property
    def abilities(self) -> list[Ability]:
        """What the stored key can do with its current model, from its last test."""
        credential = self.credential
        if credential is None or credential.shown_status != UserCredential.Status.VALID:
            return []
        found = credential.abilities
        return abilities_of(found) if found.get("model") == self.model_in_use else []

    @property
    def shown_test(self) -> TestView | None:
        """The last test, while it is relevant to what the card shows."""
        if self.test is None or not self.test.is_finished:
            return self.test
        finished_at = self.test.test.finished_at
        if self.credential is not None and self.credential.tested_at == finished_at and not self.test.of_unsaved_key:
            return self.test
        recent = finished_at is not None and timezone.now() - finished_at < RECENT
        return self.test if recent and self.test.of_unsaved_key else None

    @property
    def fresh_test(self) -> TestView | None:
        """The test that a closed card still shows."""
        test = self.shown_test
        if test is None or not test.is_finished:
            return test
        finished_at = test.test.finished_at
        return test if finished_at is not None and timezone.now() - finished_at < RECENT else None


def key_words(row: UserCredential) -> str:
    """The key's name when it is removed and when it is restored."""
    title = row.provider_label if row.name == DEFAULT_NAME else f"{row.provider_label} · {row.name}"
    if row.last4:
        return _("the %(provider)s key ending %(last4)s") % {"provider": title, "last4": row.last4}
    return _("the %(provider)s key") % {"provider": title}

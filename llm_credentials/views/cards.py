"""Data of the providers page, read once: the chain, a card for every key, a row for every provider without one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import OuterRef, Subquery
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from llm_credentials import removal
from llm_credentials.connection_tests import ModelList, from_catalogue
from llm_credentials.forms import CredentialForm
from llm_credentials.models import ConnectionTest, LLMSettings, UserCredential, system_credentials
from llm_credentials.policies import check_own_key, policy_of
from llm_credentials.providers.registry import spec_or_none, specs
from llm_credentials.routing.policy import Policy
from llm_credentials.views.shown_keys import DEFAULT_NAME, Card, User, key_words
from llm_credentials.views.shown_tests import TestView

MOST_NAMED = 6
"""Maximum number of keys in the sentence and the chain at the top; the cards below show all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """A recently removed key."""

    id: UUID
    words: str
    left_s: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ProvidersPage:
    cards: tuple[Card, ...]
    """One per stored key; keys in use come first, in chain order."""
    others: tuple[Card, ...]
    """Providers without a key."""
    fallback_to_system: bool
    system_labels: tuple[str, ...]
    """Providers for which the organisation has a key."""
    removed: tuple[Removed, ...] = ()
    """Keys that can still be restored."""
    open_card: Card | None = field(default=None)

    @property
    def chain(self) -> list[Card]:
        return [card for card in self.cards if card.rank is not None]

    @property
    def chain_begin(self) -> list[Card]:
        return self.chain[:MOST_NAMED]

    @property
    def chain_rest(self) -> int:
        """Number of keys in the chain beyond those drawn."""
        return len(self.chain[MOST_NAMED:])

    @property
    def can_be_ordered(self) -> bool:
        return len(self.chain) > 1

    @property
    def system_stands_behind(self) -> bool:
        return self.fallback_to_system and bool(self.system_labels)

    @property
    def refreshes(self) -> bool:
        """Whether the page without scripts should reload itself. Not while the user edits another key."""
        shown = (self.open_card,) if self.open_card else (*self.cards, *self.others)
        return any(card.is_testing for card in shown)

    @property
    def sentence(self) -> str:
        """Who answers, in one sentence; a second sentence names keys known not to work."""
        names = [card.title for card in self.chain]
        if not names:
            return self._sentence_without_keys()
        if len(names) == 1:
            words = _("%(first)s answers") % {"first": names[0]}
        else:
            words = _("%(first)s answers first, then %(rest)s") % {"first": names[0], "rest": _listed(names[1:])}
        if self.system_stands_behind:
            words = _("%(words)s; the organisation's keys stand behind") % {"words": words}
        return f"{words}.{self._refused()}"

    def _refused(self) -> str:
        names = [card.title for card in self.chain if card.is_refused]
        if not names:
            return ""
        words = ngettext(
            "The key of %(names)s does not work now.",
            "The keys of %(names)s do not work now.",
            len(names),
        )
        return " " + words % {"names": _listed(names)}

    def _sentence_without_keys(self) -> str:
        if self.system_stands_behind:
            return _("The organisation's keys answer for you. Add a key of your own to choose who does.")
        if any(card.credential and card.credential.is_active and card.credential.needs_reentry for card in self.cards):
            return _("Your keys can no longer be opened. Enter one again, and the agents can answer.")
        if self.cards:
            return _("None of your keys is in use. Turn one on, and the agents can answer.")
        return _("No key yet. Add one, and the agents can answer.")

    def card(self, slug: str, name: str) -> Card | None:
        return next((card for card in (*self.cards, *self.others) if (card.spec.slug, card.name) == (slug, name)), None)


def _listed(names: Sequence[str]) -> str:
    """``A``, ``A and B``, ``A, B and C``; long lists are cut: ``A, B, C and 40 more``."""
    if len(names) < 2:
        return "".join(names)
    if len(names) > MOST_NAMED:
        rest = len(names) - MOST_NAMED + 1
        words = ngettext("%(several)s and %(count)s more", "%(several)s and %(count)s more", rest)
        return words % {"several": ", ".join(names[: MOST_NAMED - 1]), "count": rest}
    return _("%(several)s and %(last)s") % {"several": ", ".join(names[:-1]), "last": names[-1]}


def providers_page(user: User) -> ProvidersPage:
    """Five queries, whatever the number of providers and keys; some more when a removed key is due."""
    policy = policy_of(user)
    preferences = LLMSettings.of(user)  # type: ignore[arg-type]
    rows = list(UserCredential.with_removed.for_user(user).in_order())
    credentials = [row for row in rows if row.removed_at is None]
    tests = _latest_tests(user)
    found = [_under(policy, card) for card in _cards(credentials, tests)]
    cards = _named(_ranked(found, preferences.default_provider))
    stored = {card.spec.slug for card in cards}
    others = tuple(
        _under(policy, Card(spec=spec, test=_test_view(tests.get((spec.slug, DEFAULT_NAME)))))
        for spec in specs()
        if spec.slug not in stored
    )
    return ProvidersPage(
        cards=tuple(cards),
        others=others,
        removed=_removed(user, rows),
        fallback_to_system=preferences.fallback_to_system,
        system_labels=tuple(
            dict.fromkeys(
                row.provider_label
                for row in system_credentials()
                if policy.system_keys and policy.allows_provider(row.provider)
            )
        ),
    )


def removed_keys(user: User) -> tuple[Removed, ...]:
    return _removed(user, UserCredential.with_removed.for_user(user).filter(removed_at__isnull=False))


def _removed(user: User, rows: Iterable[UserCredential]) -> tuple[Removed, ...]:
    """Keys that can still be restored; those whose time is over are destroyed."""
    left = [(row, removal.seconds_left(row)) for row in rows if row.removed_at is not None]
    if any(left_s == 0 for _, left_s in left):
        removal.destroy_due(user)
    return tuple(
        Removed(id=row.pk, words=key_words(row), left_s=left_s)
        for row, left_s in sorted(left, key=lambda each: each[1])
        if left_s > 0
    )


def _latest_tests(user: User) -> dict[tuple[str, str], ConnectionTest]:
    newest = ConnectionTest.objects.filter(
        user_id=OuterRef("user_id"), provider=OuterRef("provider"), name=OuterRef("name")
    ).order_by("-created_at", "-id")
    tests = ConnectionTest.objects.for_user(user).filter(pk=Subquery(newest.values("pk")[:1])).defer("api_key")
    return {(test.provider, test.name): test for test in tests}


def _test_view(test: ConnectionTest | None) -> TestView | None:
    return TestView(test=test, spec=test.spec_or_none) if test is not None else None


def _cards(credentials: Iterable[UserCredential], tests: dict[tuple[str, str], ConnectionTest]) -> list[Card]:
    """A card for each credential whose provider this site still has."""
    found: list[Card] = []
    for credential in credentials:
        spec = spec_or_none(credential.provider)
        if spec is None:
            continue
        test = _test_view(tests.get((credential.provider, credential.name)))
        leads = all(card.spec.slug != spec.slug for card in found)
        found.append(Card(spec=spec, name=credential.name, credential=credential, test=test, leads_provider=leads))
    return found


def _ranked(cards: list[Card], default_provider: str) -> list[Card]:
    """In chain order: the default provider's keys, then the others by priority, then those out of use."""
    in_order = sorted(cards, key=lambda card: (not _may_answer(card), card.spec.slug != default_provider))
    first = default_provider if any(card.spec.slug == default_provider for card in cards) else ""
    if not first and in_order:
        first = in_order[0].spec.slug
    ranked = []
    rank = 0
    for card in in_order:
        rank += _may_answer(card)
        ranked.append(replace(card, rank=rank if _may_answer(card) else None, holds_default=card.spec.slug == first))
    return ranked


def _named(cards: Iterable[Card]) -> list[Card]:
    """Adds a free name for a further key of each provider."""
    cards = list(cards)
    taken = {(card.spec.slug, card.name) for card in cards}

    def free(slug: str) -> str:
        return next(name for number in count(2) if (slug, name := f"key-{number}") not in taken)

    return [replace(card, further_name=free(card.spec.slug)) for card in cards]


def _under(policy: Policy, card: Card) -> Card:
    """The card with the policy's refusal, if any. Without a stored key the model is not checked."""
    stored = card.credential
    model, base_url = (card.model_in_use, stored.base_url) if stored else (None, "")
    try:
        check_own_key(policy, card.spec, model=model, base_url=base_url)
    except ValidationError as error:
        return replace(card, refusal=" ".join(error.messages))
    return card


def _may_answer(card: Card) -> bool:
    credential = card.credential
    if card.refusal:
        return False
    return credential is not None and credential.is_active and not credential.needs_reentry and bool(card.model_in_use)


def opened(
    card: Card, *, form: CredentialForm | None = None, models: ModelList | None = None, locked: bool = False
) -> Card:
    """The card with its form; a bound ``form`` keeps the input except keys."""
    return replace(
        card,
        locked=locked,
        form=form or CredentialForm(spec=card.spec, name=card.name, credential=card.credential),
        models=models or from_catalogue(card.spec),
    )


def with_card(page: ProvidersPage, card: Card) -> ProvidersPage:
    """The page with this card in place of the one with its provider and name; a new card goes after its provider's
    others.
    """
    cards = [card if old.id == card.id else old for old in page.cards]
    others = [card if old.id == card.id else old for old in page.others]
    if not any(old is card for old in (*cards, *others)):
        kin = [place for place, old in enumerate(cards) if old.spec.slug == card.spec.slug]
        if kin:
            cards.insert(kin[-1] + 1, card)
        else:
            others.insert(0, card)
    return replace(page, cards=tuple(cards), others=tuple(others), open_card=card)

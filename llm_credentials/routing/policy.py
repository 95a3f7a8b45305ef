"""What staff allow a user. Pure: ``routing.snapshot`` and ``llm_credentials.policies`` read the rows.

Several policies may apply to one user: those for everybody and those of the user's groups. They combine by one rule: a
thing is allowed only if every policy allows it, and every limit applies. So joining a group or adding a policy never
grants anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import lru_cache

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from llm_credentials.providers.spec import ProviderSpec

NO_OWN_KEYS = gettext_noop("Your organisation's policy allows no keys of your own, only the organisation's.")
NO_SYSTEM_KEYS = gettext_noop("Your organisation's policy keeps its keys from this account.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """One policy, or several combined; by default everything is allowed."""

    providers: tuple[frozenset[str], ...] = ()
    """Slugs; a provider must be in every set."""
    models: tuple[tuple[str, ...], ...] = ()
    """Patterns ``provider/model`` with ``*`` and ``?``; a model must match one pattern of each group."""
    own_keys: bool = True
    custom_addresses: bool = True
    """Whether a user's own key may have a custom address."""
    system_keys: bool = True
    system_daily_usd: Decimal | None = None
    """What a user may spend per day on the site's keys; ``None``: no limit."""
    rates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Kind of call (see ``llm_credentials.limits``) → rates such as ``10/m``, which apply in addition to the site's."""

    @property
    def words(self) -> list[str]:
        """The restrictions in words, one line each."""
        lines = [f"providers: {', '.join(sorted(allowed))}" for allowed in self.providers]
        lines += [f"models: {', '.join(patterns)}" for patterns in self.models]
        forbidden = {
            _("no keys of the user's own"): self.own_keys,
            _("no addresses of the user's own"): self.custom_addresses,
            _("no keys of the site"): self.system_keys,
        }
        lines += [words for words, allowed in forbidden.items() if not allowed]
        if self.system_daily_usd is not None:
            lines.append(
                _("a day on the site's keys: $%(system_daily_usd)s")
                % {"system_daily_usd": f"{self.system_daily_usd:.2f}"}
            )
        return [*lines, *(f"{kind}: {', '.join(rates)}" for kind, rates in self.rates.items())]

    def allows_provider(self, slug: str) -> bool:
        return all(slug in allowed for allowed in self.providers)

    def allows_model(self, provider: str, model: str) -> bool:
        return all(_fits(patterns, provider, model) for patterns in self.models)

    # Refusal messages that say what to do; empty if allowed.

    def refusal_of_provider(self, spec: ProviderSpec) -> str:
        if self.allows_provider(spec.slug):
            return ""
        return _("%(provider)s is not allowed by your organisation's policy. Use another provider.") % {
            "provider": spec.label
        }

    def refusal_of_model(self, provider: str, model: str) -> str:
        if not model or self.allows_model(provider, model):
            return ""
        patterns = ", ".join(_patterns_for(self.models, provider))
        advice = (
            _("It allows: %(patterns)s.") % {"patterns": patterns}
            if patterns
            else _("It allows no model of this provider.")
        )
        return _("%(model)s is not allowed by your organisation's policy. %(advice)s") % {
            "model": model,
            "advice": advice,
        }

    def refusal_of_address(self, spec: ProviderSpec, base_url: str) -> str:
        if self.custom_addresses or not base_url:
            return ""
        if spec.needs_base_url:
            return _("Your organisation's policy allows no addresses of your own, which %(provider)s needs.") % {
                "provider": spec.label
            }
        return _("Your organisation's policy allows %(provider)s at its own address only. Leave the address empty.") % {
            "provider": spec.label
        }


EVERYTHING = Policy()


def combined(policies: Iterable[Policy]) -> Policy:
    """The combination of all policies; everything is allowed if there are none."""
    several = tuple(policies)
    if len(several) == 1:
        return several[0]
    allowances = [policy.system_daily_usd for policy in several if policy.system_daily_usd is not None]
    rates: dict[str, tuple[str, ...]] = {}
    for policy in several:
        for kind, given in policy.rates.items():
            rates[kind] = tuple(dict.fromkeys((*rates.get(kind, ()), *given)))
    return Policy(
        providers=tuple(allowed for policy in several for allowed in policy.providers),
        models=tuple(patterns for policy in several for patterns in policy.models),
        own_keys=all(policy.own_keys for policy in several),
        custom_addresses=all(policy.custom_addresses for policy in several),
        system_keys=all(policy.system_keys for policy in several),
        system_daily_usd=min(allowances, default=None),
        rates=rates,
    )


@lru_cache(maxsize=8192)
def _fits(patterns: tuple[str, ...], provider: str, model: str) -> bool:
    for pattern in patterns:
        # Matched part by part: a model name with a slash must not pass for another provider's.
        of_provider, _, of_model = pattern.partition("/")
        if fnmatchcase(provider, of_provider) and fnmatchcase(model, of_model):
            return True
    return False


def _patterns_for(groups: Iterable[tuple[str, ...]], provider: str) -> list[str]:
    """The model patterns of the first group that apply to this provider."""
    for patterns in groups:
        return [pattern.partition("/")[2] for pattern in patterns if fnmatchcase(provider, pattern.partition("/")[0])]
    return []

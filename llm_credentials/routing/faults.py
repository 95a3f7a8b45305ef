"""Why a key is left out of a route: preferences, policies, the access token's limits, or the key's own state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.utils.translation import gettext as _

from llm_credentials.providers.spec import ModelFacts, ProviderSpec
from llm_credentials.routing.policy import NO_OWN_KEYS, NO_SYSTEM_KEYS
from llm_credentials.routing.values import Key, Request, Snapshot, Step, Why


def facts_of(snapshot: Snapshot, provider: str, model: str) -> ModelFacts | None:
    spec = snapshot.specs.get(provider)
    return spec.model_facts(model) if spec else None


def lacking(snapshot: Snapshot, request: Request, key: Key, model: str) -> list[str]:
    """Needs that the model is known not to meet; an unknown model is assumed to meet all."""
    facts = facts_of(snapshot, key.provider, model)
    return sorted(request.needs - facts.capabilities) if facts else []


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """Decides which candidates of one request are left out."""

    snapshot: Snapshot
    request: Request
    consent: bool
    """Whether the user allows fallback to the site's keys for this task."""
    head_step: Step
    """The first step of the chain; without fallback, the only one."""
    head_provider: str

    def of(
        self, key: Key, model: str, step: Step, cooling: Mapping[str, float]
    ) -> tuple[Why, str, float | None] | None:
        """Why this candidate is left out; None if it may be tried."""
        spec = self.snapshot.specs.get(key.provider)
        if spec is None:
            return "unknown_provider", _("This site does not offer the provider."), None
        if refused := self._refused(key, step) or self._disallowed(spec, key):
            return *refused, None
        if not key.is_active:
            return "inactive", _("Turned off."), None
        if not key.readable:
            return "unreadable", _("The key can no longer be opened. Enter it again."), None
        if spec.key_required and not key.has_key:
            return "no_key", _("No key is stored."), None
        if spec.needs_base_url and not key.base_url:
            return "no_address", _("No address is stored."), None
        if not model:
            return "no_model", _("No model is chosen, and the provider has no default."), None
        if refusal := self.snapshot.policy.refusal_of_model(key.provider, model):
            return "not_allowed", refusal, None
        if missing := lacking(self.snapshot, self.request, key, model):
            return (
                "unable",
                _("%(model)s cannot do this: %(value)s.") % {"model": model, "value": ", ".join(missing)},
                None,
            )
        if key.owner == "system" and not self.snapshot.system_unpriced and self.snapshot.price(spec, model) is None:
            return "unpriced", _unpriced(model), None
        if key.ref in self.request.without:
            return "supposed", _("Supposed to have failed."), None
        return self._resting(key, cooling)

    def _refused(self, key: Key, step: Step) -> tuple[Why, str] | None:
        if not self.request.fallback and (step != self.head_step or key.provider != self.head_provider):
            return "no_fallback", _("The call asks for no fallback.")
        if key.owner == "user":
            return None
        if not self.consent:
            return "no_consent", _("Falling back to the site's keys is turned off.")
        return None

    def _disallowed(self, spec: ProviderSpec, key: Key) -> tuple[Why, str] | None:
        """What the token and the organisation's policy say about the key; ``fault`` checks the model."""
        if self.request.providers is not None and key.provider not in self.request.providers:
            return "not_allowed", _("The access token of this call may not use %(provider)s.") % {
                "provider": spec.label
            }
        policy = self.snapshot.policy
        if key.owner == "system":
            refusal = "" if policy.system_keys else _(NO_SYSTEM_KEYS)
        elif not policy.own_keys:
            refusal = _(NO_OWN_KEYS)
        else:
            refusal = policy.refusal_of_address(spec, key.base_url)
        refusal = policy.refusal_of_provider(spec) or refusal
        return ("not_allowed", refusal) if refusal else None

    @staticmethod
    def _resting(key: Key, cooling: Mapping[str, float]) -> tuple[Why, str, float | None] | None:
        if (seconds := cooling.get(key.ref, 0.0)) > 0:
            return (
                "cooling_down",
                _("The provider asked for a pause; %(seconds)s s are left.") % {"seconds": f"{seconds:.0f}"},
                seconds,
            )
        if (seconds := cooling.get(key.destination, 0.0)) > 0:
            return (
                "destination_down",
                _("The provider failed repeatedly; tried again in %(seconds)s s.") % {"seconds": f"{seconds:.0f}"},
                seconds,
            )
        return None


def _unpriced(model: str) -> str:
    return _(
        "The price of %(model)s is unknown, and the site's keys may not call such models; staff "
        "can allow it with unpriced_models in the system allowance."
    ) % {"model": model}

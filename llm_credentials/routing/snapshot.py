"""Loads everything that a route depends on from the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any, TypeAlias, TypeGuard
from uuid import UUID

from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db.models import Avg, Exists, F, OuterRef
from django.db.models.functions import Coalesce
from django.utils import timezone

from llm_credentials import conf, egress
from llm_credentials.ledger.budgets import Limits, limits_from
from llm_credentials.ledger.prices import per_million_usd
from llm_credentials.live.access import Right
from llm_credentials.models import (
    GroupPolicy,
    LLMSettings,
    SearchCredential,
    SystemConfig,
    SystemCredential,
    TaskOverride,
    UsageRecord,
    UserCredential,
)
from llm_credentials.models.credentials import EnvironmentCredential, environment_credentials
from llm_credentials.providers import ProviderSpec, specs
from llm_credentials.routing.policy import Policy, combined
from llm_credentials.routing.resolve import resolve, targets
from llm_credentials.routing.values import Key, Override, Preferences, Request, Route, Snapshot, SystemChoice
from llm_credentials.tripwire import Tripwire
from llm_credentials.wall import acting_for

Person: TypeAlias = AbstractBaseUser | AnonymousUser
ROUTES_MAX = 200
"""Cached per snapshot."""
EVERYBODY = 0
"""No group has this id."""
MEASURED_FOR = timedelta(days=3)
Row: TypeAlias = UserCredential | SystemCredential | EnvironmentCredential


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A snapshot, and its rows by ``Key.ref``, to be decrypted when a candidate is tried."""

    user_id: Any
    snapshot: Snapshot
    rows: Mapping[str, Row]
    limits: Limits
    targets: frozenset[str]
    """Everything in the snapshot that may be cooling down."""
    search_keys: Sequence[SearchCredential] = ()
    """Not part of any route; used to scan outgoing content."""
    routes: dict[Request, Route] = field(default_factory=dict, repr=False, compare=False)
    """Routes resolved while nothing was cooling down."""
    within_token: dict[Any, Limits] = field(default_factory=dict, repr=False, compare=False)
    """The limits of calls with a token, by token and budget."""

    rights: dict[Any, Right] = field(default_factory=dict, repr=False, compare=False)
    """What the calls' permission depends on, by key and token."""

    def right(self, key: Key | None, token_id: UUID | None) -> Right:
        rests_on = None if key is None or key.id is None else (key.owner, key.id)
        found = self.rights.get((rests_on, token_id))
        if found is None:
            if len(self.rights) >= ROUTES_MAX:
                self.rights.clear()
            found = self.rights[rests_on, token_id] = Right(self.user_id, rests_on, token_id)
        return found

    @cached_property
    def tripwire(self) -> Tripwire:
        """Finds these keys in outgoing content."""
        return Tripwire([*self.rows.values(), *self.search_keys])

    @property
    def takes_turns(self) -> bool:
        """Whether a route depends on ``Request.turn``."""
        return self.snapshot.preferences.strategy == LLMSettings.Strategy.BALANCED

    def route(self, request: Request, cooling: Mapping[str, float]) -> Route:
        """As ``resolve``; cached for the life of this snapshot if nothing is cooling down."""
        if cooling or self.takes_turns:
            return resolve(self.snapshot, request, cooling)
        route = self.routes.get(request)
        if route is None:
            if len(self.routes) >= ROUTES_MAX:
                self.routes.clear()
            route = self.routes[request] = resolve(self.snapshot, request)
        return route


@dataclass(frozen=True, kw_only=True)
class Site:
    """What is the same for every user."""

    rows: Sequence[SystemCredential | EnvironmentCredential]
    config: Mapping[str, Any]
    policies: Mapping[int, Sequence[Policy]]
    """By group id; policies for everybody are under ``EVERYBODY``."""
    allowances_set_at: datetime | None = None
    """When staff last changed the spending limits on the site's keys, in the system config or a policy."""

    @cached_property
    def tripwire(self) -> Tripwire:
        return Tripwire(self.rows)

    def policy_of(self, group_ids: Set[int]) -> Policy:
        groups = sorted(group_ids & self.policies.keys())
        return combined(policy for group in (EVERYBODY, *groups) for policy in self.policies.get(group, ()))


def load_site() -> Site:
    """Synchronous: three queries, and one for the allowed addresses, which are needed to open any key."""
    egress.policy()
    policies: dict[int, list[Policy]] = {}
    changes: list[datetime] = []
    for row in GroupPolicy.objects.order_by("created_at"):
        policies.setdefault(row.group_id or EVERYBODY, []).append(row.value)
        changes.append(row.updated_at)
    config = {row.key: row for row in SystemConfig.objects.filter(category="llm")}
    changes += [row.updated_at for key, row in config.items() if key == "system_allowance"]
    return Site(
        rows=[*SystemCredential.objects.all(), *environment_credentials()],
        config={key: row.value for key, row in config.items()},
        policies=policies,
        allowances_set_at=max(changes, default=None),
    )


def load(user: Person, site: Site) -> Loaded:
    """Synchronous: three indexed queries; one more each for users with the fastest strategy or with search keys."""
    with acting_for(user.pk):
        return _load(user, site)


def _load(user: Person, site: Site) -> Loaded:
    user_id: Any = user.pk
    person, group_ids = _active(user_id)
    settings = getattr(person, "llm_settings", None) or LLMSettings(user_id=user_id)
    own = list(UserCredential.objects.for_user(user))
    rows: dict[str, Row] = {ref(row): row for row in (*own, *site.rows)}
    config = site.config
    policy = site.policy_of(group_ids)
    allowance = getattr(person, "llm_allowance", None)
    limits = limits_from(
        settings.monthly_budget_usd if settings.budget_stops else None,
        config.get("system_allowance"),
        policy_usd=policy.system_daily_usd,
        exception_usd=allowance.daily_usd if allowance else None,
        own_set_at=settings.updated_at,
        system_set_at=max(filter(None, (site.allowances_set_at, allowance and allowance.updated_at)), default=None),
    )
    snapshot = Snapshot(
        specs={spec.slug: spec for spec in specs()},
        user_active=person is not None,
        preferences=_preferences(settings),
        keys=tuple(_key(row) for row in own),
        system_keys=tuple(_key(row) for row in site.rows),
        overrides={override.task: _override(override) for override in TaskOverride.objects.for_user(user)},
        completions=system_choice(config.get("completions_config")),
        embeddings=system_choice(config.get("embeddings_config")),
        default_provider=conf.default_provider(),
        policy=policy,
        system_unpriced=limits.system_unpriced,
        price=_price_today,
        latency_ms=_latencies(user_id) if settings.strategy == LLMSettings.Strategy.FASTEST else {},
    )
    return Loaded(
        user_id=user_id,
        snapshot=snapshot,
        rows=rows,
        limits=limits,
        targets=targets(snapshot),
        search_keys=list(SearchCredential.objects.for_user(user)) if getattr(person, "searches", False) else [],
    )


def _active(user_id: Any) -> tuple[AbstractBaseUser | None, set[int]]:
    """The user with settings and group ids; None for one who is deactivated, deleted or not signed in.

    One query, with a row for each group; adds ``searches``: whether the user has keys of search services.
    """
    users = get_user_model()._default_manager.select_related("llm_settings", "llm_allowance")
    searches = Exists(SearchCredential.objects.filter(user=OuterRef("pk")))
    rows = list(users.filter(pk=user_id, is_active=True).annotate(in_group=F("groups"), searches=searches))
    return (rows[0] if rows else None), {row.in_group for row in rows if row.in_group is not None}


def _price_today(spec: ProviderSpec, model: str) -> Decimal | None:
    return per_million_usd(spec, model, timezone.now().toordinal())


def _latencies(user_id: Any) -> dict[str, float]:
    """This user's recent latency per own key: time to first content of streams, otherwise to the end."""
    rows = (
        UsageRecord.objects.filter(user_id=user_id, at__gte=timezone.now() - MEASURED_FOR, outcome="ok")
        .filter(key_owner=UsageRecord.KeyOwner.USER)
        .values("credential_id")
        .annotate(waited_ms=Avg(Coalesce("ttft_ms", "latency_ms")))
        .values_list("credential_id", "waited_ms")
    )
    return {f"user:{credential_id}": latency_ms for credential_id, latency_ms in rows if latency_ms is not None}


def ref(row: Row) -> str:
    match row:
        case UserCredential():
            return f"user:{row.pk}"
        case SystemCredential():
            return f"system:{row.pk}"
        case EnvironmentCredential():
            return f"environment:{row.provider}"


def _key(row: Row) -> Key:
    return Key(
        ref=ref(row),
        id=row.pk,
        owner="user" if isinstance(row, UserCredential) else "system",
        provider=row.provider,
        label=row.provider_label,
        name=row.name,
        model=row.model,
        base_url=row.base_url,
        is_active=row.is_active,
        readable=not row.needs_reentry,
        has_key=row.has_key,
        priority=row.priority,
        created_at=0.0 if isinstance(row, EnvironmentCredential) else row.created_at.timestamp(),
        version=row.version,
        from_environment=isinstance(row, EnvironmentCredential),
    )


def _preferences(row: LLMSettings) -> Preferences:
    return Preferences(
        default_provider=row.default_provider,
        fallback_to_system=row.fallback_to_system,
        temperature=row.temperature,
        max_tokens=row.max_tokens,
        strategy=row.strategy,
    )


def _override(row: TaskOverride) -> Override:
    return Override(
        credential=row.credential_id,
        provider=row.provider,
        model=row.model,
        temperature=row.temperature,
        max_tokens=row.max_tokens,
        fallback_to_system=row.fallback_to_system,
    )


def system_choice(value: object) -> SystemChoice:
    """Staff can put anything into a JSON field: an invalid value counts as not set."""
    if not isinstance(value, Mapping):
        return SystemChoice()
    temperature, max_tokens = value.get("temperature"), value.get("max_tokens")
    return SystemChoice(
        credential=_uuid(value.get("credential")),
        provider=_text(value.get("provider")),
        model=_text(value.get("model")),
        temperature=temperature if _is_number(temperature) and 0 <= temperature <= 2 else None,
        max_tokens=max_tokens if type(max_tokens) is int and max_tokens > 0 else None,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _uuid(value: object) -> UUID | None:
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""Imports keys from a pasted ``.env`` text: shows what each line would become, then stores the chosen ones.

The provider rows say which variables are theirs (``env_key_names``, ``env_prefix``). Only the imported keys are stored,
not the text, and no message repeats a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from llm_credentials.models import UserCredential
from llm_credentials.models.sealed import MASK
from llm_credentials.policies import check_own_key, policy_of
from llm_credentials.providers import ProviderSpec
from llm_credentials.providers.registry import recognise, specs
from llm_credentials.services import Draft, credential_check, credential_save
from llm_credentials.validation import clean_name, clean_provider

MAX_CHARS: Final = 65_536
MAX_LINES: Final = 1_000
MAX_KEYS: Final = 50
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]{0,99})\s*=(.*)", re.S)
_COMMENT = re.compile(r"\s#.*")
_UNFIT = re.compile(r"[^a-z0-9-]+")
SHAPE_MIN_LENGTH: Final = 20
"""Shorter values are not taken for a key by their prefix alone."""

Outcome: TypeAlias = Literal["add", "replace", "same", "choose", "refused", "saved"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """The user's choice for a variable; empty: as proposed."""

    provider: str = ""
    name: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvKey:
    """A variable that holds a key, and what importing it would do."""

    variable: str
    api_key: str = field(repr=False)
    spec: ProviderSpec | None
    name: str
    outcome: Outcome
    words: str = ""
    model: str = ""
    base_url: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    choices: tuple[ProviderSpec, ...] = ()
    """The candidate providers when the key's shape fits several."""

    @property
    def masked(self) -> str:
        return f"{MASK} {self.api_key[-4:]}" if len(self.api_key) >= UserCredential.LAST4_FROM_LENGTH else MASK

    @property
    def can_be_taken(self) -> bool:
        return self.outcome in ("add", "replace", "choose")

    @property
    def is_proposed(self) -> bool:
        """Whether it is imported by default: it replaces nothing and its provider is unambiguous."""
        return self.outcome == "add"


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvPlan:
    keys: tuple[EnvKey, ...]
    ignored: int
    """The number of other variables."""


@sensitive_variables()
def env_plan(*, user: AbstractBaseUser, text: str, wishes: Mapping[str, Wish] | None = None) -> EnvPlan:
    """What importing each key in this text would do. Writes nothing. Raises ValidationError on ``text``."""
    values = read_env(text)
    stored = {(row.provider, row.name): row for row in UserCredential.objects.for_user(user)}
    taken: dict[tuple[str, str], str] = {}
    found: list[EnvKey] = []
    for proposal in _proposals(values):
        wish = (wishes or {}).get(proposal.variable, Wish())
        key = _judged(user, _wished(proposal, wish), stored, taken)
        if key.spec is not None and key.outcome in ("add", "replace"):
            taken[key.spec.slug, key.name] = key.variable
        found.append(key)
    if len(found) > MAX_KEYS:
        raise _refusal(_("There are more than %(count)d keys in it. Paste fewer at once.") % {"count": MAX_KEYS})
    used = {name for key in found for name in (key.variable, *_beside(key))}
    return EnvPlan(keys=tuple(found), ignored=len(values.keys() - used))


@sensitive_variables()
def env_import(*, user: AbstractBaseUser, text: str, take: Mapping[str, Wish] | None = None) -> EnvPlan:
    """Store the keys of these variables (None: the proposed ones), each independently; the rest as in ``env_plan``.

    The caller has checked step-up authentication and tests the stored keys. Raises ValidationError on ``text``.
    """
    plan = env_plan(user=user, text=text, wishes=take)
    keys = []
    for key in plan.keys:
        wanted = key.is_proposed if take is None else key.variable in take
        keys.append(_saved(user, key) if wanted and key.outcome in ("add", "replace") else key)
    return replace(plan, keys=tuple(keys))


@sensitive_variables()
def read_env(text: str) -> dict[str, str]:
    """The variables of a ``.env`` text; the last one wins. Raises ValidationError on ``text``."""
    if len(text) > MAX_CHARS or text.count("\n") > MAX_LINES:
        words = _("This is too long: at most %(chars)d characters on %(lines)d lines.")
        raise _refusal(words % {"chars": MAX_CHARS, "lines": MAX_LINES})
    if "\0" in text:
        raise _refusal(_("This is no text."))
    found: dict[str, str] = {}
    for line in text.lstrip("\ufeff").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = _LINE.fullmatch(line)
        if parts is not None:
            found[parts[1]] = _value(parts[2])
    if not found:
        raise _refusal(_("There is no line like NAME=value in it."))
    return found


@sensitive_variables()
def _value(text: str) -> str:
    text = text.strip()
    if text[:1] in ("'", '"'):
        end = text.find(text[0], 1)
        return text[1:end] if end > 0 else text
    return _COMMENT.sub("", text).strip()


def _refusal(words: str) -> ValidationError:
    return ValidationError({"text": [words]})


@sensitive_variables()
def _proposals(values: Mapping[str, str]) -> Iterator[EnvKey]:
    """One entry per variable whose name or value looks like a key's."""
    for variable, value in values.items():
        spec, suffix = _named(variable)
        if not value or (spec is None and len(value) < SHAPE_MIN_LENGTH):
            continue
        choices = () if spec is not None else recognise(value)
        if spec is None and not choices:
            continue
        if spec is None and len(choices) == 1:
            spec, suffix = choices[0], variable
        prefix = spec.env_prefix if spec is not None else ""
        declared = [each.name for each in spec.options] if spec is not None else []
        options = {each: values.get(f"{prefix}_{each.upper()}", "") for each in declared}
        yield EnvKey(
            variable=variable,
            api_key=value,
            spec=spec,
            name=_name(suffix),
            outcome="add",
            model=values.get(f"{prefix}_MODEL", "") if prefix else "",
            base_url=values.get(f"{prefix}_BASE_URL", "") if prefix else "",
            options={name: text for name, text in options.items() if text},
            choices=choices if spec is None else (),
        )


def _beside(key: EnvKey) -> list[str]:
    """The other variables that configure this key."""
    if key.spec is None:
        return []
    said = {"MODEL": key.model, "BASE_URL": key.base_url, **{name.upper(): text for name, text in key.options.items()}}
    return [f"{key.spec.env_prefix}_{end}" for end, text in said.items() if text]


def _named(variable: str) -> tuple[ProviderSpec | None, str]:
    """The provider with the longest matching variable name, and the rest of the name."""
    fits = [
        (len(name), spec, variable[len(name) :].strip("_"))
        for spec in specs()
        for name in spec.env_key_names
        if variable == name or variable.startswith(f"{name}_")
    ]
    best = max(fits, key=lambda each: each[0], default=None)
    return (best[1], best[2]) if best is not None else (None, "")


def _name(suffix: str) -> str:
    return _UNFIT.sub("-", suffix.lower()).strip("-")[:40] or "default"


def _wished(key: EnvKey, wish: Wish) -> EnvKey:
    """Applies the user's choice. Raises ValidationError on ``provider`` or ``name``."""
    spec = clean_provider(wish.provider) if wish.provider else key.spec
    return replace(key, spec=spec, name=clean_name(wish.name) if wish.name else key.name)


@sensitive_variables()
def _judged(
    user: AbstractBaseUser,
    key: EnvKey,
    stored: Mapping[tuple[str, str], UserCredential],
    taken: Mapping[tuple[str, str], str],
) -> EnvKey:
    spec = key.spec
    if spec is None:
        names = _(" or ").join(each.label for each in key.choices)
        return replace(key, outcome="choose", words=_("Keys of %(names)s look like this.") % {"names": names})
    if (other := taken.get((spec.slug, key.name))) is not None:
        words = _("%(variable)s has this name already. Give one of them another name.") % {"variable": other}
        return replace(key, outcome="refused", words=words)
    row = stored.get((spec.slug, key.name))
    if row is not None and row.is_key(key.api_key):
        return replace(key, outcome="same", words=_("This key is stored already."))
    try:
        checked = credential_check(provider=spec.slug, name=key.name, stored=row, draft=_draft(key))
        check_own_key(policy_of(user), spec, model=checked.model, base_url=checked.base_url)
    except ValidationError as error:
        return replace(key, outcome="refused", words=" ".join(error.messages))
    if row is not None:
        words = _("It takes the place of the key %(key)s.") % {"key": row.masked}
        return replace(key, outcome="replace", words=words)
    return replace(key, outcome="add")


def _draft(key: EnvKey) -> Draft:
    return Draft(
        api_key=key.api_key,
        model=key.model or None,
        base_url=key.base_url or None,
        options=key.options or None,
    )


@sensitive_variables()
def _saved(user: AbstractBaseUser, key: EnvKey) -> EnvKey:
    assert key.spec is not None
    try:
        credential_save(
            user=user,
            provider=key.spec.slug,
            name=key.name,
            api_key=key.api_key,
            model=key.model or None,
            base_url=key.base_url or None,
            options=key.options or None,
        )
    except ValidationError as error:
        return replace(key, outcome="refused", words=" ".join(error.messages))
    return replace(key, outcome="saved", words="")

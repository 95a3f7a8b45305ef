"""Validates what people and programs enter about a key. No error message repeats the input."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django.views.decorators.debug import sensitive_variables

from llm_credentials import egress
from llm_credentials.keyring import looks_sealed
from llm_credentials.models.tokens import TOKEN_PREFIX
from llm_credentials.providers import EgressBlocked, ProviderSpec, UnknownProvider, get_spec, registry, transport
from llm_credentials.providers.calls import model_id_fault

KEY_MIN_LENGTH = 8
KEY_MAX_LENGTH = 4096
OPTION_MAX_LENGTH = 500
URL_MAX_LENGTH = 2048
PRIORITY_MAX = 10_000

REENTER = gettext_noop("Enter the key again: a stored key only goes to the address it was saved for.")

_VISIBLE_ASCII = frozenset(string.printable) - frozenset(string.whitespace)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_MASK = re.compile(r"(?:•+|\*{3,})\s*[\x21-\x7e]{0,8}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u0080-\u009f\u2028\u2029\ud800-\udfff]")


Value = TypeVar("Value")


UNFIT: Final = "unfit"
"""Error code: the input is well-formed but does not suit this provider."""
KEY_NEEDED: Final = "key_needed"
"""Error code: the input is well-formed but needs a stored key, and there is none."""


def collect(errors: dict[str, list[Any]], clean: Callable[[], Value]) -> Value | None:
    """The cleaned value; its errors are added to ``errors``, so that a form can show all of them at once."""
    try:
        return clean()
    except ValidationError as error:
        errors.update(error.error_dict)
        return None


def clean_provider(slug: object) -> ProviderSpec:
    """Raises ValidationError on ``provider``."""
    try:
        return get_spec(slug if isinstance(slug, str) else "")
    except UnknownProvider:
        raise ValidationError({"provider": [_("There is no such provider. Choose one from the list.")]}) from None


def clean_name(name: object) -> str:
    """Raises ValidationError on ``name``."""
    text = name.strip() if isinstance(name, str) else ""
    if not _NAME.fullmatch(text):
        raise ValidationError(
            {"name": [_("Use 1 to 40 letters, digits, dashes or underscores, beginning with a letter or digit.")]}
        )
    return text


@sensitive_variables()
def clean_api_key(text: object, *, stored: bool = False) -> str | None:
    """The key as it will be sealed; None means unchanged: the input was empty or the mask.

    ``stored``: whether there is a key that could stay. Raises ValidationError on ``api_key``.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise _key_error(_("A key is a text."))
    key = text.strip()
    if not key:
        return None
    if _MASK.fullmatch(key):
        if stored:
            return None
        raise _key_error(_("That is the masked form of a key. Enter the key itself."))
    problem = _problem_with_key(key)
    if problem:
        raise _key_error(problem)
    return key


@sensitive_variables()
def _problem_with_key(key: str) -> str:
    """What is wrong with the key, in a sentence; empty when nothing is."""
    if len(key) > KEY_MAX_LENGTH:
        return _("This is too long for a key: at most %(length)s characters.") % {"length": KEY_MAX_LENGTH}
    if "-----BEGIN" in key:
        return _(
            "That is a private key or certificate file. Enter the API key that the provider shows for your account."
        )
    if key.startswith("{"):
        return _("That is a JSON file, such as a service account. Enter an API key instead.")
    if looks_sealed(key):
        return _("That is an encrypted value, not a key. Enter the key as the provider shows it.")
    if key.startswith(TOKEN_PREFIX):
        return _("That is an access token of this site. Enter the key of the provider.")
    if not _VISIBLE_ASCII.issuperset(key):
        return _(
            "A key has no spaces, line breaks, control or special characters. "
            "Copy it again, without quotes and without anything around it."
        )
    if len(key) < KEY_MIN_LENGTH:
        return _("This is too short for a key: at least %(length)s characters.") % {"length": KEY_MIN_LENGTH}
    if set(key) <= set("*.•-_xX"):
        return _("That is a placeholder. Enter the key itself.")
    return ""


def _key_error(text: str) -> ValidationError:
    return ValidationError({"api_key": [text]})


def clean_model(model: object) -> str:
    """A model id or empty; never a path to another endpoint of the provider. Raises ValidationError on ``model``."""
    if not isinstance(model, str):
        raise ValidationError({"model": [_("A model id is a text.")]})
    text = model.strip()
    if text == "":
        return ""
    fault = model_id_fault(text) or (_("A model id is no path.") if ".." in text else None)
    if fault:
        raise ValidationError({"model": [fault]})
    if looks_like_key(text):
        raise ValidationError({"model": [_("That looks like a key, not a model. Enter it in the key field.")]})
    return text


def looks_like_key(text: str) -> bool:
    """Whether a text that would be shown in clear starts like some provider's keys."""
    prefixes = tuple(prefix for spec in registry.all_specs() for prefix in spec.key_prefixes)
    return len(text) >= 20 and bool(prefixes) and text.startswith(prefixes)


def validate_destination(provider: str, base_url: str) -> str:
    """The address as stored; empty for the provider's own. Raises ValidationError on ``base_url``."""
    spec = clean_provider(provider)
    text = base_url.strip() if isinstance(base_url, str) else None
    if text is None or len(text) > URL_MAX_LENGTH:
        raise _url_error(_("An address is a text of at most %(length)s characters.") % {"length": URL_MAX_LENGTH})
    if not text:
        if spec.needs_base_url:
            raise _url_error(_("%(provider)s needs the address of your server.") % {"provider": spec.label}, UNFIT)
        return ""
    try:
        address = registry.client_class(spec.client).normalise_base_url(transport.check_url(text, egress.policy()))
    except EgressBlocked as refusal:
        raise _url_error(str(refusal)) from None
    if address.rstrip("/") == (spec.base_url or registry.site_address(spec)).rstrip("/"):
        return ""
    if not spec.base_url_editable:
        words = _("%(provider)s has one address, which cannot be changed.")
        raise _url_error(words % {"provider": spec.label}, UNFIT)
    return address


def _url_error(text: str, code: str = "invalid") -> ValidationError:
    return ValidationError({"base_url": [ValidationError(text, code=code)]})


def clean_options(options: object, spec: ProviderSpec) -> dict[str, str]:
    """The provider's declared options. Raises ValidationError on ``options`` for unknown and missing ones."""
    if not isinstance(options, Mapping):
        raise _options_error(_("Options are names with values."))
    declared = {option.name: option for option in spec.options}
    cleaned = {}
    for name, value in options.items():
        if name not in declared:
            raise _options_error(_("%(provider)s has no such option.") % {"provider": spec.label}, UNFIT)
        if declared[name].secret:
            raise _options_error(_("%(label)s is secret and cannot be stored here.") % {"label": declared[name].label})
        text = _option_text(declared[name].label, value)
        if text:
            cleaned[name] = text
    for name, option in declared.items():
        if option.required and not cleaned.get(name) and not option.default:
            raise _options_error(
                _("%(label)s is needed for %(provider)s.") % {"label": option.label, "provider": spec.label}, UNFIT
            )
    return cleaned


def _option_text(label: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > OPTION_MAX_LENGTH or _CONTROL.search(value):
        raise _options_error(
            _("%(label)s is a text of at most %(length)s characters on one line.")
            % {"label": label, "length": OPTION_MAX_LENGTH}
        )
    text = value.strip()
    if looks_like_key(text):
        raise _options_error(_("%(label)s looks like a key. Enter it in the key field.") % {"label": label})
    return text


def _options_error(text: str, code: str = "invalid") -> ValidationError:
    return ValidationError({"options": [ValidationError(text, code=code)]})


def clean_priority(priority: object) -> int:
    """Raises ValidationError on ``priority``."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= PRIORITY_MAX:
        raise ValidationError(
            {"priority": [_("The priority is a whole number from 0 to %(max)s.") % {"max": PRIORITY_MAX}]}
        )
    return priority


def clean_flag(value: object, field: str) -> bool:
    """Raises ValidationError on ``field``."""
    if not isinstance(value, bool):
        raise ValidationError({field: [_("This is either true or false.")]})
    return value


def clean_config(value: Any, *, _depth: int = 0) -> Any:
    """A site setting as JSON that contains no key; it names a system credential instead. Raises ValidationError."""
    if _depth > 20:
        raise ValidationError(_("This is nested too deeply."))
    match value:
        case str() if looks_like_key(value) or looks_sealed(value):
            raise ValidationError(_("A key does not belong here. Store it as a system credential and name that."))
        case dict():
            for name, part in value.items():
                clean_config(name, _depth=_depth + 1)
                clean_config(part, _depth=_depth + 1)
        case list():
            for part in value:
                clean_config(part, _depth=_depth + 1)
        case _:
            pass
    return value

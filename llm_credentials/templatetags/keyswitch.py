"""Tags and filters for all pages: icons, provider tiles, times, money, navigation. ``{% load keyswitch %}``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from django import template
from django.forms import BoundField, CheckboxInput, RadioSelect
from django.template import Context
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from llm_credentials.templatetags._icons import SHAPES

register = template.Library()

HUE_STEP = 15


class Tile(Protocol):
    """The attributes of a monogram; every ProviderSpec has them."""

    @property
    def monogram(self) -> str: ...
    @property
    def hue(self) -> int: ...


@register.simple_tag
def icon(name: str, label: str = "", size: str = "") -> SafeString:
    """An inline SVG of ``name``, 20 px or (``size="sm"``) 16 px; hidden from screen readers unless it has a ``label``.

    Raises KeyError for an unknown name, so that a typo fails in the tests.
    """
    shape = mark_safe(SHAPES[name])  # noqa: S308 - our own constants
    classes = "icon icon-sm" if size == "sm" else "icon"
    if label:
        return format_html(
            '<svg class="{}" viewBox="0 0 20 20" role="img" aria-label="{}">{}</svg>', classes, label, shape
        )
    return format_html('<svg class="{}" viewBox="0 0 20 20" aria-hidden="true">{}</svg>', classes, shape)


@register.simple_tag
def monogram(tile: Tile | None, size: str = "") -> SafeString:
    """A provider's neutral tile. Hidden from screen readers, so write the label beside it."""
    small = " sm" if size == "sm" else ""
    if tile is None:
        return format_html('<span class="monogram plain{}" aria-hidden="true" translate="no">{}</span>', small, "?")
    hue = hue_step(tile.hue)
    return format_html(
        '<span class="monogram hue-{}{}" aria-hidden="true" translate="no">{}</span>', hue, small, tile.monogram
    )


def hue_step(hue: int) -> int:
    """The step in the CSS class ``hue-<step>``."""
    return hue % 360 // HUE_STEP * HUE_STEP


@register.filter
def unlocal(value: float) -> str:
    """A number in SVG notation, independent of the page's language."""
    return f"{value:g}"


def ago_words(moment: datetime, now: datetime) -> str:
    """Relative time: "just now", "2 min ago", "3 h ago", "yesterday", else the date."""
    passed = now - moment
    if passed < timedelta(seconds=45):
        return _("just now")
    if passed < timedelta(hours=1):
        return _("%(count)d min ago") % {"count": max(1, round(passed / timedelta(minutes=1)))}
    if passed < timedelta(hours=24):
        return _("%(count)d h ago") % {"count": round(passed / timedelta(hours=1))}
    days = passed // timedelta(days=1)
    if days < 2:
        return _("yesterday")
    if days < 14:
        return ngettext("%(count)d day ago", "%(count)d days ago", days) % {"count": days}
    return date_format(timezone.localtime(moment), "SHORT_DATE_FORMAT")


@register.filter
def ago(moment: datetime | None) -> str:
    """``<time>`` with a relative time and the exact time in its title; "never" for None."""
    if moment is None:
        return _("never")
    local = timezone.localtime(moment)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        moment.astimezone(UTC).isoformat(timespec="seconds"),
        f"{date_format(local, 'SHORT_DATETIME_FORMAT')} {local.tzname() or ''}".strip(),
        ago_words(moment, timezone.now()),
    )


@register.filter
def money(amount_usd: Decimal | float | None) -> str:
    """Dollars with useful precision: $12.40, $0.0042; "cost unknown" for None."""
    if amount_usd is None:
        return _("cost unknown")
    amount = Decimal(str(amount_usd))
    if amount == 0:
        return "$0"
    if abs(amount) >= Decimal("0.1"):
        return f"${number_format(amount.quantize(Decimal('0.01')), decimal_pos=2, use_l10n=True, force_grouping=True)}"
    if abs(amount) < Decimal("0.00005"):
        return _("under $0.0001")
    return f"${number_format(amount.quantize(Decimal('0.0001')).normalize(), use_l10n=True)}"


@register.filter
def count(value: int | None) -> str:
    """A whole number with grouping; "unknown" for None."""
    return _("unknown") if value is None else number_format(value, decimal_pos=0, use_l10n=True, force_grouping=True)


@register.filter
def tokens(value: int | None) -> str:
    """1,240 tokens; "unknown tokens" for None."""
    if value is None:
        return _("unknown tokens")
    return ngettext("%(count)s token", "%(count)s tokens", value) % {"count": count(value)}


@register.filter
def translated(words: str | None) -> str:
    """Translates text stored as data, such as a provider's strengths or messages written by a worker."""
    return _(words) if words else ""


@register.filter
def seconds(milliseconds: int | float | None) -> str:
    """``latency_ms`` as seconds: 0.8 s, 12 s; nothing for None."""
    if milliseconds is None:
        return ""
    value = milliseconds / 1000
    return _("%(number)s s") % {"number": number_format(value, decimal_pos=0 if value >= 10 else 1)}


BROWSERS = (("Edg", "Edge"), ("OPR", "Opera"), ("Firefox", "Firefox"), ("Chrome", "Chrome"), ("Safari", "Safari"))
SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("Macintosh", "macOS"),
    ("Linux", "Linux"),
)


@register.filter
def browser(user_agent: str | None) -> str:
    """A readable browser name: "Firefox on Windows"."""
    words = user_agent or ""
    name = next((name for mark, name in BROWSERS if mark in words), "")
    system = next((name for mark, name in SYSTEMS if mark in words), "")
    if name and system:
        return _("%(browser)s on %(system)s") % {"browser": name, "system": system}
    return name or system or _("A program or an unknown browser")


STATUS_LOOK: dict[str, tuple[str, str]] = {
    "valid": ("is-valid", "check-circle"),
    "attention": ("is-attention", "alert"),
    "broken": ("is-broken", "x-circle"),
    "idle": ("is-idle", "idle"),
    "active": ("is-active", "play"),
}


@register.simple_tag
def pill(meaning: str, text: str, moment: datetime | None = None) -> SafeString:
    """A status with its icon and age. ``meaning``: valid, attention, broken, idle or active."""
    look, shape = STATUS_LOOK[meaning]
    words = format_html("{}, {}", text, ago(moment)) if moment else text
    return format_html('<span class="pill {}">{}<span>{}</span></span>', look, icon(shape), words)


@register.simple_tag
def meaning_icon(meaning: str) -> SafeString:
    """The icon of a meaning, for a note."""
    return icon(STATUS_LOOK[meaning][1])


@register.inclusion_tag("_partials/banners.html", takes_context=True)
def banners(context: Context) -> dict[str, Any]:
    """The user's alerts, shown on every page."""
    from llm_credentials.notices.banners import banners_of

    user = context.get("user")
    shown = banners_of(user) if getattr(user, "is_authenticated", False) else []
    return {"banners": shown, "path": _path(context), "csrf_token": context.get("csrf_token")}


class NavItem(NamedTuple):
    label: str
    url: str
    icon: str
    current: bool


def _items(path: str, entries: Iterable[tuple[str, str, str, tuple[str, ...]]]) -> list[NavItem]:
    """Entries are (label, URL name, icon, further path prefixes); entries without a matching URL are left out.

    The entry with the longest matching address or prefix is the current one.
    """
    found: list[tuple[int, NavItem]] = []
    for label, name, shape, prefixes in entries:
        try:
            url = reverse(name)
        except NoReverseMatch:
            continue
        fits = max((len(prefix) for prefix in (url, *prefixes) if path.startswith(prefix)), default=0)
        found.append((fits, NavItem(label, url, shape, current=False)))
    best = max((fits for fits, _item in found), default=0)
    return [item._replace(current=bool(fits) and fits == best) for fits, item in found]


@register.simple_tag(takes_context=True)
def navigation(context: Context) -> list[NavItem]:
    """The existing main sections, for the rail and the bottom bar."""
    return _items(
        _path(context),
        [
            (_("Agents"), "agents:agent-list", "agents", ()),
            (_("Conversations"), "agents:conversation-list", "conversations", ()),
            (_("Runs"), "agents:run-list", "runs", ()),
            (_("Settings"), "llm_credentials:provider-list", "settings", ("/settings/", "/accounts/", "/providers/")),
        ],
    )


@register.simple_tag(takes_context=True)
def settings_tabs(context: Context) -> list[NavItem]:
    """The second level of the settings navigation."""
    return _items(
        _path(context),
        [
            (_("Providers"), "llm_credentials:provider-list", "key", ()),
            (_("Routing"), "llm_credentials:routing-detail", "route", ()),
            (_("Search"), "llm_credentials:search-settings", "search", ()),
            (_("Usage"), "llm_credentials:usage-detail", "gauge", ()),
            (_("Compare"), "llm_credentials:provider-compare", "search", ()),
            (_("Tokens"), "llm_credentials:token-list", "ticket", ()),
            (_("Tools"), "agents:server-list", "tool", ()),
            (_("Alerts"), "llm_credentials:alert-settings", "mail", ()),
            (_("Security"), "llm_credentials:security-detail", "shield", ("/accounts/",)),
        ],
    )


def _path(context: Context) -> str:
    request: Any = context.get("request")
    return request.path if request is not None else ""


@register.inclusion_tag("_partials/field.html")
def field(bound: BoundField, label: str = "", hint: str = "", autofocus: bool = False) -> dict[str, Any]:
    """A form field with its label, help and errors, linked for screen readers."""
    is_check = isinstance(bound.field.widget, CheckboxInput)
    is_radio = isinstance(bound.field.widget, RadioSelect)
    hint = hint or str(bound.help_text or "")
    described = [f"{bound.auto_id}_hint"] * bool(hint) + [f"{bound.auto_id}_error"] * bool(bound.errors)
    attrs: dict[str, Any] = {} if is_check or is_radio else {"class": "input"}
    # A hint may be a list of rules (password validators), so it is a block and never inside a paragraph.
    attrs |= {"aria-describedby": " ".join(described)} if described else {}
    attrs |= {"aria-invalid": "true"} if bound.errors else {}
    attrs |= {"autofocus": True} if autofocus else {}
    if "placeholder" in bound.field.widget.attrs:
        attrs["placeholder"] = ""  # the label already says it
    return {
        "field": bound,
        "widget": bound.as_widget(attrs=attrs),
        "label": label or sentence(str(bound.label)),
        "hint": hint,
        "is_check": is_check,
        "is_radio": is_radio,
        "hidden": bound.is_hidden,
    }


@register.simple_tag
def option_input(bound: BoundField) -> SafeString:
    """The input of a provider-specific option."""
    described = {"aria-describedby": f"{bound.auto_id}-hint"} if bound.help_text else {}
    return bound.as_widget(attrs={"class": "input", "autocomplete": "off", **described})


def sentence(words: str) -> str:
    """Converts Title Case labels from libraries to sentence case; abbreviations keep their capitals."""
    first, *rest = words.split(" ") if words else [""]
    return " ".join([first, *(word if word.isupper() else word.lower() for word in rest)])

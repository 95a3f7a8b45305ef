"""Renders a model's MJML as the HTML of a mail; accepts only elements of mails, and reports what would cause trouble
for recipients.

Django-free.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email.message import EmailMessage
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urlsplit

import mrml

from agents.texts import one_line

MAX_HTML_BYTES: Final = 102_000
"""Gmail cuts off longer HTML."""
SCHEMES: Final = frozenset({"http", "https", "mailto", "tel"})
_IN_TEXT: Final = {
    *("a", "b", "blockquote", "br", "code", "div", "em", "h1", "h2", "h3", "h4", "hr", "i", "img", "li", "ol", "p"),
    *("small", "span", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "u", "ul"),
}
_FRAME: Final = {
    *("mjml", "mj-head", "mj-body", "mj-title", "mj-preview", "mj-attributes", "mj-all", "mj-class", "mj-breakpoint"),
    *("mj-style", "mj-font", "mj-section", "mj-column", "mj-group", "mj-wrapper", "mj-hero", "mj-text", "mj-button"),
    *("mj-image", "mj-divider", "mj-spacer", "mj-table", "mj-social", "mj-social-element", "mj-navbar"),
    *("mj-navbar-link", "mj-accordion", "mj-accordion-element", "mj-accordion-title", "mj-accordion-text"),
    *("mj-carousel", "mj-carousel-image"),
}
_ADDRESSES: Final = frozenset({"href", "src", "background-url", "background", "action", "thumbnails-src"})


class CannotRender(ValueError):
    """Says what is wrong with the MJML; written for the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    holds: bool
    text: str


@dataclass
class _Found(HTMLParser):
    """Collects the elements of a page."""

    faults: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    images: list[tuple[str, str | None]] = field(default_factory=list)
    """URL and alternative text."""
    allowed: frozenset[str] | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.allowed is not None and tag not in self.allowed and tag not in _FRAME:
            self.faults.append(f"<{tag}> does not belong into a mail")
        values = dict(attrs)
        for name, value in attrs:
            if name.startswith("on"):
                self.faults.append(f"{name} does nothing in a mail")
            if name in _ADDRESSES and value and _scheme(value) not in SCHEMES:
                self.faults.append(f"{name} of <{tag}> must be a whole address with https, mailto or tel")
        if "href" in values and tag != "mj-font":
            self.links.append(values["href"] or "")
        if tag in ("img", "mj-image"):
            self.images.append((values.get("src") or "", values.get("alt")))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "mj-style" and any(word in data.lower() for word in ("@import", "expression(", "url(")):
            self.faults.append("mj-style fetches nothing")


def _scheme(address: str) -> str:
    try:
        return urlsplit(address.strip()).scheme.lower()
    except ValueError:
        return ""


def render(mjml: str) -> str:
    """The mail's HTML. Raises CannotRender."""
    found = _looked_at(mjml)
    if found.faults:
        raise CannotRender("; ".join(dict.fromkeys(found.faults[:8])))
    try:
        # Without the library's default font, which recipients' mail programs would fetch from a third party.
        return str(mrml.to_html(mjml, render_options=mrml.RenderOptions(fonts={})).content)
    except (OSError, ValueError) as error:
        raise CannotRender(f"this is no valid MJML: {str(error)[:200]}") from None


def checks(mjml: str, html: str, text: str) -> list[Check]:
    """Checks to make before sending."""
    found = _looked_at(mjml)
    size_bytes = len(html.encode())
    undescribed = sum(not (alt or "").strip() for _, alt in found.images)
    unsafe = sum(_scheme(address) == "http" for address in [*found.links, *(src for src, _ in found.images)])
    invented = sum((urlsplit(link).hostname or "").endswith(("example.com", "example.org")) for link in found.links)
    return [
        Check(
            holds=size_bytes <= MAX_HTML_BYTES,
            text=f"{size_bytes / 1000:.0f} KB of HTML; Gmail cuts mails at {MAX_HTML_BYTES / 1000:.0f} KB.",
        ),
        _none(undescribed, "Every image has an alternative text.", "Images without an alternative text"),
        _none(unsafe, "Every address is https.", "Addresses that are not https"),
        _none(invented, "No link is a placeholder.", "Links that are placeholders"),
        Check(holds=len(text.split()) >= 10, text="A plain-text part is there for readers without HTML."),
    ]


def without_pictures(html: str) -> str:
    """For previews: loading an image would tell its server that it was viewed."""
    return re.sub(r"(<img\b[^>]*?)\bsrc=", r"\1data-src=", html, flags=re.IGNORECASE)


def as_eml(*, subject: str, html: str, text: str) -> bytes:
    """A draft that mail programs open for editing: subject and both parts, without sender or recipients."""
    mail = EmailMessage()
    mail["Subject"] = one_line(subject)
    mail["X-Unsent"] = "1"
    mail.set_content(text)
    mail.add_alternative(html, subtype="html")
    return mail.as_bytes()


def _looked_at(mjml: str) -> _Found:
    found = _Found(allowed=frozenset(_IN_TEXT))
    found.feed(mjml)
    found.close()
    return found


def _none(count: int, good: str, bad: str) -> Check:
    return Check(holds=not count, text=f"{bad}: {count}." if count else good)

"""Renders a model's Markdown as safe HTML.

Markdown is rendered with raw HTML switched off, then the result is sanitised. Viewing it fetches nothing: images become
links that name their source.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping, Sequence
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import nh3
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

SCHEMES: Final = frozenset({"http", "https", "mailto"})
TOP_HEADING: Final = 3
"""A page has an h1 and each turn an h2; headings of an answer start below those."""
MAX_HIGHLIGHT_CHARS: Final = 50_000
"""Longer code is not highlighted, because that would delay other requests."""
MAX_NESTING: Final = 50

_TAGS: Final = {
    *("p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "h3", "h4", "h5", "h6"),
    *("table", "thead", "tbody", "tr", "th", "td", "a", "span", "div"),
}
_ATTRIBUTES: Final = {
    "a": {"href", "title", "class"},
    "ol": {"start"},
    "pre": {"tabindex"},
    "table": {"tabindex"},
}
_CLASSES: Final = {
    "span": {name for name in STANDARD_TYPES.values() if name},
    "div": {"highlight"},
    "a": {"remote-image"},
}


def render(text: str) -> SafeString:
    """The whole of ``text`` as sanitised HTML."""
    return _clean(_parser().render(_encodable(text)))


def render_open(text: str) -> SafeString:
    """Like ``render``, for incomplete text: code is not highlighted yet, so that repeated rendering stays cheap."""
    return _clean(_plain_parser().render(_encodable(text)))


def closed_length(text: str) -> int:
    """Length of the prefix of a growing text whose rendering is final: all but the last top-level block.

    An approximation: a later link definition may still turn ``[words]`` in the prefix into a link. The finished text is
    rendered again as a whole.
    """
    starts = [token.map[0] for token in _plain_parser().parse(_encodable(text)) if token.level == 0 and token.map]
    if not starts or starts[-1] == 0:
        return 0
    line_ends = [match.end() for match in re.finditer(r"\r\n?|\n", text)]
    return line_ends[starts[-1] - 1]


def _encodable(text: str) -> str:
    """Replace lone surrogates, which cannot be encoded."""
    return text.encode("utf-8", "replace").decode()


def _clean(html: str) -> SafeString:
    safe = nh3.clean(
        html,
        tags=_TAGS,
        attributes={tag: set(names) - {"class"} for tag, names in _ATTRIBUTES.items()},
        allowed_classes={tag: set(names) for tag, names in _CLASSES.items()},
        url_schemes=set(SCHEMES),
        link_rel="noopener nofollow noreferrer",
        strip_comments=True,
    )
    return mark_safe(safe)  # noqa: S308 - this line is what makes it safe


@cache
def _parser() -> MarkdownIt:
    return _new_parser(colour=True)


@cache
def _plain_parser() -> MarkdownIt:
    return _new_parser(colour=False)


def _new_parser(*, colour: bool) -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_NESTING}).enable(["table", "strikethrough"])
    parser.validateLink = _is_allowed  # type: ignore[method-assign]
    parser.core.ruler.push("headings", _lower_headings)
    parser.add_render_rule("image", _render_image)
    parser.add_render_rule("fence", _render_code if colour else _render_plain_code)
    parser.add_render_rule("code_block", _render_plain_code)
    parser.add_render_rule("table_open", _render_table_open)
    return parser


def _is_allowed(url: str) -> bool:
    """Only absolute URLs with harmless schemes: a model has no reason to link into this site."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme.lower() in SCHEMES and bool(parts.netloc or parts.scheme.lower() == "mailto")


def _lower_headings(state: StateCore) -> None:
    """Shift headings below the page's own, without skipping levels."""
    level = TOP_HEADING - 1
    first: int | None = None
    for token in state.tokens:
        if token.type not in ("heading_open", "heading_close"):
            continue
        if token.type == "heading_open":
            wanted = int(token.tag[1])
            first = wanted if first is None else min(first, wanted)
            level = min(TOP_HEADING + wanted - first, level + 1, 6)
        token.tag = f"h{level}"


def _render_image(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    """A link instead of the image. Inside another link only its text, because links do not nest."""
    token = tokens[index]
    words = renderer.renderInlineAsText(token.children or [], options, env).strip()
    depth = sum({"link_open": 1, "link_close": -1}.get(other.type, 0) for other in tokens[:index])
    source = str(token.attrs.get("src", ""))
    host = urlsplit(source).hostname
    if depth or not host:
        return escapeHtml(words or "image")
    label = _("Show image from %(host)s") % {"host": host} + (f": {words}" if words else "")
    return f'<a class="remote-image" href="{escape(source)}">{escape(label)}</a>'


def _render_code(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    token = tokens[index]
    language = token.info.strip().split(maxsplit=1)[0] if token.info.strip() else ""
    if not language or len(token.content) > MAX_HIGHLIGHT_CHARS:
        return _render_plain_code(renderer, tokens, index, options, env)
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return _render_plain_code(renderer, tokens, index, options, env)
    inner = highlight(token.content, lexer, HtmlFormatter(nowrap=True))
    return f'<div class="highlight"><pre tabindex="0"><code>{inner}</code></pre></div>\n'


def _render_plain_code(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    return f'<div class="highlight"><pre tabindex="0"><code>{escapeHtml(tokens[index].content)}</code></pre></div>\n'


def _render_table_open(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    return '<table tabindex="0">\n'

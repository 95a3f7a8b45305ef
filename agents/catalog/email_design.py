"""A responsive HTML e-mail from a brief: MJML by the model, HTML by a library; checked, previewed, downloadable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, cast

from django import forms
from django.core.validators import RegexValidator
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop
from pydantic import AfterValidator, BaseModel, Field, computed_field

from agents.base import Agent, ResultFile
from agents.loop import Limits
from agents.mails import rendering
from agents.texts import one_line
from llm_credentials.providers import LLMMessage, TextPart


def _renders(mjml: str) -> str:
    rendering.render(mjml)
    return mjml


class EmailDesign(BaseModel):
    subject: Annotated[str, AfterValidator(one_line), Field(min_length=1, max_length=150)]
    preview: Annotated[str, AfterValidator(one_line), Field(max_length=150, description="Shown behind the subject.")]
    mjml: Annotated[str, AfterValidator(_renders), Field(min_length=50, max_length=60_000)]
    text: Annotated[str, Field(min_length=1, max_length=20_000, description="The same mail as plain text.")]

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def html(self) -> str:
        return rendering.render(self.mjml)

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def checks(self) -> list[dict[str, Any]]:
        found = rendering.checks(self.mjml, self.html, self.text)
        return [{"holds": each.holds, "text": each.text} for each in found]


class DesignForm(forms.Form):
    sender = forms.CharField(label=_("Company or sender"), required=False, max_length=100)
    colour = forms.CharField(
        label=_("Main colour"),
        required=False,
        max_length=7,
        validators=[RegexValidator(r"^#[0-9a-fA-F]{6}$", _("Write a colour like #1a5fb4."))],
        widget=forms.TextInput(attrs={"placeholder": "#1a5fb4"}),
    )


class EmailDesignAgent(Agent):
    slug = "email_design"
    title = gettext_noop("Email design")
    description = gettext_noop(
        "Say what the mail is for. You get a responsive HTML mail with a plain-text part, a preview for desktop and "
        "phone, and checks of size, images and links."
    )
    icon = "image"
    examples = (
        gettext_noop("A welcome mail for new users of a small budgeting app: three first steps, one button"),
        gettext_noop(
            "Invite customers to an open day on 12 March, 10 to 16 h, with directions and a button to sign up"
        ),
        gettext_noop("A monthly newsletter with three short stories and a quiet footer"),
    )
    output = EmailDesign
    form = DesignForm
    weight = "normal"
    temperature = 0.6
    max_tokens = 10_000
    limits = Limits(max_steps=2, max_tokens=100_000, max_seconds=240.0)
    position = 70

    async def turn(self, prompt: LLMMessage) -> LLMMessage:
        wishes = [
            f"{label}: {value}."
            for name, label in (("sender", "Sender"), ("colour", "Main colour"))
            if (value := one_line(str(self.options.get(name) or "")))
        ]
        return replace(prompt, parts=(*prompt.parts, TextPart(text="\n\n" + " ".join(wishes)))) if wishes else prompt

    def shown(self, output: BaseModel) -> str:
        design = cast("EmailDesign", output)
        return f"### {design.subject}\n\n{design.text}\n\n```html\n{design.mjml}\n```"

    @classmethod
    def result_files(cls, result: Mapping[str, Any]) -> Sequence[ResultFile]:
        subject, html, text = (str(result.get(name, "")) for name in ("subject", "html", "text"))
        seen = rendering.without_pictures(html)
        return (
            ResultFile(name="mail.html", media_type="text/html", content=html.encode()),
            ResultFile(name="preview.html", media_type="text/html", content=seen.encode(), is_page=True),
            ResultFile(
                name="mail.eml",
                media_type="message/rfc822",
                content=rendering.as_eml(subject=subject, html=html, text=text),
            ),
            ResultFile(name="mail.mjml", media_type="text/plain", content=str(result.get("mjml", "")).encode()),
        )


__all__: list[Any] = ["EmailDesign", "EmailDesignAgent"]

"""Subject and body of an e-mail from notes or a thread, in three variants. Sends nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, cast
from urllib.parse import quote

from django import forms
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop
from pydantic import AfterValidator, BaseModel, Field, computed_field

from agents.base import Agent
from agents.loop import Limits
from agents.texts import one_line
from llm_credentials.providers import LLMMessage, TextPart

LINK_MAX_CHARS = 1900
"""Mail programs truncate longer links, some silently."""
TONES = {
    "as_is": (_("As the thread or the notes have it"), "the tone that the notes or the thread call for"),
    "friendly": (_("Friendly"), "a friendly, warm tone"),
    "formal": (_("Formal"), "a formal tone"),
    "direct": (_("Direct"), "a direct tone: the point first, no padding"),
    "apologetic": (_("Apologetic"), "an apologetic tone that takes responsibility and says what happens next"),
}
LENGTHS = {
    "short": (_("Short: up to 80 words"), "at most 80 words"),
    "medium": (_("Medium: up to 180 words"), "at most 180 words"),
    "long": (_("Long: up to 400 words"), "at most 400 words"),
}


Subject = Annotated[str, AfterValidator(one_line), Field(min_length=1, max_length=200)]


class Draft(BaseModel):
    approach: Annotated[str, Field(max_length=80, description="How this variant differs, in a few words.")]
    subject: Subject
    body: Annotated[str, Field(min_length=1, max_length=20_000, description="Plain text with greeting and close.")]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mailto(self) -> str:
        """Opens it in the mail program; empty where it is too long for a link."""
        link = f"mailto:?subject={quote(self.subject)}&body={quote(self.body.replace(chr(10), chr(13) + chr(10)))}"
        return link if len(link) <= LINK_MAX_CHARS else ""


class EmailDrafts(BaseModel):
    drafts: Annotated[list[Draft], Field(min_length=3, max_length=3)]
    missing: Annotated[
        list[Annotated[str, Field(max_length=200)]],
        Field(max_length=10, description="What the writer must fill in, such as [date]; empty if nothing."),
    ] = []


class DraftForm(forms.Form):
    tone = forms.ChoiceField(label=_("Tone"), choices=[(name, words[0]) for name, words in TONES.items()])
    length = forms.ChoiceField(
        label=_("Length"), choices=[(name, words[0]) for name, words in LENGTHS.items()], initial="medium"
    )
    sender = forms.CharField(label=_("Signed by"), required=False, max_length=100)


class EmailDraftingAgent(Agent):
    slug = "email_drafting"
    title = gettext_noop("Email drafting")
    description = gettext_noop(
        "Give it notes, or a thread to answer. You get three variants with subject and text, ready for your mail "
        "program; it sends nothing."
    )
    icon = "mail"
    examples = (
        gettext_noop("Ask the landlord to repair the heating; it has been cold since Monday, I am home after five."),
        gettext_noop("Decline the meeting on Thursday, propose Friday morning, and thank them for the agenda."),
        gettext_noop("Tell the customer that the delivery is three days late and what we do about it."),
    )
    output = EmailDrafts
    form = DraftForm
    weight = "light"
    temperature = 0.7
    max_tokens = 4000
    limits = Limits(max_steps=2, max_tokens=60_000, max_seconds=120.0)
    position = 60

    async def turn(self, prompt: LLMMessage) -> LLMMessage:
        tone = TONES.get(self.options.get("tone", ""), TONES["as_is"])[1]
        length = LENGTHS.get(self.options.get("length", ""), LENGTHS["medium"])[1]
        wishes = f"\n\nWrite in {tone}; {length} each."
        if sender := one_line(str(self.options.get("sender") or "")):
            wishes += f" Sign as {sender}."
        return replace(prompt, parts=(*prompt.parts, TextPart(text=wishes)))

    def shown(self, output: BaseModel) -> str:
        drafts = cast("EmailDrafts", output)
        pieces = [f"### {draft.subject}\n\n{draft.body}" for draft in drafts.drafts]
        if drafts.missing:
            pieces.append("\n".join(f"- {each}" for each in drafts.missing))
        return "\n\n---\n\n".join(pieces)


__all__: list[Any] = ["Draft", "EmailDraftingAgent", "EmailDrafts"]

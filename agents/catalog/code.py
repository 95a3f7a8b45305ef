"""Explains, writes, reviews and fixes code, with changes as diffs that apply. Runs nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, cast

from asgiref.sync import sync_to_async
from pydantic import BaseModel, Field

from agents.concluding import ConcludingAgent
from agents.loop import Limits
from agents.patching import Patched, PatchError, apply
from agents.patching.files import Files, GivenFile, fence_for
from agents.progress import say
from agents.texts import markdown_escaped
from agents.tools import Tool, ToolError, tool
from llm_credentials.providers import LLMMessage, TextPart

Diff = Annotated[str, Field(max_length=400_000, description="A unified diff of all files that change.")]
Line = Annotated[int, Field(ge=1, le=10_000_000)]
_FENCED_DIFF = re.compile(r"^ {0,3}(`{3,})(?:diff|patch)[ \t]*\n(.*?)^ {0,3}\1`*[ \t]*$", re.MULTILINE | re.DOTALL)


class Download(BaseModel):
    name: str
    url: str


class CodeAnswer(BaseModel):
    answer: str
    diff: str
    """Applies to the files given; empty if nothing changes."""
    changed: list[str]
    made: list[str]
    deleted: list[str]
    added_lines: int
    removed_lines: int
    downloads: list[Download]
    """The diff and every changed file, kept for the user for a week."""
    notices: list[str]


class CodeAgent(ConcludingAgent):
    slug = "code"
    title = "Code"
    description = (
        "Give it code, as files or in your message, and say what you want: explain, write, review or fix. Changes come "
        "as a diff that applies, and the changed files."
    )
    icon = "code"
    examples = (
        "Write a Python function that splits a bill among friends to the cent, with tests.",
        "Review this: def total(items=[]): items.append(0); return sum(items)",
        "Explain line by line: git log --oneline | awk '{print $2}' | sort | uniq -c | sort -rn | head",
    )
    takes_files = True
    weight = "heavy"
    temperature = 0.2
    max_tokens = 8000
    limits = Limits(max_steps=10, max_tokens=400_000, max_seconds=420.0)
    position = 40
    MAX_ATTEMPTS: ClassVar[int] = 2
    """To make a diff that applies: the model is told once what is wrong."""
    _files: Files
    _applied: list[Patched]

    def tools_for(self) -> Sequence[Tool]:
        files = self._files
        applied: list[Patched] = []
        failed: list[str] = []
        self._applied = applied

        @tool
        async def propose_patch(diff: Diff) -> str:
            """Change the user's files, or make new ones, by one unified diff; it is applied in memory and shown."""
            if len(failed) >= self.MAX_ATTEMPTS:
                raise ToolError("There were enough attempts. Show the changed functions whole in your answer instead.")
            say("Applying the diff")
            try:
                patched = await asyncio.to_thread(apply, diff, files.texts)
            except PatchError as error:
                failed.append(str(error))
                raise ToolError(str(error)) from None
            applied[:] = [patched]
            changed = ", ".join([*patched.files, *patched.deleted])
            return f"It applies: {changed} (+{patched.added_lines} -{patched.removed_lines}). The user sees it."

        @tool
        async def read_file(name: str, first_line: Line = 1, last_line: Line = 10_000_000) -> str:
            """Read lines of one of the user's files, at most 400 at once."""
            if name not in files.texts:
                given = ", ".join(files.texts) or "none"
                raise ToolError(f"There is no file {name!r}. The files are: {given}.")
            return files.lines(name, first_line, last_line)

        return [propose_patch, read_file]

    async def turn(self, prompt: LLMMessage) -> LLMMessage:
        # Fetching a file's content may query the database.
        self._files = await sync_to_async(Files.of)(cast("Sequence[GivenFile]", self.attachments))
        shown = self._files.for_prompt()
        return replace(prompt, parts=(*prompt.parts, TextPart(text=f"\n\n{shown}"))) if shown else prompt

    def below(self, output: CodeAnswer) -> str:
        pieces = []
        if output.diff:
            fence = fence_for(output.diff)
            pieces.append(f"{fence}diff\n{output.diff.removesuffix(chr(10))}\n{fence}")
        pieces += [f"[{markdown_escaped(each.name)}]({each.url})" for each in output.downloads]
        return "\n\n".join([*pieces, *(f"*{markdown_escaped(notice)}*" for notice in output.notices)])

    async def concluded(self, answer: str) -> CodeAnswer:
        files = self._files
        notices = list(files.left_out)
        patched = self._applied[0] if self._applied else await self._written_out(answer, files, notices)
        downloads = await self._downloads(patched) if patched else []
        return CodeAnswer(
            answer=answer,
            diff=patched.diff if patched else "",
            changed=[name for name in patched.files if name not in patched.made] if patched else [],
            made=list(patched.made) if patched else [],
            deleted=list(patched.deleted) if patched else [],
            added_lines=patched.added_lines if patched else 0,
            removed_lines=patched.removed_lines if patched else 0,
            downloads=downloads,
            notices=notices,
        )

    async def _written_out(self, answer: str, files: Files, notices: list[str]) -> Patched | None:
        """A diff that the model wrote into its answer instead, if it applies; otherwise adds the reason
        to ``notices``.
        """
        written = "".join(found[2] for found in _FENCED_DIFF.finditer(answer))
        if not written or not files.texts:
            return None
        try:
            return await asyncio.to_thread(apply, written, files.texts)
        except PatchError:
            notices.append("The diff in this answer does not apply to your files as they are. Change them by hand.")
            return None

    async def _downloads(self, patched: Patched) -> list[Download]:
        if not self.user.is_authenticated or self.user._state.adding:
            return []
        return await sync_to_async(self._stored)({"changes.patch": patched.diff, **patched.files})

    def _stored(self, texts: Mapping[str, str]) -> list[Download]:
        from django.core.exceptions import ValidationError

        from agents import attachments

        downloads = []
        for name, text in texts.items():
            try:
                kept = attachments.store_bytes(self.user, name.rpartition("/")[2], text.encode())
            except ValidationError:
                continue  # an empty file, or one that contains a key: the diff above shows the change anyway
            downloads.append(Download(name=name, url=kept.get_absolute_url()))
        return downloads


__all__: list[Any] = ["CodeAgent", "CodeAnswer"]

"""Text files given to an agent: which go into the prompt, and which were left out and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

MAX_FILE_CHARS: Final = 200_000
MAX_ALL_CHARS: Final = 600_000
IN_PROMPT_CHARS: Final = 60_000
"""For all files together; a tool reads the rest."""
MAX_LINES: Final = 400


class GivenFile(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def is_text(self) -> bool: ...


@dataclass
class Files:
    texts: dict[str, str] = field(default_factory=dict)
    """Name → complete text."""
    left_out: list[str] = field(default_factory=list)
    """Names and reasons, for people and models."""

    @classmethod
    def of(cls, given: Iterable[GivenFile]) -> Files:
        files = cls()
        size = 0
        for file in given:
            name = free_name(file.name, files.texts)
            text = file.text if file.is_text else ""
            if not text:
                files.left_out.append(f"{name} was left out: it holds no text.")
            elif len(text) > MAX_FILE_CHARS:
                files.left_out.append(f"{name} was left out: it is longer than {MAX_FILE_CHARS:,} characters.")
            elif size + len(text) > MAX_ALL_CHARS:
                files.left_out.append(f"{name} was left out: the files are too long together.")
            else:
                files.texts[name] = text
                size += len(text)
        return files

    def for_prompt(self) -> str:
        """The files as a model reads them; for long ones, what it can ask for."""
        room = IN_PROMPT_CHARS
        pieces: list[str] = []
        for name, text in self.texts.items():
            if len(text) <= room:
                fence = fence_for(text)
                pieces.append(f"File {name}:\n{fence}\n{text.removesuffix(chr(10))}\n{fence}")
                room -= len(text)
            else:
                lines = text.count("\n") + 1
                pieces.append(f"File {name} is long ({lines} lines): read what you need of it with read_file.")
        return "\n\n".join([*pieces, *self.left_out])

    def lines(self, name: str, first: int, last: int) -> str:
        """Numbered lines, from 1. Raises KeyError."""
        lines = self.texts[name].split("\n")
        last = min(last, first + MAX_LINES - 1, len(lines))
        shown = [f"{number}\t{lines[number - 1]}" for number in range(first, last + 1)]
        return "\n".join([f"Lines {first} to {last} of {len(lines)}:", *shown])


def fence_for(text: str) -> str:
    """A fence longer than any in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return fence


def free_name(name: str, taken: Iterable[str]) -> str:
    stem, dot, ending = name.rpartition(".")
    number, free = 2, name
    while free in taken:
        free = f"{stem or ending}-{number}{dot}{ending if stem else ''}"
        number += 1
    return free

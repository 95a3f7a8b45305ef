"""Which of the user's files hold tables, and how the process should read them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, Protocol

from agents import file_kinds
from agents.patching.files import free_name
from agents.tables.records import Given, is_json_lines

MAX_BYTES: Final = 60 * 1024 * 1024
"""For all files together."""
_DELIMITED: Final = ("csv", "tsv", "tab")
_JSON: Final = ("json", "jsonl", "ndjson")
_BINARY: Final[dict[str, Literal["workbook", "parquet"]]] = {
    file_kinds.XLSX: "workbook",
    file_kinds.PARQUET: "parquet",
}


class GivenFile(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def media_type(self) -> str: ...
    @property
    def data(self) -> bytes: ...


def given_of(files: Iterable[GivenFile]) -> tuple[list[Given], dict[str, GivenFile], dict[str, str]]:
    """(files with tables, files to read as text, file → why it is neither), under unique names."""
    given: list[Given] = []
    texts: dict[str, GivenFile] = {}
    problems: dict[str, str] = {}
    size = 0
    for file in files:
        name = free_name(file.name, [*(each.name for each in given), *texts, *problems])
        found = _given(name, file)
        if found is None:
            texts[name] = file
        elif isinstance(found, str):
            problems[name] = found
        elif size + len(found.data) > MAX_BYTES:
            problems[name] = "the files are too large together; send fewer at once"
        else:
            size += len(found.data)
            given.append(found)
    return given, texts, problems


def _given(name: str, file: GivenFile) -> Given | str | None:
    """None: prose. A text: why it cannot be queried."""
    binary = _BINARY.get(file.media_type)
    if binary is not None:
        return Given(name, binary, file.data)
    if file.media_type == file_kinds.PDF:
        return None
    text = file_kinds.decoded(file.data) if file_kinds.is_text(file.media_type) else None
    if text is None:
        return "it holds neither a table nor text; send CSV, TSV, Excel (.xlsx), JSON, Parquet, text or PDF"
    if not text.strip():
        return "it is empty"
    ending = name.rpartition(".")[2].casefold()
    data = text.encode("utf-8", "replace")
    if file.media_type == file_kinds.JSON or ending in _JSON or is_json_lines(text):
        return Given(name, "json", data)
    if file.media_type in (file_kinds.CSV, file_kinds.TSV) or ending in _DELIMITED:
        return Given(name, "delimited", data)
    return None

"""Sheets of an Excel workbook as rows: values, not formulas. Runs in ``process``."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, Final

from agents.tables.records import MAX_CELLS, MAX_COLUMNS, MAX_PARTS, NoTable, Rows, with_header

MAX_UNPACKED_BYTES: Final = 300 * 1024 * 1024
BROKEN: Final = "it is broken, or no Excel workbook; save it anew"


def of_workbook(data: bytes) -> list[Rows]:
    """Raises NoTable."""
    _check_unpacked(data)
    # defusedxml refuses XML bombs; a damaged file may raise almost any exception here.
    import openpyxl

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
            found = [rows for sheet in book.worksheets[:MAX_PARTS] if (rows := _of_sheet(sheet)) is not None]
    except (NoTable, MemoryError):
        raise
    except Exception:
        raise NoTable(BROKEN) from None
    if not found:
        raise NoTable("its sheets are empty")
    return found


def _check_unpacked(data: bytes) -> None:
    """Checks the real unpacked size; the archive's table of contents may lie."""
    size = 0
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            for part in packed.infolist():
                with packed.open(part) as content:
                    while piece := content.read(1024 * 1024):
                        size += len(piece)
                        if size > MAX_UNPACKED_BYTES:
                            raise NoTable("it unpacks to more than fits; save the sheet that matters on its own")
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError, RuntimeError):
        raise NoTable(BROKEN) from None
    except Exception as error:
        if isinstance(error, NoTable | MemoryError):
            raise
        raise NoTable(BROKEN) from None  # zlib has its own error class


def _of_sheet(sheet: Any) -> Rows | None:
    sheet.reset_dimensions()  # the stored dimensions may be wrong
    try:
        return with_header(str(sheet.title), _cells(sheet))
    except NoTable as refusal:
        if str(refusal) == "it is empty":
            return None
        raise


def _cells(sheet: Any) -> Iterator[Sequence[Any]]:
    left = MAX_CELLS
    for row in sheet.iter_rows(values_only=True):
        while row and row[-1] is None:
            row = row[:-1]
        if len(row) > MAX_COLUMNS:
            raise NoTable(f"the sheet “{sheet.title}” has {len(row):,} columns; at most {MAX_COLUMNS} fit")
        left -= len(row)
        if left < 0:
            raise NoTable(f"it has more than {MAX_CELLS:,} cells; save the part that matters as CSV or Parquet")
        if row:
            yield row

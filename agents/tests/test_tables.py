"""Reading tables from files of every kind, hostile ones too, and SQL that gets nowhere else."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import openpyxl
import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import SimpleUploadedFile

from agents import attachments, file_kinds
from agents.tables import process, records, workbooks
from agents.tables.drawing import drawing_of
from agents.tables.files import given_of
from agents.tables.records import Given
from agents.tables.results import ChartData, Found, Series
from agents.tests.table_files import delimited
from agents.tests.test_analysis import File

BILLION = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "haha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><workbook>&c;</workbook>'
)


def read(*given: Given) -> tuple[dict[str, list[tuple[Any, ...]]], dict[str, list[str]], dict[str, str]]:
    """(rows by table, "name type" of its columns, problems)"""
    connection = process.opened()
    loaded, problems = process.load_all(connection, given)
    rows, columns = {}, {}
    for each in loaded:
        found = connection.execute(f'SELECT * FROM "{each.name}"')
        columns[each.name] = [f"{column[0]} {column[1]}" for column in found.description or ()]
        rows[each.name] = found.fetchall()
    connection.close()
    return rows, columns, problems


def workbook(fill: Callable[[Any], None]) -> bytes:
    book = openpyxl.Workbook()
    fill(book)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def packed(parts: dict[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in parts.items():
            made.writestr(name, content)
    return out.getvalue()


# What files hold


@pytest.mark.parametrize(
    ("text", "columns", "first"),
    [
        ("a;b\n1;2,5\n2;3,5\n", ["a BIGINT", "b VARCHAR"], (1, "2,5")),
        ("a\tb\nx\t2024-01-31\n", ["a VARCHAR", "b DATE"], None),
        ("name,town\nada,london\nbob,paris\n", ["name VARCHAR", "town VARCHAR"], ("ada", "london")),
        ("1,2\n3,4\n", ["column0 BIGINT", "column1 BIGINT"], (1, 2)),
        ("a,a\n1,2\n", ["a BIGINT", "a_1 BIGINT"], (1, 2)),
        ('a,b\n"x\ny","say ""hi"""\n', ["a VARCHAR", "b VARCHAR"], ("x\ny", 'say "hi"')),
        ("a,b\n1,2\n3\n4,5\n", ["a BIGINT", "b BIGINT"], (1, 2)),
        ("a,b\n", ["a VARCHAR", "b VARCHAR"], None),
    ],
    ids=["semicolons", "tabs", "texts alone", "no header", "names twice", "quotes", "short line", "no rows"],
)
def test_delimited_text_is_read_as_it_is_meant(text: str, columns: list[str], first: tuple[Any, ...] | None) -> None:
    rows, found, problems = read(delimited(text))
    assert problems == {}
    assert found["a"] == columns
    assert first is None or rows["a"][0] == first


def test_column_of_mixed_types_is_read_as_text_and_loses_nothing() -> None:
    text = "a\n" + "".join(f"{number}\n" for number in range(30_000)) + "n/a\n"
    rows, columns, _ = read(delimited(text))
    assert columns["a"] == ["a VARCHAR"]
    assert rows["a"][-1] == ("n/a",)


def test_json_is_read_in_the_shapes_that_tables_have() -> None:
    shapes = {
        "records.json": '[{"a": 1, "b": "x"}, {"a": 2.5, "c": {"d": [1]}}]',
        "lines.jsonl": '{"a": 1}\n\n{"a": null}\n',
        "columns.json": '{"a": [1, 2], "b": ["x", "y"]}',
        "lists.json": '[["a", "b"], [1, true], [2, false]]',
        "nested.json": '{"meta": 1, "people": [{"n": "ada"}], "towns": [{"t": "Oslo"}]}',
        "one.json": '{"a": 1, "when": "2024-01-01"}',
        "bare.json": "[1, 2, 3]",
        "large.json": '[{"a": 99999999999999999999}, {"a": 1}]',
    }
    rows, columns, problems = read(*(Given(name, "json", text.encode()) for name, text in shapes.items()))
    assert problems == {}
    assert rows["records"] == [(1.0, "x", None), (2.5, None, '{"d": [1]}')]
    assert rows["lines"] == [(1,), (None,)]
    assert rows["columns"] == [(1, "x"), (2, "y")]
    assert columns["lists"] == ["a BIGINT", "b BOOLEAN"]
    assert rows["nested_people"] == [("ada",)]
    assert rows["nested_towns"] == [("Oslo",)]
    assert rows["one"] == [(1, "2024-01-01")]
    assert rows["bare"] == [(1,), (2,), (3,)]
    assert columns["large"] == ["a DOUBLE"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}\n{"a":', "its line 2 is no JSON"),
        ("[]", "it holds no records"),
        ("[" * 100_000, "its line 1 is no JSON"),
        (json.dumps([{f"c{number}": 1 for number in range(501)}]), "it has 501 columns; at most 500 fit"),
    ],
    ids=["cut off", "empty", "deep", "wide"],
)
def test_json_that_is_no_table_is_named(text: str, words: str) -> None:
    assert read(Given("a.json", "json", text.encode()))[2] == {"a.json": words}


def test_workbook_gives_values_of_each_sheet_with_their_types() -> None:
    from datetime import date, datetime

    def fill(book: Any) -> None:
        sheet = book.active
        sheet.title = "First one"
        for row in (["day", "at", "n", "mixed", "id"], [date(2024, 1, 2), datetime(2024, 1, 2, 3, 4), 1, "x", "007"]):
            sheet.append(row)
        sheet.append([date(2024, 1, 3), datetime(2024, 1, 3), 2.5, 3, "008"])
        sheet["C5"] = "=SUM(C2:C3)"
        book.create_sheet("Second").append([1, 2])
        book.create_sheet("Empty")

    rows, columns, problems = read(Given("My book.xlsx", "workbook", workbook(fill)))
    assert problems == {}
    assert columns["my_book_first_one"] == ["day DATE", "at TIMESTAMP", "n DOUBLE", "mixed VARCHAR", "id VARCHAR"]
    assert rows["my_book_first_one"][0][2:] == (1.0, "x", "007")
    assert len(rows["my_book_first_one"]) == 2  # a formula without a stored value is none
    assert rows["my_book_second"] == [(1, 2)]


def test_workbook_that_claims_to_be_endless_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(book: Any) -> None:
        book.active["A1"], book.active["A2"] = "a", 1
        book.active["XFD1048576"] = 2

    assert "16,384 columns; at most 500" in read(Given("a.xlsx", "workbook", workbook(fill)))[2]["a.xlsx"]
    monkeypatch.setattr(workbooks, "MAX_CELLS", 1)
    rows = workbook(lambda book: [book.active.append([1, 2]) for _ in range(3)] and None)
    assert "more than 1 cells" in read(Given("a.xlsx", "workbook", rows))[2]["a.xlsx"]


def test_workbook_made_to_burst_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbooks, "MAX_UNPACKED_BYTES", 100_000)
    bomb = packed({"[Content_Types].xml": b"0" * 2_000_000, "xl/workbook.xml": "x"})
    assert len(bomb) < 5_000
    assert "unpacks to more than fits" in read(Given("a.xlsx", "workbook", bomb))[2]["a.xlsx"]
    monkeypatch.setattr(file_kinds, "MAX_UNPACKED_BYTES", 100_000)
    with pytest.raises(file_kinds.UnknownKind, match="unpacks to more than fits"):
        file_kinds.kind_of(bomb)


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04 and nothing",
        packed({"[Content_Types].xml": "<x/>", "xl/workbook.xml": "<not closed"}),
        packed({"[Content_Types].xml": BILLION, "xl/workbook.xml": BILLION}),
        workbook(lambda book: book.active.append([1]))[:-200],
    ],
    ids=["no zip", "no xml", "xml bomb", "cut off"],
)
def test_workbook_that_is_broken_is_named(data: bytes) -> None:
    assert read(Given("a.xlsx", "workbook", data))[2] == {"a.xlsx": workbooks.BROKEN}


def test_parquet_is_read_and_a_broken_one_named(tmp_path: Path) -> None:
    duckdb.connect().execute(f"COPY (SELECT 1 AS a, [1, 2] AS b) TO '{tmp_path}/x.parquet'")
    good = (tmp_path / "x.parquet").read_bytes()
    assert read(Given("x.parquet", "parquet", good))[0] == {"x": [(1, [1, 2])]}
    for broken in (b"PAR1....PAR1", good[:40] + b"\xff" * 40 + good[80:]):
        problem = read(Given("x.parquet", "parquet", broken))[2]["x.parquet"]
        assert problem.startswith("it could not be read: ")
        assert "/dev/fd" not in problem


def test_names_of_tables_and_columns_need_no_care() -> None:
    rows, columns, _ = read(
        delimited("a,b\n1,2\n", "Sales 2024 (final).csv"),
        delimited("a,b\n1,2\n", "2024.csv"),
        delimited("a,b\n1,2\n", "order.csv"),
        delimited("a,b\n1,2\n", "Grün'; DROP TABLE x.csv"),
        Given("x.json", "json", b'[{"A": 1, "a": 2, "": 3, "b\\u0000\\n\\"c": 4}]'),
    )
    assert list(rows) == ["sales_2024_final", "t_2024", "order_2", "gr_n_drop_table_x", "x"]
    assert columns["x"] == ["A BIGINT", "a_2 BIGINT", "column3 BIGINT", 'b "c BIGINT']


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        (File("a.csv", b'name,says\n"Ada, Countess","hi, you"\nbob,x\n'), "delimited"),
        (File("a.txt", b"name,town\nada,london\n"), "delimited"),
        (File("a.txt", b'{"a": 1, "b": 2}\n{"a": 3, "b": 4}\n'), "json"),
        (File("a.csv", "a;b\n1;ü\n".encode("cp1252")), "delimited"),
        (File("a.csv", "a,b\n1,ü\n".encode("utf-16")), "delimited"),
        (File("notes.md", b"# Hello\n\nSome words."), "text"),
        (File("paper.pdf", b"%PDF-1.4"), "text"),
        (File("photo.png", b"\x89PNG", "image/png"), "it holds neither a table nor text"),
        (File("a.csv", b" \n", "text/csv"), "it is empty"),
    ],
    ids=["commas in cells", "by content", "json lines", "cp1252", "utf-16", "prose", "pdf", "picture", "blank"],
)
def test_file_is_taken_for_what_it_is(file: File, kind: str) -> None:
    given, texts, problems = given_of([file])
    if texts:
        assert (kind, given, problems) == ("text", [], {})
    elif given:
        assert given[0].kind == kind
        assert read(*given)[2] == {}
    else:
        assert problems[file.name].startswith(kind)


@pytest.mark.django_db
def test_table_of_100_mb_is_refused_when_it_is_uploaded(alice: User) -> None:
    upload = SimpleUploadedFile("big.csv", b"a,b\n")
    upload.size = 100 * 1024 * 1024
    with pytest.raises(ValidationError, match=r"big.csv has 100.0 MB; at most 20.0 MB fit."):
        attachments.store(alice, upload)


def test_files_that_are_too_large_together_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.tables.files.MAX_BYTES", 20)
    given, _texts, problems = given_of([File("a.csv", b"a,b\n1,2\n"), File("a.csv", b"a,b\n1,2\n3,4\n5,6\n")])
    assert [each.name for each in given] == ["a.csv"]
    assert problems == {"a-2.csv": "the files are too large together; send fewer at once"}


# What is made of results


def found_of(columns: list[tuple[str, str]], rows: list[list[Any]], *, more: bool = False) -> Found:
    named = [{"name": name, "type": kind} for name, kind in columns]
    return Found.of({"columns": named, "rows": rows, "more": more}, title="T", sql="SELECT")


@pytest.mark.parametrize(
    ("columns", "rows", "words"),
    [
        ([("town", "VARCHAR")], [["Oslo"]], "Nothing to draw: give a first column with labels"),
        ([("town", "VARCHAR"), ("n", "BIGINT")], [], "Nothing to draw"),
        ([("town", "VARCHAR"), ("n", "DOUBLE")], [["Oslo", None]], "there is no number in the result"),
        ([("n", "VARCHAR"), ("i", "BIGINT")], [["a", 1]] * 61, "Too many rows for a chart"),
        ([("n", "VARCHAR"), *[("i", "BIGINT")] * 7], [["a", *[1] * 7]], "at most 6 series"),
    ],
    ids=["no numbers", "no rows", "empty cells", "many", "wide"],
)
def test_chart_that_cannot_be_drawn_says_why(columns: Any, rows: list[list[Any]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ChartData.of(found_of(columns, rows), "bar")


def test_long_result_is_told_in_part_and_kept_in_bounds() -> None:
    found = found_of([("a", "BIGINT")], [[number] for number in range(100)], more=True)
    assert "(40 more rows are shown to the user, and there are others)" in found.told()
    wide = found_of([("a", "VARCHAR")], [["x" * 300]] * 300)
    assert (len(wide.rows), wide.more) == (200, True)
    assert len(wide.told()) < 9_000


def chart(kind: Any, *values: float | None) -> ChartData:
    labels = [str(number) for number in range(len(values))]
    return ChartData(
        title="T", kind=kind, label="l", labels=labels, series=[Series(name="s", values=[*values])], sql=""
    )


def test_bars_stand_on_zero_and_hang_below_it() -> None:
    drawing = drawing_of(chart("bar", 10, None, -5))
    assert drawing.marks == (10, 2.5, -5)
    assert drawing.zero_y == 133.33
    assert [(bar.y, bar.height) for bar in drawing.bars] == [(0, 133.33), (133.33, 66.67)]
    assert (drawing.most, drawing.least) == (("0", 10), ("2", -5))


def test_line_is_broken_where_a_value_is_missing() -> None:
    assert drawing_of(chart("line", 0, 10, None, 5)).lines[0].path == "M0 200L333.33 0M1000 100h0.01"
    assert drawing_of(chart("line", 0)).marks == (1, 0.5, 0)
    assert records.MAX_CELLS == workbooks.MAX_CELLS

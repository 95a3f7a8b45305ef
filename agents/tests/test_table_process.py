"""The process that tables are queried in: what it answers, refuses and cannot reach."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from agents.tables import process
from agents.tables.client import TableProcess, TableProcessFailed
from agents.tests.table_files import delimited

Connection = duckdb.DuckDBPyConnection


@pytest.fixture(scope="module")
def shut() -> Iterator[Connection]:
    """A database in this process, with one table and locked down."""
    connection = process.opened()
    connection.execute("CREATE TABLE sales AS SELECT i AS id, i % 3 AS kind FROM range(10) t(i)")
    process.lock_down(connection)
    yield connection
    connection.close()


# What SQL may do

WRITES = (
    "CREATE TABLE x AS SELECT 1",
    "INSERT INTO sales VALUES (1, 2)",
    "UPDATE sales SET id = 0",
    "DELETE FROM sales",
    "DROP TABLE sales",
    "COPY sales TO '/tmp/stolen.csv'",
    "COPY sales FROM '/etc/passwd'",
    "EXPORT DATABASE '/tmp/stolen'",
    "IMPORT DATABASE '/tmp/stolen'",
    "ATTACH '/tmp/other.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "SET memory_limit = '100GB'",
    "RESET memory_limit",
    "CALL pragma_version()",
    "CHECKPOINT",
    "PREPARE p AS SELECT 1",
    "BEGIN TRANSACTION",
    "SELECT 1; DROP TABLE sales",
    "SELECT 1; SELECT 2",
    "-- nothing",
)
REACHES = (
    "WITH x AS (INSERT INTO sales VALUES (1, 2) RETURNING *) SELECT * FROM x",
    "EXPLAIN ANALYZE INSERT INTO sales VALUES (1, 2)",
    "EXPLAIN ANALYZE COPY sales TO '/tmp/stolen.csv'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM parquet_scan('/etc/passwd')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "FROM 'https://example.com/x.parquet'",
    "SELECT * FROM read_csv('https://example.com/x.csv')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT getenv('HOME')",
    "SELECT * FROM query('DROP TABLE sales')",
    "SELECT * FROM sqlite_scan('/tmp/x', 'y')",
)


@pytest.mark.parametrize("sql", WRITES)
def test_statement_that_is_not_one_select_is_refused(sql: str, shut: Connection) -> None:
    error = process.answer(shut, sql, 60)["error"]
    assert error.startswith(("Only SELECT is allowed here", "Give exactly one statement"))
    assert_untouched(shut)


@pytest.mark.parametrize("sql", REACHES)
def test_select_that_reaches_further_is_refused(sql: str, shut: Connection) -> None:
    answer = process.answer(shut, sql, 60)
    assert list(answer) == ["error"]
    assert "root:" not in answer["error"]
    assert not Path("/tmp/stolen.csv").exists()
    assert_untouched(shut)


def assert_untouched(connection: Connection) -> None:
    assert process.answer(connection, "SELECT count(*), sum(id) FROM sales", 60)["rows"] == [[10, 45]]


def test_doors_cannot_be_opened_again(shut: Connection) -> None:
    for setting in ("enable_external_access = true", "memory_limit = '8GB'", "threads = 64"):
        with pytest.raises(duckdb.InvalidInputException, match="locked"):
            shut.execute(f"SET {setting}")


@pytest.mark.parametrize(
    "sql", ["EXPLAIN SELECT * FROM sales", "FROM sales", "WITH x AS (SELECT 1) TABLE x", "DESCRIBE sales", "VALUES (1)"]
)
def test_statement_that_reads_is_answered(sql: str, shut: Connection) -> None:
    assert process.answer(shut, sql, 60)["rows"]


def test_endless_query_is_ended_and_the_next_is_answered(shut: Connection) -> None:
    endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"
    error = process.answer(shut, endless, 0.2)["error"]
    assert error == "The query took longer than 0.2 s and was ended. Ask for less at once."
    assert_untouched(shut)


def test_query_that_wants_all_memory_is_ended() -> None:
    connection = process.opened()
    connection.execute("SET memory_limit = '20MB'")
    error = process.answer(connection, "SELECT list(i) FROM range(5000000) t(i)", 60)["error"]
    assert error == "The query needs more memory than it may have. Ask for less at once."
    assert process.answer(connection, "SELECT 1", 60)["rows"] == [[1]]
    connection.close()


def test_huge_result_is_cut_and_says_so(shut: Connection) -> None:
    long = process.answer(shut, "SELECT i FROM range(100000000) t(i)", 60)
    assert (len(long["rows"]), long["more"]) == (process.MAX_ROWS, True)
    wide = process.answer(shut, "SELECT " + ", ".join(["1"] * 100), 60)
    assert (len(wide["rows"][0]), len(wide["columns"]), wide["more"]) == (50, 50, True)
    big = process.answer(shut, "SELECT repeat('x', 100000), [1, 2], 'a'::BLOB, 1e400::DOUBLE, 10::HUGEINT ** 30", 60)
    assert len(big["rows"][0][0]) == process.MAX_CELL_CHARS + 1
    assert json.dumps(big["rows"], allow_nan=False)
    assert "longer than" in process.answer(shut, f"SELECT '{'x' * 20_001}'", 60)["error"]


def test_values_are_kept_as_json_can_hold_them(shut: Connection) -> None:
    sql = "SELECT 1, 9007199254740993, 1.25::DECIMAL(5,2), true, NULL, DATE '2024-01-02', 'NaN'::DOUBLE, {'a': 1}"
    assert process.answer(shut, sql, 60)["rows"] == [
        [1, "9007199254740993", 1.25, True, None, "2024-01-02", "nan", '{"a": 1}']
    ]


# The process


async def test_process_lives_in_bounds_and_begins_again_after_its_process_died() -> None:
    table = TableProcess([delimited("a\n1\n2\n")], query_timeout_s=60)
    await table.open()
    bomb = await table.query("SELECT repeat('x', 1000000000)")
    assert bomb == {"error": "The query needs more memory than it may have. Ask for less at once."}
    assert table._process is not None
    table._process.kill()
    with pytest.raises(TableProcessFailed, match="more memory or time than they may have"):
        await table.query("SELECT sum(a) FROM a")
    assert (await table.query("SELECT sum(a) FROM a"))["rows"] == [[3]]
    table.close()


async def test_moments_with_a_zone_are_answered() -> None:
    table = TableProcess([delimited("n,seen\n1,2026-01-02 03:04:05+02:00\n")])
    await table.open()
    answer = await table.query("SELECT seen, [seen] AS more FROM a")
    table.close()
    assert answer["rows"] == [["2026-01-02 01:04:05+00:00", '["2026-01-02 01:04:05+00:00"]']]


def test_errors_tell_nothing_of_this_program(shut: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytz", None)
    error = process.answer(shut, "SELECT TIMESTAMPTZ '2026-01-02 03:04:05+02:00'", 60)["error"]
    assert "pytz" in error
    assert "File" not in error


async def test_file_that_kills_the_process_does_not_take_the_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = TableProcess._begin

    def dies(self: TableProcess) -> None:
        if any(given.name == "bad.csv" for given in self.files):
            raise TableProcessFailed("too much")
        begin(self)

    monkeypatch.setattr(TableProcess, "_begin", dies)
    table = TableProcess([delimited("a\n1\n", "good.csv"), delimited("a\n1\n", "bad.csv")])
    await table.open()
    table.close()
    assert ([each["name"] for each in table.tables], table.problems) == (["good"], {"bad.csv": "too much"})


def test_process_knows_nothing_of_the_site_and_can_write_nothing() -> None:
    program = (
        "import sys, os; sys.argv = ['process']; from agents.tables import process; import io;"
        'sys.stdin = io.TextIOWrapper(io.BytesIO(b\'{"files": [], "query_timeout_s": 1}\\n\')); process.main();'
        "assert 'django' not in sys.modules\n"
        "try:\n    open('/tmp/process-was-here', 'w').write('x' * 10000)\n"
        "except OSError as error: print(error.errno)\n"
    )
    root = str(Path(process.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ['{"tables": [], "problems": {}}', "27"]
    Path("/tmp/process-was-here").unlink(missing_ok=True)

"""Options of the tests of the whole site."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-query-counts", action="store_true", help="write project/tests/query_counts.json anew")

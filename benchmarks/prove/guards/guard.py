"""What a guard is to the mutation script, and where tests lie."""

from __future__ import annotations

from dataclasses import dataclass

LLM = "llm_credentials"
LLM_TESTS = "llm_credentials/tests"
PROVIDER_TESTS = "llm_credentials/providers/tests"
MATRIX = "project/tests/test_isolation.py"


@dataclass(frozen=True, slots=True)
class Guard:
    name: str
    path: str
    before: str
    after: str
    tests: tuple[str, ...]
    """Files of tests, or single ones as pytest names them: some of these must go red."""
    nth: int = 1


def tests(*names: str) -> tuple[str, ...]:
    return tuple(f"{LLM_TESTS}/test_{name}.py" for name in names)

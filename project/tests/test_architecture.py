"""Rules of the architecture that no linter knows."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_credentials.providers import registry
from project.env import BASE_DIR
from project.tests.checkout import bare_environment

PACKAGES = ("project", "agents", "llm_credentials")
ADAPTERS = "llm_credentials/providers/adapters/"
SANDBOX = "llm_credentials/providers/sandbox/"
DOOR = "llm_credentials/providers/door.py"
# Writes on connections of the door's own pool, whose connector has checked their addresses.
POSTING = "llm_credentials/providers/posting.py"
CLIENT_MODULES = {"aiohttp", "httpx", "httpx2", "requests", "urllib3", "urllib.request", "http.client", "socket"}
SDKS = ("openai", "anthropic", "google.genai")
# What a site without a collector does not pay for.
TELEMETRY = ("opentelemetry.sdk", "sentry_sdk", "project.tracing", "project.error_reports")
# Our own servers' doors, and whether they answer: nothing goes out, and no key is in sight.
OWN_SERVER = {"project/supervisor.py", "project/serve.py", "project/postgresql/answering.py"}
NAMES_THE_DEFAULT_PROVIDER = {"llm_credentials/conf.py", "project/settings.py"}


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Path in the checkout and syntax tree of each of our files, tests and migrations left out."""
    for package in PACKAGES:
        for path in sorted((BASE_DIR / package).rglob("*.py")):
            parts = path.relative_to(BASE_DIR).parts
            if not {"tests", "migrations"} & set(parts):
                yield "/".join(parts), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module, *, of_the_module_only: bool = False) -> Iterator[str]:
    """The names of imported modules; of the module only: those that are imported when the file is."""
    nodes = tree.body if of_the_module_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_environment_is_read_in_one_file() -> None:
    readers = set()
    for path, tree in sources():
        for node in ast.walk(tree):
            named = isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "putenv"}
            if named or (isinstance(node, ast.ImportFrom) and node.module == "os" and _takes_environment(node)):
                readers.add(path)
    assert readers == {"project/env.py"}


def _takes_environment(node: ast.ImportFrom) -> bool:
    return any(alias.name in {"environ", "environb", "getenv"} for alias in node.names)


def test_only_the_door_opens_connections() -> None:
    doors = {path for path, tree in sources() if not path.startswith(SANDBOX) and any(client_calls(tree))}
    assert doors <= {DOOR, POSTING} | OWN_SERVER


def client_calls(tree: ast.Module) -> Iterator[str]:
    """What is called of modules that open connections. Their types may be named anywhere."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name for alias in node.names if alias.name in CLIENT_MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module in CLIENT_MODULES:
            names |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if any(is_within(called, name) for name in names):
                yield called


def test_sdks_are_imported_in_adapters_alone_and_when_they_are_used() -> None:
    for path, tree in sources():
        found = [name for name in imports(tree) if any(is_within(name, sdk) for sdk in SDKS)]
        assert not found or path.startswith(ADAPTERS), f"{path} imports {found[0]}"
        eager = [name for name in imports(tree, of_the_module_only=True) if name in found]
        assert not eager, f"{path} imports {eager[0]} before anybody needs it"


def test_provider_is_named_in_its_own_files_alone() -> None:
    # Words that mean something else as well cannot be told apart from a provider's name.
    slugs = {spec.slug for spec in registry.all_specs()}
    named = [
        f"{path}:{node.lineno} {node.value}"
        for path, tree in sources()
        if not path.startswith((ADAPTERS, SANDBOX)) and path not in NAMES_THE_DEFAULT_PROVIDER
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in slugs
    ]
    assert named == []


def test_commands_load_neither_sdks_nor_telemetry(tmp_path: Path) -> None:
    code = (
        "import sys; from project.env import use_settings; use_settings('project.settings');"
        "from django.core.management import call_command; import django; django.setup();"
        "call_command('check'); call_command('showmigrations', '--plan');"
        f"print([name for name in sys.modules if name in {SDKS + TELEMETRY!r}])"
    )
    environment = bare_environment(
        SECRET_KEY="x" * 50,
        LOCAL="true",
        DATABASE_URL=f"sqlite:///{tmp_path}/db.sqlite3",
        CREDENTIAL_KEYS=f"k:{'A' * 43}=",
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BASE_DIR, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt", "requirements-telemetry.txt"])
def test_every_package_is_pinned_with_its_hash(file: str) -> None:
    text = (BASE_DIR / file).read_text(encoding="utf-8").replace("\\\n", " ")
    packages = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    loose = [line.split()[0] for line in packages if "==" not in line.split()[0] or "--hash=sha256:" not in line]
    assert packages
    assert loose == []

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from llm_credentials.providers import registry
from llm_credentials.providers.spec import OptionField, ProviderSpec
from project import env

HOSTED = ProviderSpec(
    slug="hosted",
    label="Hosted",
    client="nowhere:Client",
    base_url="https://hosted.example/v1",
    env_key_names=("HOSTED_API_KEY", "OTHER_NAME_API_KEY"),
    env_prefix="HOSTED",
    options=(OptionField(name="api_version", label="API version"),),
)
OWN = ProviderSpec(
    slug="own", label="Own", client="nowhere:Client", base_url=None, key_required=False, env_prefix="OWN"
)


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the environment and the files say, as the test wants it."""
    given: dict[str, str] = {}
    monkeypatch.setattr(env._Environment, "ENVIRON", given)
    return given


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A checkout's folder without files; ``load`` reads from there."""
    monkeypatch.setattr(env, "ENV_FILE", tmp_path / ".env")
    monkeypatch.setattr(env, "RUN_ENV_FILE", tmp_path / "run-env")
    monkeypatch.setattr(env, "_loaded", False)
    monkeypatch.setattr(env._Environment, "ENVIRON", {})
    yield tmp_path


def test_load_prefers_the_environment_then_the_supervisor_then_the_file(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KS_FIRST", "environment")
    (files / "run-env").write_text(f"KS_FIRST=run\nKS_SECOND=run\nSUPERVISOR_PID={os.getpid()}\n")
    (files / ".env").write_text("KS_FIRST=file\nKS_SECOND=file\nKS_THIRD='file'\n")
    env.load()
    assert [env.text(f"KS_{name}") for name in ("FIRST", "SECOND", "THIRD")] == ["environment", "run", "file"]
    assert "KS_THIRD" not in os.environ


def test_load_ignores_what_a_dead_supervisor_wrote(files: Path) -> None:
    (files / "run-env").write_text("KS_SECOND=run\nSUPERVISOR_PID=999999999\n")
    (files / ".env").write_text("KS_SECOND=file\n")
    env.load()
    assert env.text("KS_SECOND") == "file"


def test_secret_comes_from_its_file(values: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from a file\n")
    values["THING_FILE"] = str(tmp_path / "secret")
    assert env.secret("THING") == "from a file"
    values["THING"] = "given"
    assert env.secret("THING") == "given"


def test_secret_names_a_file_that_cannot_be_read(values: dict[str, str], tmp_path: Path) -> None:
    values["THING_FILE"] = str(tmp_path / "missing")
    with pytest.raises(ImproperlyConfigured, match=r"THING_FILE names a file that cannot be read: .*missing"):
        env.secret("THING")


@pytest.mark.parametrize(("word", "meaning"), [("true", True), ("ON", True), ("1", True), ("no", False), ("", False)])
def test_flag_reads_words(values: dict[str, str], word: str, meaning: bool) -> None:
    values["SWITCH"] = word
    assert env.flag("SWITCH") is meaning


@pytest.mark.parametrize(
    ("read", "value", "says"),
    [
        (lambda: env.flag("X"), "perhaps", "X must be true or false"),
        (lambda: env.whole("X", 1), "1.5", "X must be a whole number"),
        (lambda: env.decimal("X", 1), "ten", "X must be a number"),
        (lambda: env.database("X", "sqlite://:memory:"), "nonsense", "X is no database address"),
        (lambda: env.database("X", "sqlite://:memory:"), "mongodb://host/name", "X is no database address"),
    ],
)
def test_wrong_value_is_named_with_what_it_must_be(values: dict[str, str], read: Any, value: str, says: str) -> None:
    values["X"] = value
    with pytest.raises(ImproperlyConfigured, match=says):
        read()


def test_database_address_is_not_quoted_in_the_error(values: dict[str, str]) -> None:
    values["X"] = "wrong://user:hunter2hunter2@host/name"
    with pytest.raises(ImproperlyConfigured) as caught:
        env.database("X", "")
    assert "hunter2" not in str(caught.value)


def test_postgres_gets_a_pool_and_keeps_the_options_of_its_address(values: dict[str, str]) -> None:
    values["DATABASE_POOL_SIZE"] = "7"
    config = env.database_url("postgres://user:pw@host:5432/name?sslmode=require")
    assert config["OPTIONS"]["pool"]["max_size"] == 7
    assert config["OPTIONS"]["sslmode"] == "require"
    assert config.get("CONN_MAX_AGE", 0) == 0


def test_sqlite_waits_for_its_writers(values: dict[str, str]) -> None:
    options = env.database_url("sqlite:////tmp/x.sqlite3")["OPTIONS"]
    assert options["transaction_mode"] == "IMMEDIATE"
    assert "journal_mode=WAL" in options["init_command"]


def test_system_keys_read_what_the_spec_names(values: dict[str, str]) -> None:
    values |= {
        "OTHER_NAME_API_KEY": "second name",
        "HOSTED_MODEL": "m-1",
        "HOSTED_API_VERSION": "2026-01",
        "OWN_BASE_URL": "http://192.168.1.5:11434/v1",
    }
    assert env.system_keys([HOSTED, OWN]) == {
        "hosted": {"api_key": "second name", "model": "m-1", "base_url": None, "options": {"api_version": "2026-01"}},
        "own": {"api_key": None, "model": "", "base_url": "http://192.168.1.5:11434/v1", "options": {}},
    }


def test_system_keys_are_none_without_key_or_address(values: dict[str, str]) -> None:
    values |= {"HOSTED_MODEL": "m-1", "HOSTED_BASE_URL": "https://other.example", "OWN_MODEL": "m-2"}
    assert env.system_keys([HOSTED, OWN]) == {}


def test_system_keys_may_stand_in_files(values: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from a file\n")
    values["HOSTED_API_KEY_FILE"] = str(tmp_path / "key")
    assert env.system_keys([HOSTED])["hosted"]["api_key"] == "from a file"


def test_strip_takes_the_variables_of_sdks_and_children_get_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "_stripped", {})
    for name in ("HOSTED_API_KEY", "HOSTED_ORG_ID", "HOSTED_CUSTOM_HEADERS", "OTHER_NAME_BASE_URL", "UNRELATED"):
        monkeypatch.setenv(name, "decoy")
    env.strip_sdk_variables([HOSTED])
    left = [name for name in os.environ if name.startswith(("HOSTED_", "OTHER_NAME_"))]
    assert left == []
    assert os.environ["UNRELATED"] == "decoy"
    assert env.child_environment(EXTRA="1").items() >= {"HOSTED_ORG_ID": "decoy", "EXTRA": "1"}.items()


@pytest.mark.parametrize(
    "name",
    [
        *("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_CUSTOM_HEADERS", "OPENAI_BASE_URL", "OPENAI_PROJECT_ID"),
        *("ANTHROPIC_BASE_URL", "ANTHROPIC_CUSTOM_HEADERS", "ANTHROPIC_AUTH_TOKEN"),
        *("GOOGLE_GEMINI_BASE_URL", "GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI"),
        "AZURE_OPENAI_ENDPOINT",
    ],
)
def test_strip_takes_every_variable_that_leads_a_call_astray(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(env, "_stripped", {})
    monkeypatch.setenv(name, "decoy")
    env.strip_sdk_variables(registry.all_specs())
    assert name not in os.environ


def test_env_file_gets_what_is_missing_and_keeps_the_rest(files: Path) -> None:
    (files / ".env").write_text("# mine\nSECRET_KEY=kept\nTIMES='a b'\n")
    env.load()
    assert env.complete_env_file() == ["CREDENTIAL_KEYS"]
    text = (files / ".env").read_text()
    assert text.startswith("# mine\nSECRET_KEY=kept\nTIMES='a b'\nCREDENTIAL_KEYS=k1:")
    assert stat.S_IMODE((files / ".env").stat().st_mode) == 0o600
    assert env.complete_env_file() == []
    assert (files / ".env").read_text() == text


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("unix:///run/v.sock", "redis+socket:///run/v.sock?virtual_host=0"),
        ("unix:///run/v.sock?db=3", "redis+socket:///run/v.sock?virtual_host=3"),
        ("rediss://user:pw@host:6380/1", "rediss://user:pw@host:6380/1"),
    ],
)
def test_redis_address_is_spelled_for_celery(url: str, broker: str) -> None:
    assert env.redis_addresses(url) == {"plain": url, "broker": broker}


def test_example_explains_every_variable_that_is_read() -> None:
    example = (env.BASE_DIR / ".env.example").read_text()
    explained = set(re.findall(r"^([A-Z][A-Z0-9_]*)=", example, re.MULTILINE))
    source = "".join(
        (env.BASE_DIR / "project" / name).read_text() for name in ("settings.py", "management/commands/up.py")
    )
    readers = "text|secret|flag|whole|decimal|rate|words|database|commands|shared_metrics|pairs|share|web_address"
    read = set(re.findall(rf'env\.(?:{readers})\(\s*"([A-Z0-9_]+)"', source))
    for spec in registry.all_specs():
        if spec.env_prefix:
            read |= {f"{spec.env_prefix}_{end}" for end in ("MODEL", "BASE_URL")}
            read |= {f"{spec.env_prefix}_{field.name.upper()}" for field in spec.options}
        read |= set(spec.env_key_names[:1])
    assert read <= explained, f"not explained: {read - explained}"
    by_env_itself = {"DATABASE_POOL_SIZE", "DATABASE_WAIT_S", "DATABASE_STATEMENT_TIMEOUT_S"}
    assert explained - by_env_itself <= read, f"read by nobody: {explained - read}"


def given(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setattr(env._Environment, "ENVIRON", {"NAME": value})


def test_pairs_are_headers_as_collectors_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "authorization=Basic%20abc=, x-team = one")
    assert env.pairs("NAME") == {"authorization": "Basic abc=", "x-team": "one"}


@pytest.mark.parametrize(
    ("read", "value"),
    [
        *((env.pairs, bad) for bad in ("authorization", "=x", "a=b,c")),
        *((env.web_address, bad) for bad in ("collector:4318", "ftp://collector", "http://", "http://a b")),
        *((lambda name: env.share(name, default=1), bad) for bad in ("1.1", "-0.1", "all", "nan")),
    ],
)
def test_bad_values_of_a_collector_are_refused_in_words(monkeypatch: pytest.MonkeyPatch, read: Any, value: str) -> None:
    given(monkeypatch, value)
    with pytest.raises(ImproperlyConfigured, match="NAME"):
        read("NAME")

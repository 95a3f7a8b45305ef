import json
import logging
import subprocess
import sys

import pytest
import structlog
from django.conf import settings
from django.test import RequestFactory
from django.views.debug import ExceptionReporter

from project.env import BASE_DIR
from project.logging import REDACTED, HidingReporterFilter, formatter, know_secrets, redact
from project.middleware import request_id

SECRETS = {
    "openai": "sk-proj-abcDEF0123456789_-xyz",
    "anthropic": "sk-ant-api03-0123456789abcdef-AA",
    "google": "AIzaSyD-0123456789abcdefghijklmnopqrst",
    "groq": "gsk_0123456789abcdefABCDEF",
    "own token": "ksw_0123456789abcdefABCDEF",
    "fernet": "gAAAAABm0123456789abcdef-_ABCDEF==",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize(
    "text", ["{}", "key {} refused", "url?key={}&x=1", "['{}']", '{{"a": "{}"}}', "(<{}>)", "Bearer {}", "v1:k1:{}"]
)
def test_redact_takes_keys_out_of_any_text(text: str, secret: str) -> None:
    cleaned = redact(text.format(secret))
    assert secret not in cleaned
    assert secret[6:] not in cleaned
    assert REDACTED in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdef123456",
        "authorization=Basic dXNlcjpwdw==",
        "{'api_key': 'abc'}",
        '{"x-api-key": "abc"}',
        "api-key: abc",
        "password=abc&next=/",
        "access_token=abc",
        "https://host/v1?key=abc",
        "postgres://user:abc@host/db",
        "redis://:abc@host:6379/0",
    ],
)
def test_redact_takes_named_secrets_of_any_form(text: str) -> None:
    cleaned = redact(text)
    assert "abc" not in cleaned
    assert "dXNlcjpwdw" not in cleaned
    assert REDACTED in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "input_tokens=1240 output_tokens=7 max_tokens=4096",
        "the task-0123456789-finished",
        "token count: 5",
        "GET /settings/llm/tokens/ 200",
        "the key ends in 4f2a",
        "http://127.0.0.1:8000/v1/models",
    ],
)
def test_redact_leaves_harmless_text(text: str) -> None:
    assert redact(text) == text


def test_no_line_keeps_the_redaction_busy() -> None:
    """What anybody may write into an address: a look that begins anew at each place would take a day for these."""
    program = (
        "from project.logging import redact\n"
        "for unit in ('-a', 'a_', 'sk-', 'api_', 'token ', '://a:', 'key=', 'bearer '):\n"
        "    redact(unit * 60_000)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=BASE_DIR, check=True, timeout=120)


def test_redact_knows_this_sites_secrets_by_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    from project import logging as module

    monkeypatch.setattr(module, "_exact", module._exact)
    monkeypatch.setattr(module, "_sealed", module._sealed)
    know_secrets(prefixes=["acme-"], values=["correct horse battery", "short"])
    assert redact("it is correct horse battery staple, short") == f"it is {REDACTED} staple, short"
    assert redact("acme-0123456789") == REDACTED


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    library = logging.getLogger("some.library")
    return library.makeRecord("some.library", logging.WARNING, __file__, 1, message, args, None, extra=extra)


@pytest.mark.parametrize("kind", ["json", "console"])
def test_lines_of_any_library_are_redacted(kind: str) -> None:
    secret = SECRETS["openai"]
    line = formatter(kind).format(record("calling with %s", secret, api_key="plain", header={"Authorization": "plain"}))
    assert secret not in line
    assert "plain" not in line
    assert "calling with" in line


@pytest.mark.parametrize("kind", ["json", "console"])
def test_exceptions_are_redacted_to_the_last_cause(kind: str) -> None:
    secret = SECRETS["anthropic"]
    try:
        try:
            raise ValueError(f"bad header value {secret}")
        except ValueError as cause:
            raise RuntimeError(f"request with {secret} failed") from cause
    except RuntimeError:
        made = record("it broke")
        made.exc_info = sys.exc_info()
    line = formatter(kind).format(made)
    assert secret not in line
    assert "RuntimeError" in line
    assert "ValueError" in line


def test_structured_line_is_json_with_its_request(capsys: pytest.CaptureFixture[str]) -> None:
    log = structlog.get_logger("test")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter("json"))
    root = logging.getLogger()
    before, root.handlers = root.handlers, [handler]
    token = request_id.set("0123456789abcdef")
    try:
        log.warning("key_saved", provider="x", password="hunter, and two", nested={"api_key": "abc", "model": "m"})
    finally:
        request_id.reset(token)
        root.handlers = before
    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert line["event"] == "key_saved"
    assert line["request_id"] == "0123456789abcdef"
    assert (line["password"], line["nested"]) == (REDACTED, {"api_key": REDACTED, "model": "m"})


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn.access", "uvicorn.error", "celery", "celery.task", "django"])
def test_libraries_write_through_our_handler_alone(name: str) -> None:
    # A NullHandler writes nothing; some libraries attach one when they are imported.
    assert [each for each in logging.getLogger(name).handlers if not isinstance(each, logging.NullHandler)] == []
    assert name in settings.LOGGING["loggers"]
    assert settings.LOGGING["handlers"]["stderr"]["formatter"] == "line"


def test_debug_page_shows_no_form_values_and_no_variables(rf: RequestFactory) -> None:
    # Made at run time: the page does show lines of source.
    one, two, local = (f"canary-{word[::-1]}" for word in ("eno", "owt", "eerht"))
    request = rf.post("/x/", {"api_key": one, "model": two})
    try:
        raise RuntimeError("it broke")
    except RuntimeError:
        page = ExceptionReporter(request, *sys.exc_info()).get_traceback_html()
    assert settings.DEFAULT_EXCEPTION_REPORTER_FILTER.endswith(HidingReporterFilter.__name__)
    for secret in (one, two, local):
        assert secret not in page

"""Where no key may show."""

from __future__ import annotations

from typing import Final

from benchmarks.prove.guards.guard import LLM, Guard, tests

SILENCE: Final = [
    Guard(
        "log lines are redacted",
        "project/logging.py",
        "return redact(super().format(record))",
        "return super().format(record)",
        ("project/tests/test_logging.py",),
    ),
    Guard(
        "secret fields of log lines are hidden",
        "project/logging.py",
        "if value and _SECRET_FIELD.match(name):",
        "if False:",
        ("project/tests/test_logging.py",),
    ),
    Guard(
        "error pages show no variables",
        "project/logging.py",
        "return dict.fromkeys(tb_frame.f_locals, self.cleansed_substitute).items()",
        "return tb_frame.f_locals.items()",
        ("project/tests/test_logging.py", "project/tests/test_leaks.py"),
    ),
    Guard(
        "error pages show no form values",
        "project/logging.py",
        "return dict.fromkeys(post, self.cleansed_substitute)",
        "return dict(request.POST.items())",
        ("project/tests/test_logging.py", "project/tests/test_leaks.py"),
    ),
    Guard(
        "no answer is kept by a cache",
        "project/middleware.py",
        '    headers.setdefault("Cache-Control", "no-store, private")\n',
        "",
        ("project/tests/test_middleware.py",),
    ),
    Guard(
        "an expired token that is remembered is refused",
        f"{LLM}/live/tokens.py",
        "return None if time.time() >= kept.expires_at else kept.token",
        "return kept.token",
        tests("live_tokens"),
    ),
    Guard(
        "a remembered token is asked for again after a change",
        f"{LLM}/live/tokens.py",
        " or not listener.is_sure(kept.read_at):",
        ":",
        tests("live_tokens"),
    ),
    Guard(
        "pages run no script but ours",
        "project/middleware.py",
        '    headers.setdefault("Content-Security-Policy", settings.CONTENT_SECURITY_POLICY)\n',
        "",
        ("project/tests/test_middleware.py", "project/tests/test_settings.py"),
    ),
    Guard(
        "an export holds no key",
        f"{LLM}/leaving.py",
        "if field.name not in NEVER and field.name not in without",
        "if field.name not in without",
        ("project/tests/test_leaving.py",),
    ),
    Guard(
        "a pasted token of this site is no key",
        f"{LLM}/validation.py",
        "if key.startswith(TOKEN_PREFIX):",
        "if False:",
        tests("validation"),
    ),
    Guard(
        "the mask of a key is no key",
        f"{LLM}/validation.py",
        "if _MASK.fullmatch(key):",
        "if False:",
        tests("validation"),
    ),
    Guard(
        "a key of strange characters is refused",
        f"{LLM}/validation.py",
        "if not _VISIBLE_ASCII.issuperset(key):",
        "if False:",
        tests("validation"),
    ),
    Guard(
        "no key in a field that shows",
        f"{LLM}/validation.py",
        "return len(text) >= 20 and bool(prefixes) and text.startswith(prefixes)",
        "return False",
        tests("validation"),
    ),
    Guard(
        "an unsaved key is destroyed when its test ends",
        f"{LLM}/connection_tests/running.py",
        "            row.api_key = None\n",
        "            pass\n",
        tests("connection_tests"),
    ),
    Guard(
        "an unsaved key that nobody tests is destroyed",
        f"{LLM}/connection_tests/expiring.py",
        "        api_key=None,\n        detail=",
        "        detail=",
        tests("connection_tests"),
    ),
]

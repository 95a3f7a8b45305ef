"""Where anything may be sent."""

from __future__ import annotations

from typing import Final

from benchmarks.prove.guards.guard import LLM, PROVIDER_TESTS, Guard, tests

EGRESS: Final = [
    Guard(
        "an address is checked when it is saved",
        f"{LLM}/validation.py",
        "transport.check_url(text, egress.policy())",
        "text",
        tests("validation", "egress_surfaces"),
    ),
    Guard(
        "an address is checked when it is dialled",
        f"{LLM}/providers/door.py",
        "if fault := address_fault(ipaddress.ip_address(host), port, self.rules, self.granted):",
        "if fault := '':",
        (f"{PROVIDER_TESTS}/test_door.py",),
    ),
    Guard(
        "every address of a name is checked",
        f"{LLM}/providers/door.py",
        "for address in addresses:\n            if fault",
        "for address in ():\n            if fault",
        (f"{PROVIDER_TESTS}/test_door.py",),
    ),
    Guard(
        "redirects are not followed",
        f"{LLM}/providers/door.py",
        "data=body, allow_redirects=False",
        "data=body, allow_redirects=True",
        (f"{PROVIDER_TESTS}/test_door.py",),
    ),
    Guard(
        "no proxy of the environment is used",
        f"{LLM}/providers/door.py",
        "            trust_env=False,\n",
        "            trust_env=True,\n",
        (f"{PROVIDER_TESTS}/test_door.py",),
    ),
    Guard(
        "no cookie is kept",
        f"{LLM}/providers/door.py",
        "            cookie_jar=aiohttp.DummyCookieJar(),\n",
        "",
        (f"{PROVIDER_TESTS}/test_door.py",),
    ),
    Guard(
        "a new address asks for the key again",
        f"{LLM}/drafts.py",
        "if has_key and stored is not None and base_url != stored.base_url:",
        "if False:",
        tests("services"),
    ),
    Guard(
        "a model is no path",
        f"{LLM}/validation.py",
        'fault = model_id_fault(text) or (_("A model id is no path.") if ".." in text else None)',
        "fault = None",
        tests("validation"),
    ),
    Guard(
        "a key does not stand in an address",
        f"{LLM}/providers/egress.py",
        'if any(sign in rest for sign in "?#"):',
        "if False:",
        (f"{PROVIDER_TESTS}/test_egress.py",),
    ),
    Guard(
        "no user name in an address",
        f"{LLM}/providers/egress.py",
        'if any(sign in rest for sign in "@\\\\"):',
        "if False:",
        (f"{PROVIDER_TESTS}/test_egress.py",),
    ),
    Guard(
        "metadata addresses are never dialled, whatever is allowed",
        f"{LLM}/providers/egress.py",
        "if plain != _LOOPBACK_IPV6 and _within(plain, NEVER):",
        "if False:",
        (f"{PROVIDER_TESTS}/test_egress.py", f"{PROVIDER_TESTS}/test_door.py"),
    ),
    Guard(
        "private addresses are dialled only where allowed",
        f"{LLM}/providers/egress.py",
        "if private and not rules.allow_address(plain, port) and (str(plain), port) not in granted:",
        "if False:",
        (f"{PROVIDER_TESTS}/test_egress.py",),
    ),
    Guard(
        "SDKs find nothing in the environment",
        "project/env.py",
        "_stripped[name] = os.environ.pop(name)",
        "_stripped[name] = os.environ[name]",
        ("project/tests/test_env.py",),
    ),
]

"""What comes in from outside."""

from __future__ import annotations

from typing import Final

from benchmarks.prove.guards.guard import LLM, LLM_TESTS, PROVIDER_TESTS, Guard, tests

INPUT: Final = [
    Guard(
        "a text made of endings keeps nobody waiting",
        f"{LLM}/tripwire.py",
        "    while ending >= 0 and tries.left > 0:\n",
        "    while ending >= 0:\n",
        tests("tripwire"),
    ),
    Guard(
        "what lies in Valkey is never run",
        "project/cache.py",
        '            "serializer": DataSerializer,\n',
        "",
        ("project/tests/test_cache.py",),
    ),
    Guard(
        "what is allowed is checked as what is dialled",
        f"{LLM}/models/egress.py",
        "            self.host = normal_host(self.host, self.port)\n",
        "            pass\n",
        tests("egress_allowances"),
    ),
    Guard(
        "an allowance written past the form opens nothing",
        f"{LLM}/egress.py",
        "            entry = allowance(host, port)\n",
        '            entry = f"{host}:{port}"\n',
        tests("egress_allowances"),
    ),
    Guard(
        "no network with a metadata address in it is allowed",
        f"{LLM}/providers/egress.py",
        "if not loopback and any(network.version == other.version and network.overlaps(other) for other in NEVER):",
        "if False:",
        tests("egress_allowances"),
    ),
    Guard(
        "no network is allowed that is wider than anybody's own",
        f"{LLM}/providers/egress.py",
        'return "This network is too wide. Name the hosts that are meant." if wide else None',
        "return None",
        tests("egress_allowances"),
    ),
    Guard(
        "what is allowed for keys is not allowed for pages",
        f"{LLM}/egress.py",
        'listed, given = conf.egress_allow() if surface == "providers" else (), allowed[surface]',
        'listed, given = conf.egress_allow(), allowed["providers"] | allowed["tools"]',
        tests("egress_allowances"),
    ),
    Guard(
        "each hop of a page is checked",
        f"{LLM}/providers/fetch.py",
        "url = check_page(_joined(url, target), egress)",
        "url = _joined(url, target)",
        (f"{PROVIDER_TESTS}/test_fetch.py",),
    ),
    Guard(
        "a page is read to its limit alone",
        f"{LLM}/providers/fetch.py",
        "            if len(held) > max_bytes:\n                break\n",
        "",
        (f"{PROVIDER_TESTS}/test_fetch.py",),
    ),
    Guard(
        "pages of other kinds are left unread",
        f"{LLM}/providers/fetch.py",
        "if not content_type.startswith(accept):",
        "if False:",
        (f"{PROVIDER_TESTS}/test_fetch.py",),
    ),
    Guard(
        "no name stands twice in a body",
        f"{LLM}/api/body.py",
        "        _refuse_doubles(request.body)\n",
        "",
        tests("api_strict"),
    ),
    Guard(
        "bodies are not nested without end",
        f"{LLM}/api/body.py",
        "if depth > MAX_DEPTH:",
        "if False:",
        tests("api_strict"),
    ),
    Guard(
        "bodies are JSON and say so",
        f"{LLM}/api/body.py",
        'if request.content_type not in ("application/json", ""):',
        "if False:",
        tests("api_strict"),
    ),
    Guard(
        "a body that does not say its length is counted",
        "project/bodies.py",
        'return {"type": "http.disconnect"} if received > self.max_bytes else message',
        "return message",
        ("project/tests/test_bodies.py",),
    ),
    Guard(
        "a body that says it is too large is not read",
        "project/bodies.py",
        "if _told(scope) > self.max_bytes:",
        "if False:",
        ("project/tests/test_bodies.py",),
    ),
    Guard(
        "no NUL in an address",
        "project/middleware.py",
        'raise BadRequest("NUL in the address")',
        "return",
        ("project/tests/test_middleware.py", f"{LLM_TESTS}/test_api_strict.py"),
    ),
    Guard(
        "what is somebody's own stays in no cache",
        "project/middleware.py",
        '    headers.setdefault("Cache-Control", "no-store, private")\n',
        "",
        ("project/tests/test_middleware.py",),
    ),
]

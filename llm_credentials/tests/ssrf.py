"""Addresses that nothing here may dial, addresses that everything may, and the five surfaces that are tried with both.

A watch stands between: every name that is not listed as public resolves to this machine, where a listener counts, and
every attempt to connect is seen before it leaves.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from llm_credentials import bridge, connection_tests, egress, services
from llm_credentials.factory import client_for
from llm_credentials.models import ConnectionTest, UserCredential
from llm_credentials.providers import EgressBlocked, LLMError, LLMMessage, ToolDefinition
from llm_credentials.providers.fetch import FetchFailed, fetch
from llm_credentials.routing import health

KEY: Final = "sk-test-surfaces-0123456789"
HELLO = [LLMMessage.user("hello")]
TOOL = ToolDefinition(name="look", description="Looks.", parameters={"type": "object", "properties": {}})
PUBLIC: Final = "93.184.216.34"

_LOOPBACKS = (
    *("127.0.0.1", "127.1", "127.0.1", "127.8.9.10", "127.255.255.255", "2130706433", "017700000001", "0x7f000001"),
    *("0x7f.1", "0x7F.0.0.1", "0x7f.0.0.0x1", "0177.0.0.1", "0177.1", "127.0.0.01", "127.0.0.1.", "127.0.0.0x1"),
    *("0", "0.0.0.0", "0x0", "00", "0.0.0.0.", "localhost", "LOCALHOST", "localhost.", "x.localhost", "a.b.localhost"),
    *("localhost.localdomain", "ip6-localhost", "[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "[::0001]", "[::ffff:127.0.0.1]"),
    *("[::ffff:7f00:1]", "[::FFFF:7F00:1]", "[0:0:0:0:0:ffff:7f00:1]", "[::127.0.0.1]", "[::7f00:1]"),
    *("[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:7f00:0001::1]"),
    *("[::1%25lo]", "[::1%lo]", "[::ffff:0:127.0.0.1]", "[2001:0:7f00:1::]", "[::ffff:0.0.0.0]"),
    *(
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "127\uff0e0\uff0e0\uff0e1",
        "127｡0｡0｡1",
        "\uff11\uff12\uff17.0.0.1",
        "١٢٧.0.0.1",
        "ⓛocalhost",
        "loca\u00adlhost",
    ),
)
_METADATA = (
    *("169.254.169.254", "169.254.169.254.", "169.254.170.2", "169.254.169.253", "169.254.0.1", "2852039166"),
    *("0xa9fea9fe", "0251.0376.0251.0376", "0xa9.0xfe.0xa9.0xfe", "169.16689662", "425.510.425.510", "025177524776"),
    *(
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "[fd00:ec2::254]",
        "[fd20:ce::254]",
        "[fe80::1]",
        "[fe80::a9fe]",
    ),
    *(
        "[fe80::1%25eth0]",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
    ),
    *("[::a9fe:a9fe]", "metadata", "metadata.google.internal", "METADATA.google.internal", "metadata.google.internal."),
    *(
        "metadata.goog",
        "metadata.azure.internal",
        "metadata.tencentyun.com",
        "instance-data",
        "instance-data.ec2.internal",
    ),
)
_PRIVATE = (
    *("10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.254", "192.168.0.1", "192.168.1.254", "100.64.0.1"),
    *("100.127.255.254", "198.18.0.1", "198.19.255.254", "192.0.0.1", "192.0.2.1", "198.51.100.7", "203.0.113.7"),
    *("192.88.99.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "0.1.2.3", "167772161"),
    *("0x0a000001", "012.0.0.1", "10.1", "192.168.257", "3232235777", "[fc00::1]", "[fd12:3456::1]", "[fec0::1]"),
    *("[ff02::1]", "[2001:db8::1]", "[2001:10::1]", "[3fff::1]", "[4000::1]", "[::ffff:10.0.0.1]", "[::ffff:c0a8:1]"),
    *("[64:ff9b::a00:1]", "[2002:c0a8:101::1]", "[2001:0:a00:1::]", "[::10.0.0.1]", "[100::1]", "[5f00::1]"),
    *("db", "redis", "postgres", "intranet", "llm.internal", "printer.local", "nas.lan", "intra.corp", "box.home"),
    *("box.home.arpa", "site.intranet", "hidden.onion", "host.docker.internal", "kubernetes.default.svc.cluster.local"),
)
_CONFUSING = (
    *("user:pw@127.0.0.1", "user@127.0.0.1", "@127.0.0.1", "good.example@127.0.0.1", "127.0.0.1@127.0.0.1"),
    *("good.example\\@127.0.0.1", "127.0.0.1\\@good.example", "good.example%2f@127.0.0.1", "good.example%00.127.0.0.1"),
    *("127.0.0.1%2f", "127.0.0.1%23", "127.0.0.1%00", "127.0.0.1 ", " 127.0.0.1", "127.0.0.1\t", "127\t.0.0.1"),
    *("127.0.0.1\r\nHost: good.example", "good.example\n127.0.0.1", "127.0.0.1\x00", "[127.0.0.1]", "[[::1]]", "[::1"),
    *(
        "::1",
        "127.0.0.1,good.example",
        "{127.0.0.1}",
        "(127.0.0.1)",
        "127.0.0.1;good.example",
        "$(127.0.0.1)",
        "%31%32%37.0.0.1",
    ),
)
NAMES: Final = {
    "inside.example.com": ["127.0.0.1"],
    "inside6.example.com": ["::1"],
    "both.example.com": [PUBLIC, "127.0.0.1"],
    "both6.example.com": ["2606:2800:220:1::1", "::1"],
    "last.example.com": ["127.0.0.1", PUBLIC],
    "mapped.example.com": ["::ffff:127.0.0.1"],
    "nat64.example.com": ["64:ff9b::7f00:1"],
    "six.example.com": ["2002:7f00:1::"],
    "meta.example.com": ["169.254.169.254"],
    "meta6.example.com": ["fd00:ec2::254"],
    "azure.example.com": ["168.63.129.16"],
    "ten.example.com": ["10.0.0.1"],
    "cgnat.example.com": ["100.64.0.1"],
    "any.example.com": ["0.0.0.0"],
    "any6.example.com": ["::"],
    "many.example.com": [f"93.184.216.{last}" for last in range(1, 60)] + ["127.0.0.1"],
}
"""Public names with addresses of which at least one is refused."""
REBINDING: Final = "rebind.example.com"
"""Public when asked first, this machine ever after."""

_WHOLE = (
    *("http://127.0.0.1:{port}#@good.example/", "https://good.example#@127.0.0.1:{port}/", "//127.0.0.1:{port}/"),
    *("http:127.0.0.1:{port}", "http:/127.0.0.1:{port}/", "http:///127.0.0.1:{port}/", "https:\\\\127.0.0.1:{port}\\"),
    *("file:///etc/passwd", "file://127.0.0.1:{port}/x", "gopher://127.0.0.1:{port}/_x", "ftp://127.0.0.1:{port}/x"),
    *("unix:///var/run/docker.sock", "javascript:fetch('http://127.0.0.1:{port}')", "data:text/plain,x"),
    *(
        "ws://127.0.0.1:{port}/",
        "dict://127.0.0.1:{port}/x",
        "ldap://127.0.0.1:{port}/x",
        "jar:http://127.0.0.1:{port}!/",
    ),
    *(
        "http://good.example:{port}@127.0.0.1:{port}/",
        "https://127.0.0.1:{port}?@good.example/",
        "view-source:http://127.0.0.1",
    ),
    *("https://good.example:0/", "https://good.example:22/", "https://good.example:25/", "https://good.example:5432/"),
    *(
        "https://good.example:6379/",
        "https://good.example:11211/",
        "https://good.example:99999/",
        "https://good.example:-1/",
    ),
    *("http://good.example/", "http://good.example:8080/v1", "127.0.0.1:{port}", "localhost:{port}/v1"),
    *("https://127.0.0.1:{port}/../x", "https://127.0.0.1:{port}/" + "a" * 3000, "\x00http://127.0.0.1:{port}/"),
)
_HOSTS = (*_LOOPBACKS, *_METADATA, *_PRIVATE, *_CONFUSING, *NAMES, REBINDING)
VECTORS: Final = tuple(
    dict.fromkeys(
        (
            *(f"http{'s' * (number % 2)}://{host}:{{port}}/v1" for number, host in enumerate(_HOSTS)),
            *(f"https://{host}:{{port}}/v1" for host in (*NAMES, REBINDING)),
            *_WHOLE,
        )
    )
)
"""Each with ``{port}`` where the listener's port goes."""

GOOD: Final = (
    *(
        "https://api.openai.com",
        "https://api.openai.com/v1/",
        "HTTPS://API.Example.COM/v1",
        "https://api.anthropic.com",
    ),
    *(
        "https://generativelanguage.googleapis.com/v1beta",
        "https://api.deepseek.com/v1",
        "https://inference.do-ai.run/v1",
    ),
    *("https://api.groq.com/openai/v1", "https://api.together.xyz/v1", "https://api.mistral.ai/v1"),
    *("https://my-resource.openai.azure.com", "https://openrouter.ai/api/v1", "https://api.x.ai/v1"),
    *(
        "https://gateway.ai.cloudflare.com/v1/a_1/b/compat",
        "https://llm.example.com:8443/v1",
        "https://llm.example.com:8080",
    ),
    *("https://xn--bcher-kva.example/v1", "https://8.8.8.8/v1", "https://172.32.0.1", "https://100.128.0.1:8443"),
    *("https://[2606:4700:4700::1111]/v1", "https://[2606:4700:4700:0::1111]:8443", "https://local.example.com"),
    *("https://localhost.example.com", "https://0x.example.com", "https://1e100.net", "https://169.254.example.com"),
    *("https://a.b.c.d.example.com/deep/path/v1", "https://llm.example.com:10443", "https://127-0-0-1.example.com/v1"),
)
assert len(VECTORS) >= 150 and len(GOOD) >= 30
_PUBLIC_HOSTS: Final = {PUBLIC, "2606:2800:220:1::1", "2606:4700:4700::1111"} | {urlsplit(url).hostname for url in GOOD}


class Watch:
    """Sees every connection that this process tries to make, and counts those that reach the listener."""

    def __init__(self) -> None:
        self.accepted = 0
        self.private: list[str] = []
        """Addresses dialled that are not public; a dial of a public one is refused here, as by a closed port."""
        self.public: list[str] = []
        self._servers = [socket.create_server(("127.0.0.1", 0))]
        self.port = self._servers[0].getsockname()[1]
        self._servers.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))
        self._lookups: dict[str, int] = {}
        for server in self._servers:
            threading.Thread(target=self._count, args=(server,), daemon=True).start()

    def _count(self, server: socket.socket) -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return
            self.accepted += 1

    def close(self) -> None:
        for server in self._servers:
            server.close()

    def forget(self) -> None:
        self.accepted = 0
        self.private.clear()
        self.public.clear()
        self._lookups.clear()

    @property
    def dialled(self) -> int:
        return self.accepted + len(self.private)

    def addresses(self, name: str) -> list[str]:
        """Of any name at all."""
        seen = self._lookups[name] = self._lookups.get(name, 0) + 1
        if name == REBINDING:
            return [PUBLIC if seen == 1 else "127.0.0.1"]
        return NAMES.get(name, [PUBLIC] if name in _PUBLIC_HOSTS else ["127.0.0.1"])

    def connecting(self, family: int, address: Any) -> None:
        """Raises ConnectionRefusedError for what is not on this machine."""
        if family not in (socket.AF_INET, socket.AF_INET6):
            return
        host = str(address[0])
        public = host in _PUBLIC_HOSTS
        (self.public if public else self.private).append(host)
        if public or not (host.startswith("127.") or host == "::1"):
            raise ConnectionRefusedError


@contextmanager
def watching(patch: Callable[[Any, str, Any], None]) -> Iterator[Watch]:
    """``patch(target, name, value)`` sets an attribute until the caller's end."""
    watch = Watch()
    resolve, connect, connect_ex = socket.getaddrinfo, socket.socket.connect, socket.socket.connect_ex

    def lookup(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host or "")
        try:
            return resolve(host, port, *args, **{**kwargs, "flags": socket.AI_NUMERICHOST})
        except (OSError, UnicodeError, TypeError):
            found = watch.addresses(name.lower())
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in found
        ]

    def guarded_connect(self: socket.socket, address: Any) -> None:
        watch.connecting(self.family, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        watch.connecting(self.family, address)
        return connect_ex(self, address)

    patch(socket, "getaddrinfo", lookup)
    patch(socket.socket, "connect", guarded_connect)
    patch(socket.socket, "connect_ex", guarded_connect_ex)
    # Planned failures must not keep the next address from being tried.
    patch(health, "failed", lambda destination: None)
    try:
        yield watch
    finally:
        watch.close()


class Surfaces:
    """Every way in which an address that somebody wrote is called."""

    def __init__(self, user: User) -> None:
        self.user = user
        token = services.token_create(user=user)[1]
        self._program = Client(headers={"Authorization": f"Bearer {token}"})

    def every(self) -> dict[str, Callable[[str], bool]]:
        """Name → ``try(address)``: whether the site refused it there. Raises AssertionError when the key shows."""
        return {"save": self.save, "test": self.test, "list": self.list, "chat": self.chat, "tools": self.tools}

    def save(self, address: str) -> bool:
        """And the test that saving starts."""
        response = self._post("/api/user/llm-credentials", {"provider": "openai_compatible", "base_url": address})
        self._run_tests()
        UserCredential.objects.all().delete()
        return response == 422

    def test(self, address: str) -> bool:
        """Of fields that nobody saves."""
        response = self._post("/api/user/llm-credentials/openai_compatible/test", {"base_url": address})
        self._run_tests()
        return response == 422

    def list(self, address: str) -> bool:
        """With a row that came past the form, sealed for the very address."""
        if not _is_storable(address):
            return True
        self._row(address)
        found = connection_tests.models_available(user=self.user, provider="openai_compatible")
        UserCredential.objects.all().delete()
        return found.source == "catalogue"

    def chat(self, address: str) -> bool:
        if not _is_storable(address):
            return True
        row = self._row(address)
        client = client_for(self.user, credential=row.pk, fallback=False)
        refused = []
        for call in (
            lambda: bridge.run(client.complete, HELLO),
            lambda: bridge.run(client.complete, HELLO, tools=[TOOL]),
            lambda: bridge.run(_streamed, client),
            lambda: bridge.run(client.embed, ["hello"], model="m"),
        ):
            try:
                call()
            except LLMError as error:
                assert KEY not in repr(error), "the key in an error"
                refused.append(isinstance(error, EgressBlocked))
        UserCredential.objects.all().delete()
        return len(refused) == 4 and all(refused)

    def tools(self, address: str) -> bool:
        policy = egress.policy("tools")
        try:
            asyncio.run(fetch(address, egress=policy))
        except EgressBlocked:
            return True
        except FetchFailed:
            pass
        return False

    def _post(self, path: str, fields: dict[str, str]) -> int:
        body = json.dumps({"api_key": KEY, "model": "m", **fields})
        response = self._program.post(path, body, content_type="application/json")
        assert KEY not in response.content.decode(), "the key in an answer"
        assert response.status_code in (201, 202, 422), response.content
        return int(response.status_code)

    def _run_tests(self) -> None:
        for test in ConnectionTest.objects.unfinished():
            connection_tests.test_run(test.pk)
            test.refresh_from_db()
            assert test.state in ("invalid", "error"), test.detail

    def _row(self, address: str) -> UserCredential:
        row = UserCredential(user=self.user, provider="openai_compatible", base_url=address[:2000], model="m")
        row.seal(KEY)
        row.save()
        return row


def _is_storable(address: str) -> bool:
    """PostgreSQL refuses a NUL itself."""
    return "\0" not in address or connection.vendor == "sqlite"


async def _streamed(client: Any) -> None:
    chunks: AsyncIterator[Any] = client.stream(HELLO)
    async for _chunk in chunks:
        pass

"""Addresses that must be refused by their form, and good ones that must not."""

from __future__ import annotations

import ipaddress

import pytest

from llm_credentials.providers import EgressBlocked, EgressPolicy
from llm_credentials.providers.egress import NEVER, address_fault, rules_of
from llm_credentials.providers.transport import check_url

NOWHERE = EgressPolicy()

METADATA = [
    "http://169.254.169.254/latest/meta-data",
    "https://169.254.169.254",
    "https://169.254.170.2",
    "https://100.100.100.200",
    "https://192.0.0.192",
    "https://168.63.129.16",
    "https://[fd00:ec2::254]",
    "https://[fd20:ce::254]",
    "https://[fe80::1]",
    "https://metadata.google.internal",
    "https://METADATA.google.internal/computeMetadata",
    "https://metadata.goog",
    "https://metadata",
    "https://[::ffff:a9fe:a9fe]",
    "https://[::ffff:169.254.169.254]",
    "https://[64:ff9b::a9fe:a9fe]",
    "https://[64:ff9b:1::a9fe:a9fe]",
    "https://[2002:a9fe:a9fe::]",
    "https://[::a9fe:a9fe]",
]
PRIVATE = [
    "https://127.0.0.1",
    "https://127.8.9.10",
    "https://10.1.2.3",
    "https://172.16.0.1",
    "https://172.31.255.255",
    "https://192.168.1.1",
    "https://100.64.0.1",
    "https://100.127.255.255",
    "https://198.18.0.1",
    "https://192.0.2.1",
    "https://203.0.113.7",
    "https://[::1]",
    "https://[::ffff:127.0.0.1]",
    "https://[::ffff:7f00:1]",
    "https://[fc00::1]",
    "https://[fd12:3456::1]",
    "https://[fec0::1]",
    "https://[2001:db8::1]",
    "https://localhost",
    "https://LOCALHOST/v1",
    "https://x.localhost",
    "https://db",
    "https://redis:443",
    "https://llm.internal",
    "https://printer.local",
    "https://nas.lan",
    "https://intra.corp",
    "https://box.home.arpa",
]
UNDIALLABLE = [
    "https://0.0.0.0",
    "https://0.1.2.3",
    "https://[::]",
    "https://[::127.0.0.1]",
    "https://224.0.0.1",
    "https://255.255.255.255",
    "https://240.0.0.1",
    "https://[ff02::1]",
    "https://[2002:7f00:1::]",
    "https://[2001::1]",
]
ODD_NUMBERS = [
    "https://127.1",
    "https://2130706433",
    "https://017700000001",
    "https://0x7f000001",
    "https://0x7f.1",
    "https://0x7f.0.0.0x1",
    "https://0",
    "https://0177.0.0.1",
    "https://127.0.0.01",
    "https://127.0.0.1.",
    "https://1.2.3.4.5",
    "https://256.1.1.1",
    "https://example.com.1",
    "https://a.0x1",
    "https://①②⑦.⓪.⓪.①",
    "https://127。0。0。1",
    "https://١٢٧.0.0.1",
]
MALFORMED = [
    "",
    " ",
    "https://",
    "https:///v1",
    "http:///h",
    "http:api.openai.com",
    "//api.openai.com",
    "api.openai.com",
    "file:///etc/passwd",
    "gopher://api.openai.com",
    "ftp://api.openai.com",
    "unix:///var/run/docker.sock",
    "javascript:alert(1)",
    "data:text/plain,x",
    "ws://api.openai.com",
    "https://user:pw@api.openai.com",
    "https://good.com@127.0.0.1",
    "https://good.com\\@127.0.0.1",
    "https://127.0.0.1#@good.com",
    "https://good.com%2f@127.0.0.1",
    "https://good.com%00.evil.com",
    "https://goo\td.com",
    "https://good.com\r\nX: 1",
    "https://good.com\x00",
    "https://good .com",
    "https://good.com/a b",
    "https://g\u043e\u043ed.com",
    "https://api.openai.com/v1?api_key=x",
    "https://api.openai.com/v1#x",
    "https://api.openai.com/v1/../admin",
    "https://api.openai.com/./v1",
    "https://api.openai.com/%2e%2e/admin",
    "https://api.openai.com/v1;<script>",
    "https://api.openai.com.",
    "https://api..openai.com",
    "https://.openai.com",
    "https://-api.openai.com",
    "https://api-.openai.com",
    "https://" + "a" * 64 + ".com",
    "https://" + "a." * 130 + "com",
    "https://api.openai.com/" + "a" * 2048,
    "https://[::1",
    "https://::1",
    "https://[::1]x",
    "https://[fe80::1%25eth0]",
    "https://[fe80::1%eth0]",
    "https://[1.2.3.4]",
    "https://[]",
]
PORTS = [
    "https://api.openai.com:0",
    "https://api.openai.com:99999",
    "https://api.openai.com:65536",
    "https://api.openai.com:",
    "https://api.openai.com:-1",
    "https://api.openai.com:+443",
    "https://api.openai.com: 443",
    "https://api.openai.com:\uff14\uff14\uff13",
    "https://api.openai.com:443:443",
    "https://api.openai.com:443x",
    "https://api.openai.com:22",
    "https://api.openai.com:25",
    "https://api.openai.com:5432",
    "https://api.openai.com:6379",
    "https://api.openai.com:11211",
    "https://api.openai.com:27017",
]
UNPROTECTED = ["http://api.openai.com", "http://api.openai.com:443/v1", "http://8.8.8.8:8080"]
REFUSED = [*METADATA, *PRIVATE, *UNDIALLABLE, *ODD_NUMBERS, *MALFORMED, *PORTS, *UNPROTECTED]

GOOD = [
    ("https://api.openai.com/v1", "https://api.openai.com/v1"),
    ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
    ("HTTPS://API.OpenAI.com/v1", "https://api.openai.com/v1"),
    ("https://api.openai.com:443", "https://api.openai.com"),
    ("https://api.anthropic.com", "https://api.anthropic.com"),
    ("https://generativelanguage.googleapis.com", "https://generativelanguage.googleapis.com"),
    ("https://api.deepseek.com/v1", "https://api.deepseek.com/v1"),
    ("https://inference.do-ai.run/v1", "https://inference.do-ai.run/v1"),
    ("https://api.groq.com/openai/v1", "https://api.groq.com/openai/v1"),
    ("https://my-resource.openai.azure.com", "https://my-resource.openai.azure.com"),
    ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
    ("https://gateway.ai.cloudflare.com/v1/a_1/b/compat", "https://gateway.ai.cloudflare.com/v1/a_1/b/compat"),
    ("https://llm.example.com:8443/v1", "https://llm.example.com:8443/v1"),
    ("https://llm.example.com:8080", "https://llm.example.com:8080"),
    ("https://xn--bcher-kva.example/v1", "https://xn--bcher-kva.example/v1"),
    ("https://8.8.8.8", "https://8.8.8.8"),
    ("https://172.32.0.1", "https://172.32.0.1"),
    ("https://100.128.0.1", "https://100.128.0.1"),
    ("https://[2606:4700:4700::1111]/v1", "https://[2606:4700:4700::1111]/v1"),
    ("https://[2606:4700:4700:0::1111]:8443", "https://[2606:4700:4700::1111]:8443"),
    ("https://local.example.com", "https://local.example.com"),
    ("https://localhost.example.com", "https://localhost.example.com"),
    ("https://0x.example.com", "https://0x.example.com"),
    ("https://1e100.net", "https://1e100.net"),
]


@pytest.mark.parametrize("url", REFUSED)
def test_check_url_refuses(url: str) -> None:
    with pytest.raises(EgressBlocked) as caught:
        check_url(url, NOWHERE)
    host = url.partition("://")[2]
    assert len(host) < 5 or host not in str(caught.value), "the sentence is ours, without the address"


@pytest.mark.parametrize(("url", "normal"), GOOD)
def test_check_url_normalises_good_addresses(url: str, normal: str) -> None:
    assert check_url(url, NOWHERE) == normal
    assert check_url(normal, NOWHERE) == normal


@pytest.mark.parametrize("url", METADATA)
def test_metadata_is_refused_whatever_is_allowed(url: str) -> None:
    everything = EgressPolicy(
        allow=[
            *("0.0.0.0/0:80", "0.0.0.0/0:443", "[::/0]:80", "[::/0]:443", "metadata.google.internal:443"),
            *("metadata:443", "metadata.goog:443", "169.254.169.254:80", "[fd00:ec2::254]:443"),
        ]
    )
    with pytest.raises(EgressBlocked):
        check_url(url, everything)


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("localhost:11434", "http://localhost:11434/v1"),
        ("LOCALHOST:11434", "http://localhost:11434/v1"),
        ("ollama:11434", "http://ollama:11434/v1"),
        ("llm.internal:443", "https://llm.internal"),
        ("127.0.0.1:8099", "http://127.0.0.1:8099/case/v1"),
        ("192.168.0.0/16:11434", "http://192.168.7.8:11434"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("[fd00::/8]:8080", "https://[fd12::1]:8080"),
        ("127.0.0.1:6379", "http://127.0.0.1:6379"),
        ("127.0.0.0/8:80", "http://[::ffff:127.0.0.1]"),
        ("llm.example.com:80", "http://llm.example.com"),
    ],
)
def test_allowance_opens_exactly_its_destination(entry: str, url: str) -> None:
    policy = EgressPolicy(allow=[entry])
    check_url(url, policy)
    with pytest.raises(EgressBlocked):
        check_url(url, NOWHERE)
    for other in ("http://localhost:11435", "http://127.0.0.1:8098", "http://[::1]:8081", "http://10.0.0.1:11434"):
        with pytest.raises(EgressBlocked):
            check_url(other, policy)


@pytest.mark.parametrize(
    "entry",
    ["", "localhost", "localhost:", ":80", "localhost:0", "localhost:99999", "a b:80", "10.0.0.0/99:80", "127.1:80"],
)
def test_policy_refuses_a_malformed_allowance(entry: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        EgressPolicy(allow=[entry])


def test_policies_with_the_same_entries_are_equal() -> None:
    assert EgressPolicy(allow=["a:1", "b:2"]) == EgressPolicy(allow=("b:2", "a:1"))
    assert hash(EgressPolicy(allow=["a:1"])) == hash(EgressPolicy(allow={"a:1"}))


@pytest.mark.parametrize("network", NEVER)
def test_never_holds_for_first_and_last_address_of_each_network(network: ipaddress.IPv4Network) -> None:
    rules = rules_of(EgressPolicy(allow=["0.0.0.0/0:443", "[::/0]:443"]))
    for address in (network[0], network[-1]):
        assert address_fault(address, 443, rules), address


def test_zone_does_not_hide_an_address() -> None:
    assert address_fault(ipaddress.ip_address("fe80::1%eth0"), 443, rules_of(NOWHERE))
    assert address_fault(ipaddress.ip_address("::1%eth0"), 443, rules_of(NOWHERE))


@pytest.mark.parametrize(
    "url, says",
    [
        ("https://models.example/v1?api_key=sk-1", "Leave out what follows a ? or #"),
        ("https://models.example/v1#sk-1", "Leave out what follows a ? or #"),
        ("https://models.example?api_key=sk-1", "Leave out what follows a ? or #"),
        ("https://alice:sk-1@models.example/v1", "no user name, password or backslash"),
        ("https://models.example\\@other.example/", "no user name, password or backslash"),
    ],
)
def test_check_url_says_what_to_leave_out_and_quotes_nothing(url: str, says: str) -> None:
    with pytest.raises(EgressBlocked) as caught:
        check_url(url, EgressPolicy())
    assert says in str(caught.value)
    assert "sk-1" not in str(caught.value)

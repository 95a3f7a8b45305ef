"""Checks where a key may be sent: the form of a URL, and the address to connect to. No I/O.

``check_url`` is the only parser: it parses a URL by a closed grammar and returns one rebuilt from the checked parts, so
that nothing downstream can read it differently. Networks are listed here by hand, because the standard library's
``is_private`` and ``is_global`` miss several that matter: 168.63.129.16, 100.64.0.0/10, NAT64.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from llm_credentials.providers.errors import EgressBlocked

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL_LENGTH = 2048


def _networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


NEVER = _networks(
    "0.0.0.0/8",  # "this host": connects to loopback
    "169.254.0.0/16",  # link-local: metadata of AWS, GCP, Azure, DigitalOcean, Oracle, Tencent
    "100.100.100.200/32",  # metadata of Alibaba Cloud
    "168.63.129.16/32",  # Azure's wire server
    "192.0.0.192/32",  # metadata of Oracle Cloud
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/96",  # unspecified and IPv4-compatible; the loopback ::1 is excluded below
    "64:ff9b::/96",  # NAT64 and tunnels carry an IPv4 address that was not checked
    "64:ff9b:1::/48",
    "2001::/32",
    "2002::/16",
    "fd00:ec2::/32",  # metadata of AWS
    "fd20:ce::/64",  # metadata of GCP
    "fe80::/10",
    "ff00::/8",
)
"""Never connected to, whatever a policy allows."""

PRIVATE = _networks(
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "2001:10::/28",
    "2001:20::/28",
    "2001:db8::/32",
    "3fff::/20",
)
"""Connected to only if a policy allows it; so is every IPv6 address outside 2000::/3."""

_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
_LOOPBACK_IPV6 = ipaddress.IPv6Address("::1")

_METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "metadata.azure.internal",
        "metadata.tencentyun.com",
        "instance-data",
        "instance-data.ec2.internal",
    }
)
_PRIVATE_ENDINGS = (
    ".localhost",
    ".localdomain",
    ".internal",
    ".intranet",
    ".local",
    ".lan",
    ".corp",
    ".home",
    ".home.arpa",
    ".onion",
)
_SERVICE_PORTS = frozenset(
    {1080, 1433, 1521, 2049, 2181, 2375, 2376, 2379, 2380, 3128, 3306, 3389, 4369, 5432, 5601, 5671, 5672, 5900, 5984}
    | {5985, 6000, 6379, 6443, 6667, 7001, 7077, 8020, 8500, 9042, 9092, 9200, 9300, 10250, 10255, 11211, 15672}
    | {25672, 27017, 27018, 28015, 50000, 50070, 61616}
)
"""Ports above 1023 used by other services; below 1024 only 80 and 443 are open."""

_DIGITS = frozenset("0123456789")
_HEX_DIGITS = _DIGITS | frozenset("abcdef")
_LABEL = _DIGITS | frozenset("abcdefghijklmnopqrstuvwxyz-_")
_PATH = _LABEL | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ/.~!$&'()*+,;=:")
_PAGE = _PATH | frozenset("%@?[]|")
_DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """Where a key may be sent besides the public internet.

    ``allow``: ``"host:port"`` or ``"CIDR:port"`` entries, which may be private and may use plain http; never cloud
    metadata addresses. A malformed entry raises ValueError.
    """

    allow: Collection[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "allow", frozenset(self.allow))
        rules_of(self)


@dataclass(frozen=True, slots=True)
class Rules:
    """A policy, parsed."""

    names: frozenset[tuple[str, int]]
    networks: tuple[tuple[IPNetwork, int], ...]

    def allow_name(self, host: str, port: int) -> bool:
        return (host, port) in self.names

    def allow_address(self, address: IPAddress, port: int) -> bool:
        return any(
            port == allowed and address.version == network.version and address in network
            for network, allowed in self.networks
        )


@lru_cache(maxsize=64)
def rules_of(policy: EgressPolicy) -> Rules:
    names: set[tuple[str, int]] = set()
    networks: list[tuple[IPNetwork, int]] = []
    for entry in policy.allow:
        target, port = _allowance(entry)
        if isinstance(target, str):
            names.add((target, port))
        else:
            networks.append((target, port))
    return Rules(frozenset(names), tuple(networks))


def _allowance(entry: str) -> tuple[str | IPNetwork, int]:
    """Parses ``host:port`` or ``CIDR:port`` into (host or network, port). Raises ValueError."""
    host, colon, port_text = entry.strip().lower().rpartition(":")
    port = _port(port_text) if colon and host else None
    if port is None:
        raise ValueError(f"an egress allowance is host:port or CIDR:port, not {entry!r}")
    try:
        return ipaddress.ip_network(host.removeprefix("[").removesuffix("]"), strict=False), port
    except ValueError:
        if _name_fault(host) is not None:
            raise ValueError(f"an egress allowance is host:port or CIDR:port, not {entry!r}") from None
        return host, port


def allowance(host: str, port: int) -> str:
    """The canonical policy entry for this host, address or network. Raises EgressBlocked.

    Stricter than a policy itself: refuses, with a reason, what no policy can open and networks that are too wide.
    """
    bare = host.strip().removeprefix("[").removesuffix("]")
    try:
        target, port = _allowance(f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}")
    except ValueError:
        raise EgressBlocked("Write a host name, an IP address or a network such as 192.168.7.0/24.") from None
    if isinstance(target, str):
        if target in _METADATA_NAMES:
            raise EgressBlocked("This name gives out a machine's own secrets. It is never called.")
        return f"{target}:{port}"
    if isinstance(target, ipaddress.IPv6Network) and (mapped := target[0].ipv4_mapped) and target.prefixlen >= 96:
        target = ipaddress.IPv4Network((mapped, target.prefixlen - 96))
    if fault := _network_fault(target):
        raise EgressBlocked(fault)
    text = str(target[0] if target.prefixlen == target.max_prefixlen else target)
    return f"[{text}]:{port}" if target.version == 6 else f"{text}:{port}"


def _network_fault(network: IPNetwork) -> str | None:
    loopback = network.version == 6 and network == ipaddress.ip_network(_LOOPBACK_IPV6)
    if not loopback and any(network.version == other.version and network.overlaps(other) for other in NEVER):
        return "This holds addresses that are never called: reserved ones, or those that give out a machine's secrets."
    if network.version == 4:
        own = any(other.version == 4 and network.subnet_of(other) for other in PRIVATE)
        wide = network.prefixlen < (8 if own else 24)
    else:
        wide = network.prefixlen < (48 if network[0] in _PUBLIC_IPV6 else 32)
    return "This network is too wide. Name the hosts that are meant." if wide else None


@dataclass(frozen=True, slots=True)
class Destination:
    scheme: str
    host: str
    """Lower case; an IPv6 address without brackets."""
    port: int

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def check_url(url: str, policy: EgressPolicy) -> str:
    """The URL rebuilt from its checked parts, without a trailing slash. Raises EgressBlocked."""
    destination, path = _take_apart(url)
    check_destination(destination, policy)
    return destination.origin + path.rstrip("/")


def check_page(url: str, policy: EgressPolicy) -> str:
    """As ``check_url``, for a page without a key: keeps the query, drops the fragment. Raises EgressBlocked."""
    if not isinstance(url, str) or "\\" in url:
        raise EgressBlocked("An address holds no user name, password or backslash.")
    address, mark, query = url.partition("#")[0].partition("?")
    scheme, colon, rest = address.partition("://")
    authority, slash, path = rest.partition("/")
    # The one parser decides what the host is; a page's path may contain more characters than a provider's.
    destination, _ = _take_apart(scheme + colon + authority)
    if len(url) > MAX_URL_LENGTH or not _PAGE.issuperset(path) or not _PAGE.issuperset(query):
        raise EgressBlocked("This address has characters that do not belong there, or is too long.")
    check_destination(destination, policy)
    return destination.origin + (slash or "/") + path + mark + query


def check_destination(destination: Destination, policy: EgressPolicy) -> None:
    """Raises EgressBlocked unless this host and port may be connected to, as far as their form tells."""
    if fault := _destination_fault(destination, rules_of(policy)):
        raise EgressBlocked(fault)


def address_fault(address: IPAddress, port: int, rules: Rules, granted: Collection[tuple[str, int]] = ()) -> str | None:
    """Why this address must not be connected to, or None. ``granted``: addresses of names that the policy allows."""
    plain = _unmapped(address)
    if plain != _LOOPBACK_IPV6 and _within(plain, NEVER):
        return "This address is reserved, or gives out a machine's own secrets. It is never called."
    private = _within(plain, PRIVATE) or (plain.version == 6 and plain not in _PUBLIC_IPV6)
    if private and not rules.allow_address(plain, port) and (str(plain), port) not in granted:
        return "This address is private. The operator of this site can allow it."
    return None


def _unmapped(address: IPAddress) -> IPAddress:
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or ipaddress.IPv6Address(int(address))  # without a zone
    return address


def _within(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _destination_fault(destination: Destination, rules: Rules) -> str | None:
    host, port = destination.host, destination.port
    address = _literal(host)
    if address is not None:
        if fault := address_fault(address, port, rules, granted=()):
            return fault
        allowed = rules.allow_address(_unmapped(address), port)
    else:
        if host in _METADATA_NAMES:
            return "This address gives out a machine's own secrets. It is never called."
        allowed = rules.allow_name(host, port)
        if not allowed and (fault := _name_fault(host) or _private_name_fault(host)):
            return fault
    if allowed:
        return None
    if port in _SERVICE_PORTS or (port < 1024 and port not in (80, 443)):
        return "This port is not one that providers answer on."
    if destination.scheme == "http":
        return "Write https://. Over http:// the key would travel unprotected."
    return None


def _literal(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _private_name_fault(host: str) -> str | None:
    if "." not in host or f".{host}".endswith(_PRIVATE_ENDINGS):
        return "This name is private. The operator of this site can allow it."
    return None


def _name_fault(host: str) -> str | None:
    labels = host.split(".")
    if len(host) > 253 or any(not 0 < len(label) <= 63 or not _LABEL.issuperset(label) for label in labels):
        return "The host of this address is misspelt."
    if any(label[0] == "-" or label[-1] == "-" for label in labels):
        return "The host of this address is misspelt."
    if _is_number(labels[-1]):
        return "Write an IP address in its plain form, four numbers from 0 to 255."
    return None


def _is_number(label: str) -> bool:
    """Whether a resolver may take a host with this last label for an IPv4 address, in decimal, octal or hexadecimal."""
    return _DIGITS.issuperset(label) or (label.startswith("0x") and _HEX_DIGITS.issuperset(label[2:]))


def _take_apart(url: str) -> tuple[Destination, str]:
    if not isinstance(url, str) or not url:
        raise EgressBlocked("Enter an address.")
    if len(url) > MAX_URL_LENGTH:
        raise EgressBlocked(f"An address has at most {MAX_URL_LENGTH} characters.")
    if any(not "!" <= character <= "~" for character in url):
        raise EgressBlocked("An address has plain letters, digits and signs only, without spaces.")
    scheme, mark, rest = url.partition("://")
    scheme = scheme.lower()
    if not mark or scheme not in _DEFAULT_PORTS:
        raise EgressBlocked("An address begins with https://.")
    if any(sign in rest for sign in "@\\"):
        raise EgressBlocked("An address holds no user name, password or backslash.")
    if any(sign in rest for sign in "?#"):
        raise EgressBlocked("Leave out what follows a ? or # in the address.")
    authority, slash, path = rest.partition("/")
    if not _PATH.issuperset(path):
        raise EgressBlocked("The path of this address has characters that do not belong there.")
    if any(piece in (".", "..") for piece in path.split("/")):
        raise EgressBlocked("The path of this address must not go up with /../.")
    return _authority(scheme, authority), slash + path


def _authority(scheme: str, authority: str) -> Destination:
    if authority.startswith("["):
        host, bracket, port_text = authority[1:].partition("]")
        if not bracket or "%" in host or not isinstance(_literal(host), ipaddress.IPv6Address):
            raise EgressBlocked("The IPv6 address is misspelt.")
        host = str(_literal(host))
        if port_text and not port_text.startswith(":"):
            raise EgressBlocked("The IPv6 address is misspelt.")
        colon, port_text = port_text[:1], port_text[1:]
    else:
        host, colon, port_text = authority.lower().partition(":")
        if isinstance(_literal(host), ipaddress.IPv6Address):
            raise EgressBlocked("Write an IPv6 address in brackets.")
        if _literal(host) is None and (fault := _name_fault(host)):
            raise EgressBlocked(fault if host else "The address names no host.")
    port = _port(port_text) if colon else _DEFAULT_PORTS[scheme]
    if port is None:
        raise EgressBlocked("The port of this address is not a number from 1 to 65535.")
    return Destination(scheme, host, port)


def _port(text: str) -> int | None:
    if not text or len(text) > 5 or not _DIGITS.issuperset(text):
        return None
    return int(text) if 0 < int(text) < 65536 else None

"""Which IP addresses belong to the public Internet, and the exceptions that a setting makes."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Self

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Exceptions:
    """Networks, and hosts with a port, that are allowed despite the rules, also over http."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    hosts: frozenset[tuple[str, int]] = frozenset()

    @classmethod
    def parse(cls, items: Iterable[str]) -> Self:
        """From `10.1.0.0/16`, `10.1.2.3`, `hooks.internal:8080`, `[::1]:9000`. Raises `ValueError` with a sentence."""
        networks, hosts = [], set()
        for item in items:
            network = _network(item)
            if network is not None:
                networks.append(network)
                continue
            host, _, port = item.rpartition(":")
            if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
                raise ValueError(f"{item} is neither a network as in 10.1.0.0/16 nor host:port")
            hosts.add((plain_host(host), int(port)))
        return cls(tuple(networks), frozenset(hosts))

    def name(self, host: str, port: int) -> bool:
        """The host is allowed, whatever its address."""
        return (plain_host(host), port) in self.hosts

    def hold(self, address: Address) -> bool:
        """The address is in an allowed network."""
        return any(address in network for network in self.networks)


def inner(address: Address) -> str | None:
    """Why the address does not belong to the public Internet, in words; null if it does.

    An IPv4 address that an IPv6 one carries inside is judged as itself.
    """
    if isinstance(address, IPv6Address):
        carried = _carried(address)
        if carried:
            return next((reason for one in carried if (reason := inner(one)) is not None), None)
        if address not in _GLOBAL_V6:
            return next((reason for network, reason in _DENIED_V6 if address in network), "no global address")
        return next((reason for network, reason in _DENIED_V6 if address in network), _by_flags(address))
    return next((reason for network, reason in _DENIED_V4 if address in network), _by_flags(address))


def _carried(address: IPv6Address) -> list[IPv4Address]:
    """IPv4 addresses inside: mapped, 6to4, Teredo (server and client), NAT64."""
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address.teredo is not None:
        return list(address.teredo)
    if address in _NAT64:
        return [IPv4Address(int(address) & 0xFFFF_FFFF)]
    return []


def _by_flags(address: Address) -> str | None:
    """The judgement of the standard library, for addresses that are not in our list."""
    return None if address.is_global and not address.is_multicast else "no global address"


_GLOBAL_V6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_DENIED_V4 = [
    (IPv4Network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "this machine"),
        ("10.0.0.0/8", "a private network"),
        ("100.64.0.0/10", "a provider's own network"),
        ("127.0.0.0/8", "this machine"),
        ("168.63.129.16/32", "a cloud's metadata service"),
        ("169.254.0.0/16", "a link-local address, as of a cloud's metadata service"),
        ("172.16.0.0/12", "a private network"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "reserved for documentation"),
        ("192.31.196.0/24", "reserved"),
        ("192.52.193.0/24", "reserved"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "a private network"),
        ("192.175.48.0/24", "reserved"),
        ("198.18.0.0/15", "a network for measurements"),
        ("198.51.100.0/24", "reserved for documentation"),
        ("203.0.113.0/24", "reserved for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
]
_DENIED_V6 = [
    (IPv6Network(network), reason)
    for network, reason in (
        ("::/128", "this machine"),
        ("::1/128", "this machine"),
        ("::/96", "an IPv4 address in an obsolete form"),
        ("64:ff9b:1::/48", "a translation into an own network"),
        ("100::/64", "an address that discards"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "reserved for documentation"),
        ("2620:4f:8000::/48", "reserved"),
        ("3fff::/20", "reserved for documentation"),
        ("5f00::/16", "segment routing"),
        ("fc00::/7", "a private network"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a private network"),
        ("ff00::/8", "multicast"),
    )
]


def _network(item: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(item, strict=False)
    except ValueError:
        if "/" in item:
            raise ValueError(f"{item} is no network; write it as in 10.1.0.0/16") from None
        return None


def plain_host(host: str) -> str:
    return host.strip("[]").lower().rstrip(".")

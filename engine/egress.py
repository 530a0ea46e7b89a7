"""The one client for every URL that a user of the service may name: it leads out, never in.

A check of the URL's text would miss `2130706433`, and one beforehand would miss a name that changes its address in
between. So addresses are checked while connecting: the name is resolved here, and connected is what was checked.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

import httpcore2
import httpx2

from engine.errors import Refusal

PORTS = frozenset({443, 8443})
MAX_REPLY_BYTES = 16 * 1024

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host as text. Raises `OSError` if it has none."""


class UrlNotAllowed(Refusal):
    """The URL leads to a place that this service does not send to."""

    code = "url_not_allowed"


@dataclass(frozen=True, slots=True)
class Exceptions:
    """What is let through although the rules say no, over http too: networks, and hosts with a port."""

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
            hosts.add((_plain_host(host), int(port)))
        return cls(tuple(networks), frozenset(hosts))

    def name(self, host: str, port: int) -> bool:
        """The host is let through, whatever its address."""
        return (_plain_host(host), port) in self.hosts

    def hold(self, address: Address) -> bool:
        """The address is in a network that is let through."""
        return any(address in network for network in self.networks)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses that the system knows for a host. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Egress:
    """What may be reached from here."""

    def __init__(
        self, exceptions: Exceptions | None = None, *, ports: Iterable[int] = PORTS, resolve: Resolve = resolve
    ) -> None:
        self._exceptions = exceptions or Exceptions()
        self._ports = frozenset(ports)
        self._resolve = resolve

    async def check(self, url: str) -> None:
        """Refuse a URL that could not be sent to, when it is given. A name without an address yet may get one.

        Raises `UrlNotAllowed`.
        """
        parsed = parse_url(url)
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        try:
            await self.addresses(parsed.host, port, is_plain=parsed.scheme == "http")
        except OSError:
            self._judge(parsed.host, port, [], is_plain=parsed.scheme == "http")

    async def addresses(self, host: str, port: int, *, is_plain: bool) -> list[str]:
        """The addresses of the host, all of them allowed. `is_plain`: over http. Raises `UrlNotAllowed`, `OSError`."""
        try:
            found = list(await self._resolve(host, port))
        except UnicodeError as error:
            raise UrlNotAllowed(f"{host} is no name of a host") from error
        self._judge(host, port, [ip_address(text.partition("%")[0]) for text in found], is_plain=is_plain)
        return found

    def _judge(self, host: str, port: int, found: Sequence[Address], *, is_plain: bool) -> None:
        strangers = [address for address in found if not self._exceptions.hold(address)]
        if self._exceptions.name(host, port) or (found and not strangers):
            return
        if not found and self._exceptions.networks:
            return  # its address may be in one of them; that is seen while connecting
        if is_plain:
            raise UrlNotAllowed("use https; SPANLOOM_EGRESS_ALLOW names the places where http may be used")
        if port not in self._ports:
            ports = ", ".join(map(str, sorted(self._ports)))
            raise UrlNotAllowed(f"port {port} may not be reached, only {ports} (SPANLOOM_EGRESS_PORTS)")
        for address in strangers:
            if (reason := inner(address)) is not None:
                raise UrlNotAllowed(
                    f"{host} leads to {address}, {reason}, and not to the Internet; "
                    "SPANLOOM_EGRESS_ALLOW makes exceptions for places of your own"
                )


def parse_url(url: str) -> httpx2.URL:
    """The parts of a URL that may be sent to by its form. Raises `UrlNotAllowed`."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
        raise UrlNotAllowed("this is no URL") from error
    if "%" in parsed.host or not 0 < (parsed.port or 443) < 65_536:
        raise UrlNotAllowed("this is no URL")
    if parsed.scheme not in ("https", "http") or not parsed.host:
        raise UrlNotAllowed("a URL begins with https:// and names a host")
    if parsed.userinfo:
        raise UrlNotAllowed("a URL may not hold a user or a password; use a header")
    if parsed.fragment:
        raise UrlNotAllowed("a URL may not have a fragment: it would not be sent")
    return parsed


def open_client(egress: Egress, *, timeout_seconds: float, tls: ssl.SSLContext | None = None) -> httpx2.AsyncClient:
    """A client that connects only where `egress` allows, without redirects, proxies, cookies or the environment.

    Its requests raise `UrlNotAllowed`, or what httpx2 raises. `timeout_seconds` bounds a step; the caller bounds all.
    """
    tls = tls or httpx2.create_ssl_context(trust_env=False)
    return httpx2.AsyncClient(
        transport=_Transport(egress, tls, is_plain=False),
        mounts={"http://": _Transport(egress, tls, is_plain=True)},
        timeout=timeout_seconds,
        follow_redirects=False,
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


async def read_reply(response: httpx2.Response, limit: int = MAX_REPLY_BYTES) -> bytes:
    """The beginning of a streamed answer's body, as it was sent; the rest is not read."""
    read = bytearray()
    async for chunk in response.aiter_raw(limit):
        read += chunk
        if len(read) >= limit:
            break
    return bytes(read[:limit])


class _Transport(httpx2.AsyncHTTPTransport):
    """httpx2's own, over connections that the guard makes; a connection does not know whether it is for http."""

    def __init__(self, egress: Egress, tls: ssl.SSLContext, *, is_plain: bool) -> None:
        super().__init__(verify=tls, trust_env=False)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=256,
            max_keepalive_connections=64,
            keepalive_expiry=15.0,
            network_backend=_Backend(egress, is_plain=is_plain),
        )


class _Backend(httpcore2.AsyncNetworkBackend):
    """Resolves a name, checks its addresses, and connects to one of those and nothing else."""

    def __init__(self, egress: Egress, *, is_plain: bool) -> None:
        self._egress = egress
        self._is_plain = is_plain
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._egress.addresses(host, port, is_plain=self._is_plain)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(f"{host} could not be resolved in time") from error
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} could not be resolved: {error.strerror or error}") from error
        failed: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


def inner(address: Address) -> str | None:
    """Why the address is no place on the Internet, in words; null if it is one.

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
    """What the standard library knows beside our list."""
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


def _plain_host(host: str) -> str:
    return host.strip("[]").lower().rstrip(".")

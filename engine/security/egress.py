"""The HTTP client for URLs that users name: it reaches the Internet, never the server's own network.

A check of the URL's text would miss `2130706433`, and an earlier check would miss a host name that changes its address.
So addresses are checked while connecting: this module resolves the name and connects to the checked address.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import ip_address

import httpcore2
import httpx2

from engine.errors import Refusal
from engine.security.addresses import Address, Exceptions, inner

PORTS = frozenset({443, 8443})
MAX_REPLY_BYTES = 16 * 1024

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host as text. Raises `OSError` if it has none."""


class UrlNotAllowed(Refusal):
    """This service does not send requests to this URL."""

    code = "url_not_allowed"


async def resolve(host: str, port: int) -> list[str]:
    """The addresses that the system knows for a host. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Egress:
    """Decides which URLs and addresses may be reached."""

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
            raise UrlNotAllowed(f"{host} is not a valid host name") from error
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
    """The parts of a URL whose form is allowed. Raises `UrlNotAllowed`."""
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
    """The beginning of a streamed response body, undecoded; the rest is not read."""
    read = bytearray()
    async for chunk in response.aiter_raw(limit):
        read += chunk
        if len(read) >= limit:
            break
    return bytes(read[:limit])


class _Transport(httpx2.AsyncHTTPTransport):
    """The transport of httpx2 over guarded connections; a connection does not know whether it serves http or https."""

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
    """Resolves a host name, checks its addresses, and connects to one of the checked addresses only."""

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

"""What may be reached from here: the Internet, and of our own only what a setting names."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address

import httpx2
import pytest

from engine.security.addresses import Exceptions, inner
from engine.security.egress import Egress, UrlNotAllowed, open_client, parse_url, read_reply

PUBLIC = "93.184.216.34"
INSIDE = (
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.0.1",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.0.192",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.168.1.1",
    "192.175.48.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::1",
    "2002:c0a8:101::1",
    "2620:4f:8000::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
)
OUTSIDE = (
    PUBLIC,
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.0",
    "172.32.0.1",
    "192.0.1.1",
    "198.20.0.1",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
    "::ffff:1.1.1.1",
    "64:ff9b::101:101",
    "2002:101:101::1",
)


def knows(*addresses: str) -> Egress:
    """An egress whose every name has these addresses."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return Egress(resolve=resolve)


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_has_a_reason(address: str) -> None:
    assert inner(ip_address(address))


@pytest.mark.parametrize("address", OUTSIDE)
def test_an_address_on_the_internet_has_none(address: str) -> None:
    assert inner(ip_address(address)) is None


@pytest.mark.parametrize("address", INSIDE)
async def test_a_name_that_leads_inside_is_refused_with_a_sentence(address: str) -> None:
    with pytest.raises(UrlNotAllowed, match=r"leads to .* SPANLOOM_EGRESS_ALLOW"):
        await knows(address).check("https://hooks.example/")
    with pytest.raises(UrlNotAllowed):
        await knows(PUBLIC, address).check("https://hooks.example/")


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::1]:8443/",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/",
        "https://LOCALHOST/",
        "https://[fe80::1%25lo]/",
    ],
)
async def test_an_inner_address_is_refused_however_it_is_written(url: str) -> None:
    with pytest.raises(UrlNotAllowed):
        await Egress().check(url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://hooks.example/", "use https"),
        ("https://hooks.example:22/", "port 22 may not be reached, only 443, 8443"),
        ("https://user:secret@hooks.example/", "user or a password"),
        ("https://hooks.example/#part", "fragment"),
        ("ftp://hooks.example/", "begins with https://"),
        ("file:///etc/passwd", "begins with https://"),
        ("hooks.example", "begins with https://"),
        ("https://", "names a host"),
        ("https://hooks.example:99999/", "no URL"),
        ("https://exa mple/", "no URL"),
    ],
)
async def test_a_url_of_another_form_is_refused_with_a_sentence(url: str, sentence: str) -> None:
    with pytest.raises(UrlNotAllowed, match=sentence) as refused:
        await knows(PUBLIC).check(url)
    assert "secret" not in refused.value.message


async def test_a_url_on_the_internet_is_let_through() -> None:
    for url in ("https://hooks.example/", "https://hooks.example:8443/a?b=c"):
        await knows(PUBLIC, "2606:4700:4700::1111").check(url)


async def test_a_name_without_an_address_may_get_one_later() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror("unknown")

    await Egress(resolve=resolve).check("https://hooks.example/")
    with pytest.raises(UrlNotAllowed, match="use https"):
        await Egress(resolve=resolve).check("http://hooks.example/")


@pytest.mark.parametrize(
    ("allowed", "url", "address"),
    [
        ("10.1.0.0/16", "http://hooks.internal:8080/", "10.1.2.3"),
        ("10.1.2.3", "https://hooks.internal:9000/", "10.1.2.3"),
        ("hooks.internal:8080", "http://hooks.internal:8080/", "192.168.0.9"),
        ("Hooks.Internal:8080", "http://hooks.internal:8080/", "192.168.0.9"),
        ("[::1]:9000", "http://[::1]:9000/", "::1"),
        ("fd00::/8", "http://hooks.internal/", "fd00::9"),
    ],
)
async def test_an_exception_lets_its_place_through_and_no_other(allowed: str, url: str, address: str) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return [address]

    exceptions = Exceptions.parse([allowed])
    await Egress(exceptions, resolve=resolve).check(url)
    with pytest.raises(UrlNotAllowed):
        await Egress(exceptions, resolve=lambda host, port: _fixed("10.2.0.1")).check("http://other.internal:8081/")


async def _fixed(address: str) -> Sequence[str]:
    return [address]


@pytest.mark.parametrize("item", ["10.0.0.0/99", "hooks.internal", "hooks:0", "hooks:x", ":80", "a/b"])
def test_an_exception_of_another_form_is_an_error(item: str) -> None:
    with pytest.raises(ValueError, match=r"network|host:port"):
        Exceptions.parse([item])


class Server:
    """Answers every connection alike and counts them."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        try:
            await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()


@asynccontextmanager
async def serving(answer: bytes = b"HTTP/1.1 204 No Content\r\n\r\n") -> AsyncIterator[Server]:
    """A server on loopback."""
    made = Server(answer)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


async def test_a_name_that_changes_its_address_after_the_check_is_refused_while_connecting() -> None:
    answers = [[PUBLIC], ["127.0.0.1"]]

    async def resolve(host: str, port: int) -> Sequence[str]:
        return answers.pop(0)

    async with serving() as server:
        egress = Egress(ports=[server.port], resolve=resolve)
        url = f"https://hooks.example:{server.port}/"
        await egress.check(url)
        async with open_client(egress, timeout_seconds=5) as client:
            with pytest.raises(UrlNotAllowed, match=r"hooks.example leads to 127.0.0.1"):
                await client.get(url)
        assert (server.requests, answers) == ([], [])


async def test_what_was_checked_is_what_is_connected_to() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async with serving() as server:
        egress = Egress(Exceptions.parse(["127.0.0.0/8"]), resolve=resolve)
        async with open_client(egress, timeout_seconds=5) as client:
            answer = await client.get(f"http://no-such-name.invalid:{server.port}/")
        assert answer.status_code == 204
        assert b"host: no-such-name.invalid" in server.requests[0].lower()


async def test_an_address_in_the_url_is_refused_while_connecting() -> None:
    async with serving() as server, open_client(Egress(ports=[server.port]), timeout_seconds=5) as client:
        for host in ("127.0.0.1", "2130706433", "[::ffff:127.0.0.1]", "localhost"):
            with pytest.raises(UrlNotAllowed):
                await client.get(f"https://{host}:{server.port}/")
        assert server.requests == []


async def test_http_is_for_exceptions_only() -> None:
    async with open_client(knows(PUBLIC), timeout_seconds=5) as client:
        with pytest.raises(UrlNotAllowed, match="use https"):
            await client.get("http://hooks.example/")
        with pytest.raises(UrlNotAllowed, match="port 9000"):
            await client.get("https://hooks.example:9000/")


async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as proxy, serving() as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        egress = Egress(Exceptions.parse(["127.0.0.0/8"]))
        async with open_client(egress, timeout_seconds=5) as client:
            await client.get(f"http://127.0.0.1:{server.port}/")
        assert (len(proxy.requests), len(server.requests)) == (0, 1)


async def test_redirects_are_not_followed_and_cookies_not_kept() -> None:
    answer = b"HTTP/1.1 302 Found\r\nLocation: /next\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    async with serving(answer) as server:
        egress = Egress(Exceptions.parse([f"127.0.0.1:{server.port}"]))
        async with open_client(egress, timeout_seconds=5) as client:
            for _ in range(2):
                assert (await client.get(f"http://127.0.0.1:{server.port}/")).status_code == 302
        assert len(server.requests) == 2
        assert not any(b"cookie" in request.lower() for request in server.requests)


async def test_only_the_beginning_of_a_reply_is_read() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000) as server:
        egress = Egress(Exceptions.parse([f"127.0.0.1:{server.port}"]))
        async with open_client(egress, timeout_seconds=5) as client:
            async with client.stream("GET", f"http://127.0.0.1:{server.port}/") as response:
                assert await read_reply(response) == b"x" * 16_384


async def test_a_name_that_cannot_be_resolved_is_an_error_of_the_connection() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with open_client(Egress(resolve=resolve), timeout_seconds=5) as client:
        with pytest.raises(
            httpx2.ConnectError, match=r"hooks.example could not be resolved: Name or service not known"
        ):
            await client.get("https://hooks.example/")


def test_a_url_keeps_its_parts() -> None:
    assert parse_url("https://hooks.example:8443/a?b=c").port == 8443

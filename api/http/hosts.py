"""Reads Host headers by the grammar of RFC 9110 section 7.2 and RFC 3986 section 3.2."""

import re
from ipaddress import IPv6Address, ip_address

_NAME = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*")
_FUTURE = re.compile(r"\[v[0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+\]", re.IGNORECASE)
_PORT = re.compile(r":([0-9]{0,5})")
_LAST_DOT = re.compile(r"(?<![.])[.]$")
_MAX_PORT = 65_535


def host_of(header: str) -> str:
    """The host of a Host header, as `plain_host` writes it. Raises `ValueError` if the header breaks the grammar."""
    header = header.strip(" \t")
    end = header.find("]") + 1 if header.startswith("[") else -1
    host, port = (header[:end], header[end:]) if end > 0 else _split(header)
    matched = _PORT.fullmatch(port) if port else None
    if port and (matched is None or int(matched[1] or 0) > _MAX_PORT):
        raise ValueError("the port is no number below 65536")
    if host.startswith("["):
        return _literal(host)
    if not _NAME.fullmatch(host):
        raise ValueError("the name has characters that no host name has")
    return plain_host(host)


def plain_host(host: str) -> str:
    """A name in lower case without a dot at its end; an address without brackets in its shortest form."""
    host = _LAST_DOT.sub("", host.lower())
    try:
        return str(ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        return host


def _split(header: str) -> tuple[str, str]:
    host, colon, port = header.partition(":")
    return host, colon + port


def _literal(host: str) -> str:
    """An address in brackets. A zone is refused: it means something on the sender's machine only."""
    if _FUTURE.fullmatch(host):
        return host.lower()
    address = IPv6Address(host[1:-1])
    if address.scope_id is not None:
        raise ValueError("the address has a zone")
    return str(address)

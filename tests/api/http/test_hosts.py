"""The grammar of a Host header: what is a host, and which one."""

import pytest

from api.http.hosts import host_of

READ = {
    "": "",
    "localhost": "localhost",
    "LocalHost.:8000": "localhost",
    "localhost:": "localhost",
    "[::1]": "::1",
    "[0:0:0:0:0:0:0:1]:443": "::1",
    "127.0.0.1:1": "127.0.0.1",
    "a-b_c~d!$&'()*+,;=.example": "a-b_c~d!$&'()*+,;=.example",
    "%6cocalhost": "%6cocalhost",
    "[v1.a:b]": "[v1.a:b]",
    "localhost..": "localhost..",
}


@pytest.mark.parametrize(("header", "host"), READ.items())
def test_a_host_is_read(header: str, host: str) -> None:
    assert host_of(header) == host


@pytest.mark.parametrize(
    "header",
    [
        "a@b",
        "a b",
        "::1",
        "[::1",
        "[::1]a",
        "[1.2.3.4]",
        "[fe80::1%25lo]",
        "a:b",
        "a:65536",
        "a:-1",
        "a/b",
        "ü",
        "%2",
        "٣",
    ],
)
def test_what_is_no_host_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        host_of(header)

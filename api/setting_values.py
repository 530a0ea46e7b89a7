"""The types of values that settings have: how each is written, and what is said about one that cannot be used."""

import re
from functools import partial
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from engine.security.addresses import Exceptions

MIN_DAYS = 1 / 24
"""Nothing is deleted within the hour in which it was written."""
MAX_DAYS = 36_500.0
MAX_HOURS = 24 * MAX_DAYS
"""A hundred years: a time that lies further back has no date."""
MIN_SECRET = 32
"""The shortest secret key and the shortest token, in characters."""


_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?")


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _trace_url(value: str) -> str:
    if "{trace_id}" not in value:
        raise ValueError("must contain {trace_id}, as in http://localhost:16686/trace/{trace_id}")
    return value


def _provider_and_model(value: str) -> str:
    provider, _, model = value.partition(":")
    if not (provider and model):
        raise ValueError("is written as provider:model, as in openai:gpt-4.1-mini")
    return value


def _host_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise ValueError("is written as host:port, as in 127.0.0.1:8000")
    return value


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL with its scheme, as in http://127.0.0.1:4010/v1")
    return value


def _origins(items: tuple[str, ...]) -> tuple[str, ...]:
    for item in items:
        if item != "*" and not _ORIGIN.fullmatch(item):
            raise ValueError("lists origins as browsers send them, https://app.example or http://localhost:3000, or *")
    return items


def _long_enough(texts: tuple[str, ...], name: str) -> tuple[str, ...]:
    if any(len(text) < MIN_SECRET for text in texts):
        raise ValueError(f"{name} has at least {MIN_SECRET} characters; make one with `openssl rand -hex 32`")
    return texts


def days(value: float) -> float:
    """How long something is kept. Raises `ValueError`."""
    if not MIN_DAYS <= value <= MAX_DAYS:
        raise ValueError(f"lies between an hour, 0.042, and {MAX_DAYS:g} days")
    return value


def _schedule(seconds: tuple[float, ...]) -> tuple[float, ...]:
    if not seconds or seconds[0] != 0:
        raise ValueError("begins with 0, the first attempt, and lists the seconds before each further one")
    return seconds


def _exceptions(items: tuple[str, ...]) -> tuple[str, ...]:
    try:
        Exceptions.parse(items)
    except ValueError:
        raise ValueError("lists networks as in 10.1.0.0/16, and places as host:port") from None
    return items


Port = Annotated[int, Field(ge=0, le=65_535)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Span = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Seconds, more than 0."""
Hours = Annotated[float, Field(gt=0, le=MAX_HOURS, allow_inf_nan=False)]
Days = Annotated[float, AfterValidator(days)]
HostAndPort = Annotated[str, AfterValidator(_host_and_port)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
TraceUrl = Annotated[str, AfterValidator(_trace_url)]
ProviderAndModel = Annotated[str, AfterValidator(_provider_and_model)]
LowerCase = BeforeValidator(_lower)
Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
SecretKeys = Annotated[
    tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(partial(_long_enough, name="a key"))
]
Tokens = Annotated[
    tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(partial(_long_enough, name="a token"))
]
Schedule = Annotated[tuple[Seconds, ...], NoDecode, BeforeValidator(_split), AfterValidator(_schedule)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_origins)]
Places = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_exceptions)]
Ports = Annotated[tuple[Port, ...], NoDecode, BeforeValidator(_split)]
Folders = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split)]

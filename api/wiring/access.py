"""Builds the gate, and refuses to listen where strangers could come in."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from api.access import keys
from api.access.gate import Gate
from api.access.keys import KeyHasher
from api.settings import Settings, SettingsInvalid
from api.wiring.secret_key import key_file, secret_keys
from engine.database.database import Database
from engine.errors import Unavailable

if TYPE_CHECKING:
    from api.access.tokens import TokenChecker

_FETCH_SECONDS = 5.0
_MAX_KEYS_BYTES = 64 * 1024
_CREATE = "create one: spanloom keys create --owner NAME --name NAME --scope '*'"


def build_hasher(settings: Settings) -> KeyHasher:
    """Recognises keys with the secret keys of this deployment."""
    return KeyHasher(lambda: secret_keys(settings))


def build_gate(settings: Settings, database: Database) -> Gate:
    """The gate of a service: closed from the start where other machines could reach it."""
    check_token = build_token_checker(settings) if settings.oidc_issuer else None
    return Gate(database, build_hasher(settings), is_closed=settings.is_reachable, check_token=check_token)


def build_token_checker(settings: Settings) -> "TokenChecker":
    """Checks tokens of the identity provider in the settings, whose keys are read through the address guard."""
    from api.access.tokens import TokenChecker, TokenRules

    assert settings.oidc_issuer is not None
    assert settings.oidc_jwks_url is not None
    rules = TokenRules(
        settings.oidc_issuer, settings.oidc_audience, settings.oidc_owner_claim, settings.oidc_scope_claim
    )
    return TokenChecker(rules, partial(_read_keys, settings, settings.oidc_jwks_url))


async def _read_keys(settings: Settings, url: str) -> bytes:
    """The document of an identity provider's keys. Raises `Unavailable`."""
    import httpx2

    from api.wiring.webhooks import build_egress
    from engine.security.egress import UrlNotAllowed, open_client, read_reply

    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    try:
        async with (
            asyncio.timeout(_FETCH_SECONDS),
            open_client(build_egress(settings), timeout_seconds=_FETCH_SECONDS) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            body = await read_reply(response, _MAX_KEYS_BYTES)
    except UrlNotAllowed as error:
        raise Unavailable(f"SPANLOOM_OIDC_JWKS_URL: {error.message}") from error
    except (httpx2.HTTPError, TimeoutError) as error:
        raise Unavailable(f"SPANLOOM_OIDC_JWKS_URL does not answer ({type(error).__name__})") from error
    if response.status_code != 200 or len(body) == _MAX_KEYS_BYTES:
        raise Unavailable(f"SPANLOOM_OIDC_JWKS_URL answers {response.status_code} with {len(body)} bytes")
    return body


def check_bind(settings: Settings) -> None:
    """Raises `SettingsInvalid` if other machines could reach the service and no key could be told from a wrong one."""
    if not _needs_keys(settings):
        return
    if not settings.secret_key and key_file(settings) is None:
        raise SettingsInvalid(
            f"{_place(settings)}, which needs SPANLOOM_SECRET_KEY, by which API keys are recognised; make one with "
            "`openssl rand -hex 32` and give the same to every process"
        )


async def check_keys(settings: Settings, database: Database) -> None:
    """Raises `SettingsInvalid` if other machines could reach the service and there is no API key yet."""
    if not _needs_keys(settings):
        return
    async with database.read() as connection:
        if not await keys.are_there_any(connection):
            raise SettingsInvalid(f"{_place(settings)}, and there is no API key, so nobody could use it; {_CREATE}")


def _needs_keys(settings: Settings) -> bool:
    """Whether only keys could keep strangers out."""
    return settings.is_reachable and settings.oidc_issuer is None


def _place(settings: Settings) -> str:
    return f"SPANLOOM_BIND={settings.address[0]} can be reached from other machines"

"""Tokens of an identity provider (JWT, RFC 7519) as keys: checked by the rules of RFC 8725.

The provider's public keys come from one configured address. What a token says about keys (`jku`, `x5u`, `jwk`) is not
looked at.
"""

import asyncio
import base64
import binascii
import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from api.access.principal import OWNER_PATTERN, Principal, Unauthenticated
from api.access.scopes import ALL, FROM_SHELL_ONLY, SCOPES
from engine.documents.strict_json import MalformedJson, read_json
from engine.errors import Unavailable

ALGORITHMS: Mapping[str, frozenset[str]] = {
    "RSA": frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    "EC": frozenset({"ES256", "ES384", "ES512"}),
    "OKP": frozenset({"EdDSA"}),
}
"""The algorithms that are taken, by the type of the key. None has a secret that a public key could pass for."""

MAX_TOKEN_CHARACTERS = 8_192
MAX_KEYS = 100
FRESH_SECONDS = 300.0
"""How long the provider's keys are used before they are read again."""
STALE_SECONDS = 3_600.0
"""How long they are used while the provider does not answer."""
RETRY_SECONDS = 10.0
"""How often they are read at most, whatever keys tokens name."""
LEEWAY_SECONDS = 10
"""By how much the provider's clock may differ."""

_REQUIRED = ["iss", "aud", "exp"]

Fetch = Callable[[], Awaitable[bytes]]
"""Reads the provider's keys (JWKS, RFC 7517). Raises `Unavailable`."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Which tokens count, and where they say whose they are and what they may do."""

    issuer: str
    audience: Sequence[str]
    owner_claim: str
    scope_claim: str


class TokenChecker:
    """Tells the principal of a token."""

    def __init__(self, rules: TokenRules, fetch: Fetch) -> None:
        self._rules = rules
        self._keys = _ProviderKeys(fetch)

    async def __call__(self, token: str) -> Principal:
        """The principal. Raises `Unauthenticated`, or `Unavailable` if the provider's keys cannot be read."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise _refused("is too long")
        try:
            key = await self._keys.find(_header(token))
            claims = self._decode(token, key)
        except jwt.PyJWTError as error:
            raise _refused(_REASONS.get(type(error), "is not valid")) from error
        return self._principal(claims)

    def _decode(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=self._rules.audience,
            issuer=self._rules.issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": _REQUIRED, "enforce_minimum_key_length": True},
        )

    def _principal(self, claims: dict[str, Any]) -> Principal:
        owner = claims.get(self._rules.owner_claim)
        if not isinstance(owner, str) or not re.fullmatch(OWNER_PATTERN, owner):
            raise _refused(f"has no claim {self._rules.owner_claim} that names an owner")
        subject = str(claims.get("sub", owner))
        # Subjects can be anything, names of people too; a digest is enough to tell callers apart.
        key_id = f"jwt:{hashlib.blake2b(subject.encode(errors='replace'), digest_size=9).hexdigest()}"
        return Principal(owner, key_id, "jwt", _scopes(claims.get(self._rules.scope_claim)))


class _ProviderKeys:
    """The provider's public keys by their ids, read again when they are old or one is missing."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._keys: dict[str, dict[str, Any]] = {}
        self._read_at = float("-inf")
        self._tried_at = float("-inf")
        self._turn = asyncio.Lock()

    async def find(self, header: Mapping[str, Any]) -> jwt.PyJWK:
        """The key that a token's header names, for its algorithm. Raises `Unauthenticated`, `Unavailable`."""
        key_id, algorithm = header.get("kid"), header.get("alg")
        if not isinstance(key_id, str) or not isinstance(algorithm, str) or "crit" in header:
            raise _refused("does not name its key and algorithm")
        if not any(algorithm in those for those in ALGORITHMS.values()):
            raise _refused("is signed in a way that is not taken")
        if key_id not in self._keys or time.monotonic() >= self._read_at + FRESH_SECONDS:
            await self._refresh(key_id)
        found = self._keys.get(key_id)
        if found is None:
            raise _refused("is signed with an unknown key")
        if algorithm not in ALGORITHMS[found["kty"]] or found.get("alg", algorithm) != algorithm:
            raise _refused("is signed in a way that its key is not for")
        return jwt.PyJWK(found, algorithm)

    async def _refresh(self, key_id: str) -> None:
        """Read the keys, at most once in `RETRY_SECONDS`. Keys of the last hour count while that fails."""
        async with self._turn:
            now = time.monotonic()
            if now >= self._tried_at + RETRY_SECONDS:
                self._tried_at = now
                try:
                    self._keys, self._read_at = _usable(await self._fetch()), now
                except Unavailable as error:
                    log.warning("the keys of the identity provider cannot be read: %s", error.message)
            if now >= self._read_at + STALE_SECONDS:
                raise Unavailable("The keys of the identity provider cannot be read. Try again.")


def _header(token: str) -> Mapping[str, Any]:
    """What the token says about its key. Raises `Unauthenticated`; read strictly, before a lenient reader sees it."""
    first = token.partition(".")[0]
    try:
        header = read_json(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    except (binascii.Error, ValueError, MalformedJson) as error:
        raise _refused("is not valid") from error
    return header if isinstance(header, dict) else {}


def _usable(document: bytes) -> dict[str, dict[str, Any]]:
    """Public keys for signatures, by id; others are left out. Raises `Unavailable`."""
    try:
        read: Any = read_json(document)
        keys: list[Any] = list(read["keys"])[:MAX_KEYS]
    except (MalformedJson, KeyError, TypeError) as error:
        raise Unavailable("the document is no JSON Web Key Set") from error
    return {key["kid"]: key for key in keys if _is_usable(key)}


def _is_usable(key: Any) -> bool:
    if not isinstance(key, dict) or not isinstance(key.get("kid"), str) or key.get("use", "sig") != "sig":
        return False
    return key.get("kty") in ALGORITHMS and "d" not in key


def _scopes(claim: object) -> frozenset[str]:
    """The scopes in a claim: a text with spaces (RFC 8693) or a list. Scopes of other services are left out."""
    given = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    ours = {*SCOPES, ALL} - FROM_SHELL_ONLY
    return frozenset(scope for scope in given if isinstance(scope, str) and scope in ours)


_REASONS: Mapping[type[Exception], str] = {
    jwt.ExpiredSignatureError: "has expired",
    jwt.ImmatureSignatureError: "is not valid yet",
    jwt.InvalidAudienceError: "is for another service",
    jwt.InvalidIssuerError: "comes from another issuer",
    jwt.MissingRequiredClaimError: "lacks a claim: iss, aud or exp",
}


def _refused(reason: str) -> Unauthenticated:
    return Unauthenticated(f"The token {reason}.", is_invalid=True)

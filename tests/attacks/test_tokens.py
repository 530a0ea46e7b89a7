"""Tokens that an identity provider has not issued, not for us, not now or not like this; and its own faults."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from pydantic import ValidationError

from api.access import tokens
from api.access.scopes import FROM_SHELL_ONLY
from api.settings import Settings
from tests.api.harness import Service, request, running

AUDIENCE = "spanloom-of-us"


@dataclass(slots=True)
class Issuer:
    """An identity provider on this machine, with keys of three kinds."""

    url: str = ""
    signing: dict[str, Any] = field(default_factory=dict)
    published: list[str] = field(default_factory=list)
    reads: int = 0
    reply: Callable[[bytes], bytes] | None = None

    def rotate(self, key_id: str, key: Any) -> None:
        """Sign with this key from now on, too, and publish it."""
        self.signing[key_id] = key
        self.published.append(key_id)

    def document(self) -> bytes:
        """The published keys (JWKS)."""
        return json.dumps({"keys": [jwk(key_id, self.signing[key_id]) for key_id in self.published]}).encode()

    def token(self, key_id: str = "rsa", algorithm: str = "RS256", headers: Any = None, **changes: Any) -> str:
        """A token that counts, but for the changes; a claim that is None is left out."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "ann", "exp": now + 300, "nbf": now - 5}
        claims |= {"scope": "openid executions:read profile"} | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        key = self.signing[key_id]
        return jwt.encode(claims, key, algorithm, headers={"kid": key_id} | (headers or {}))


def well(body: bytes) -> bytes:
    """The answer of an issuer that works."""
    return b"200 OK\r\n\r\n" + body


def jwk(key_id: str, key: Any) -> dict[str, Any]:
    """The public half of a key."""
    kinds: dict[type, Any] = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    algorithm = next((each for kind, each in kinds.items() if isinstance(key, kind)), OKPAlgorithm)
    found: dict[str, Any] = algorithm.to_jwk(key.public_key(), as_dict=True)
    return {name: value for name, value in found.items() if name != "key_ops"} | {"kid": key_id, "use": "sig"}


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    """An issuer that serves its keys."""
    issuer = Issuer()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        issuer.reads += 1
        writer.write(b"HTTP/1.1 " + (issuer.reply or well)(issuer.document()))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        issuer.url = f"http://127.0.0.1:{port}"
        issuer.rotate("rsa", rsa.generate_private_key(65_537, 2_048))
        issuer.rotate("ec", ec.generate_private_key(ec.SECP256R1()))
        issuer.rotate("ed", ed25519.Ed25519PrivateKey.generate())
        yield issuer


@dataclass(slots=True)
class World:
    """A service that takes tokens of an issuer."""

    issuer: Issuer
    service: Service

    async def me(self, token: str) -> httpx2.Response:
        """Who the service takes the sender of a token for."""
        return await self.service.client.get("/v1/me", headers={"Authorization": f"Bearer {token}"})

    async def reason(self, token: str) -> str:
        """Why a token is refused."""
        answer = await self.me(token)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), answer.text
        assert token not in answer.text
        return str(answer.json()["detail"])


@pytest.fixture
async def world(migrated_sqlite_url: str) -> AsyncIterator[World]:
    """A service and its issuer, on addresses that the guard allows."""
    async with issuing() as issuer:
        settings: dict[str, object] = {
            "oidc_issuer": issuer.url,
            "oidc_audience": (AUDIENCE,),
            "oidc_jwks_url": f"{issuer.url}/keys",
            "egress_allow": (issuer.url.removeprefix("http://"),),
        }
        async with running(migrated_sqlite_url, None, **settings) as service:
            yield World(issuer, service)


@pytest.mark.parametrize(
    ("key_id", "algorithm"),
    [("rsa", "RS256"), ("rsa", "RS512"), ("rsa", "PS256"), ("ec", "ES256"), ("ed", "EdDSA")],
)
async def test_a_token_of_the_issuer_counts(world: World, key_id: str, algorithm: str) -> None:
    for _ in range(3):
        me = (await world.me(world.issuer.token(key_id, algorithm))).json()
        assert (me["owner"], me["key_name"], me["scopes"]) == ("ann", "jwt", ["executions:read"])
    assert world.issuer.reads == 1


async def test_a_token_gives_its_owner_and_scopes_and_no_more(world: World) -> None:
    async def start(**claims: str) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {world.issuer.token(**claims)}"}
        return await world.service.client.post("/v1/executions", json=request(), headers=headers)

    assert (await start()).json()["code"] == "missing_scope"
    started = await start(scope="executions:run graphs:run")
    assert started.status_code == 200
    path = f"/v1/executions/{started.json()['execution_id']}"
    for owner, status in (("ann", 200), ("bob", 404)):
        headers = {"Authorization": f"Bearer {world.issuer.token(sub=owner)}"}
        assert (await world.service.client.get(path, headers=headers)).status_code == status
    everything = (await world.me(world.issuer.token(scope=["*", *FROM_SHELL_ONLY, 7, "sudo"]))).json()["scopes"]
    assert "executions:run" in everything
    assert not {*everything} & {*FROM_SHELL_ONLY, "ops", "metrics:read"}
    assert (await world.me(world.issuer.token(scope=None))).json()["scopes"] == []


async def test_without_a_token_nobody_is_let_in(world: World) -> None:
    assert (await world.service.client.get("/v1/me")).status_code == 401


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": int(time.time()) - 60}, "has expired"),
        ({"exp": None}, "lacks a claim"),
        ({"exp": "soon"}, "is not valid"),
        ({"nbf": int(time.time()) + 3_600}, "is not valid yet"),
        ({"iss": "http://evil.example"}, "comes from another issuer"),
        ({"iss": None}, "lacks a claim"),
        ({"aud": "another-service"}, "is for another service"),
        ({"aud": f"{AUDIENCE}-not"}, "is for another service"),
        ({"aud": None}, "lacks a claim"),
        ({"sub": None}, "has no claim sub"),
        ({"sub": ""}, "has no claim sub"),
        ({"sub": "a b"}, "has no claim sub"),
        ({"sub": "../ann\u0000"}, "has no claim sub"),
        ({"sub": "x" * 129}, "has no claim sub"),
        ({"headers": {"crit": ["b64"], "b64": False}}, "is not valid|does not name"),
        ({"headers": {"kid": "rsa2"}}, "unknown key"),
        ({"headers": {"kid": "ec"}}, "its key is not for"),
        ({"headers": {"kid": "../../keys"}}, "unknown key"),
    ],
)
async def test_a_token_that_does_not_say_what_it_must_is_refused(
    world: World, changes: dict[str, Any], reason: str
) -> None:
    found = await world.reason(world.issuer.token(**changes))
    assert any(each in found for each in reason.split("|")), found


def encoded(part: object) -> str:
    """A part of a token."""
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
async def test_an_unsigned_token_is_refused(world: World, algorithm: str) -> None:
    _, claims, signature = world.issuer.token().split(".")
    head = encoded({"alg": algorithm, "kid": "rsa", "typ": "JWT"})
    for last in ("", signature):
        await world.reason(f"{head}.{claims}.{last}")


@pytest.mark.parametrize("form", ["PEM", "DER", "jwk", "n"])
@pytest.mark.parametrize("algorithm", ["HS256", "HS512", "RS256"])
async def test_the_public_key_is_no_shared_secret(world: World, form: str, algorithm: str) -> None:
    public = world.issuer.signing["rsa"].public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    secrets = {
        "PEM": public.public_bytes(serialization.Encoding.PEM, spki),
        "DER": public.public_bytes(serialization.Encoding.DER, spki),
        "jwk": json.dumps(jwk("rsa", world.issuer.signing["rsa"])).encode(),
        "n": base64.urlsafe_b64decode(jwk("rsa", world.issuer.signing["rsa"])["n"] + "=="),
    }
    _, claims, _ = world.issuer.token().split(".")
    signed = f"{encoded({'alg': algorithm, 'kid': 'rsa', 'typ': 'JWT'})}.{claims}"
    digest = hashlib.sha512 if algorithm == "HS512" else hashlib.sha256
    await world.reason(f"{signed}.{encoded(hmac.digest(secrets[form], signed.encode(), digest))}")


async def test_a_key_of_the_attacker_is_not_used_however_it_is_named(world: World) -> None:
    """Not by `jwk`, `jku`, `x5u`, `x5c`, nor by the id of a key of the issuer."""
    async with issuing() as attacker:
        own = jwk("rsa", attacker.signing["rsa"])
        urls = {"jku": f"{attacker.url}/keys", "x5u": f"{attacker.url}/keys"}
        for headers in ({}, {"jwk": own}, urls, {"x5c": ["MIIB"]}, {"jwk": own, "kid": "theirs"}):
            await world.reason(attacker.token(iss=world.issuer.url, headers=headers))
        assert attacker.reads == 0


async def test_a_changed_token_is_refused(world: World) -> None:
    head, claims, signature = world.issuer.token().split(".")
    changed = json.loads(base64.urlsafe_b64decode(claims + "==")) | {"sub": "bob"}
    for token in (
        f"{head}.{encoded(changed)}.{signature}",
        f"{head}.{claims}.{signature[:-4]}AAAA",
        f"{head}.{claims}.",
        f"{head}.{claims}",
        f"{head}..{signature}",
        f"{head}.{claims}.{signature}.{signature}",
        "...",
        "a.b.c",
    ):
        await world.reason(token)


@pytest.mark.parametrize(
    "part", [b"[" * 3_000, b'{"a":' * 1_000, b"\xff\xfe", b"null", b"[]", b'{"alg":"RS256","alg":"none"}']
)
async def test_a_malformed_head_is_no_fault_of_the_service(world: World, part: bytes) -> None:
    _, claims, signature = world.issuer.token().split(".")
    await world.reason(f"{encoded(part)}.{claims}.{signature}")


async def test_a_huge_token_is_not_read(world: World) -> None:
    assert "too long" in await world.reason(world.issuer.token(padding="x" * tokens.MAX_TOKEN_CHARACTERS))
    assert world.issuer.reads == 0


async def test_unknown_keys_make_the_issuer_be_asked_once_in_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.me(world.issuer.token())
    await asyncio.gather(*(world.reason(world.issuer.token(headers={"kid": f"made-up-{n}"})) for n in range(50)))
    assert world.issuer.reads == 1
    monkeypatch.setattr(tokens, "RETRY_SECONDS", 0.0)
    world.issuer.rotate("next", rsa.generate_private_key(65_537, 2_048))
    assert (await world.me(world.issuer.token("next"))).status_code == 200
    assert world.issuer.reads == 2


async def test_a_key_that_was_taken_back_stops_to_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    token = world.issuer.token()
    assert (await world.me(token)).status_code == 200
    world.issuer.published.remove("rsa")
    assert (await world.me(token)).status_code == 200
    monkeypatch.setattr(tokens, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(tokens, "RETRY_SECONDS", 0.0)
    assert "unknown key" in await world.reason(token)


REPLIES: list[Callable[[bytes], bytes]] = [
    lambda body: b"500 Oops\r\n\r\n" + body,
    lambda body: b"302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
    lambda body: b"200 OK\r\n\r\n<html>",
    lambda body: b"200 OK\r\n\r\n[]",
    lambda body: b'200 OK\r\n\r\n{"keys": 5}',
    lambda body: b"200 OK\r\n\r\n" + body[:-1] + b" " * 70_000 + b"}",
    lambda body: b"",
]


@pytest.mark.parametrize("reply", REPLIES)
async def test_an_issuer_that_does_not_answer_refuses_nobody_for_good(
    world: World, reply: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first 503, as nobody knows whether the token counts; keys that were read before go on counting."""
    monkeypatch.setattr(tokens, "RETRY_SECONDS", 0.0)
    world.issuer.reply = reply
    answer = await world.me(world.issuer.token())
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    world.issuer.reply = None
    assert (await world.me(world.issuer.token())).status_code == 200
    monkeypatch.setattr(tokens, "FRESH_SECONDS", 0.0)
    world.issuer.reply = reply
    assert (await world.me(world.issuer.token())).status_code == 200


async def test_shared_secrets_and_keys_for_encryption_are_not_taken_from_the_issuer(world: World) -> None:
    secret = "s" * 64
    shared = {"kty": "oct", "kid": "oct", "k": encoded(secret.encode()), "alg": "HS256"}
    sealing = jwk("sealing", world.issuer.signing["rsa"]) | {"use": "enc"}
    world.issuer.reply = lambda body: b"200 OK\r\n\r\n" + json.dumps({"keys": [shared, sealing, 5, {}]}).encode()
    claims = {"iss": world.issuer.url, "aud": AUDIENCE, "sub": "ann", "exp": int(time.time()) + 60}
    await world.reason(jwt.encode(claims, secret, "HS256", headers={"kid": "oct"}))
    await world.reason(world.issuer.token(headers={"kid": "sealing"}))


async def test_a_short_key_of_the_issuer_does_not_count(world: World) -> None:
    world.issuer.rotate("short", rsa.generate_private_key(65_537, 1_024))
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = world.issuer.token("short")
    await world.reason(token)


async def test_the_keys_are_not_read_from_inside_the_network(migrated_sqlite_url: str) -> None:
    """The address guard holds for them, too: no exception, no read."""
    async with issuing() as issuer:
        settings: dict[str, object] = {
            "oidc_issuer": issuer.url,
            "oidc_audience": (AUDIENCE,),
            "oidc_jwks_url": f"{issuer.url}/keys",
        }
        async with running(migrated_sqlite_url, None, **settings) as service:
            answer = await World(issuer, service).me(issuer.token())
        assert (answer.status_code, issuer.reads) == (503, 0)


@pytest.mark.parametrize("missing", ["oidc_audience", "oidc_jwks_url"])
def test_an_issuer_alone_is_not_enough(missing: str) -> None:
    given: dict[str, object] = {
        "oidc_issuer": "https://id.example",
        "oidc_audience": (AUDIENCE,),
        "oidc_jwks_url": "https://id.example/keys",
    }
    with pytest.raises(ValidationError, match="OIDC_ISSUER needs"):
        Settings.model_validate({name: value for name, value in given.items() if name != missing})

"""Finds out who sends a request, by its `Authorization` header. `X-Forwarded-*` and other headers decide nothing."""

import asyncio
import hmac
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from api.access import keys
from api.access.keys import ApiKey, KeyHasher
from api.access.principal import OPEN, Principal, Unauthenticated
from engine.database.database import Database
from engine.errors import Unavailable

CACHE_SECONDS = 4.0
"""How long a key is not looked up again, and so how long a revoked one may still be used in other processes."""
MAX_CACHED = 10_000
NOTE_SECONDS = 60.0
"""How often the use of a key is noted, at most."""
CLOSE_SECONDS = 1.0

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)
_NOBODYS_HASH = secrets.token_bytes(32)
"""Compared where no key has the id, so that an unknown id takes as long as a known one."""

CheckToken = Callable[[str], Awaitable[Principal]]
"""The principal of a token that another service has issued. Raises `Unauthenticated`."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """A key whose secret was right, until it is looked up again."""

    key: ApiKey
    until: float


class Gate:
    """Tells who sends a request.

    Without keys and tokens a service on a loopback address is open; once a key was created, every request needs one.
    """

    def __init__(
        self, database: Database, hasher: KeyHasher, *, is_closed: bool, check_token: CheckToken | None = None
    ) -> None:
        self._database = database
        self._hasher = hasher
        self._check_token = check_token
        self._is_closed = is_closed or check_token is not None
        self._asked_at = float("-inf")
        self._known: dict[bytes, _Known] = {}
        self._notes: set[asyncio.Task[None]] = set()

    @property
    def is_closed(self) -> bool:
        """Whether requests need a key, as far as this process knows."""
        return self._is_closed

    async def admit(self, authorization: Sequence[str]) -> Principal:
        """The principal by the `Authorization` headers of a request. Raises `Unauthenticated`, `Unavailable`."""
        token = _token(authorization)
        if token is not None and token.startswith(keys.PREFIX):
            return await self._by_key(token)
        if token is not None and self._check_token is not None:
            return await self._check_token(token)
        if await self.needs_key():
            raise Unauthenticated(is_invalid=token is not None)
        return OPEN

    async def needs_key(self) -> bool:
        """Whether requests need a key. A key that another process has created counts within seconds."""
        if not self._is_closed and time.monotonic() >= self._asked_at + CACHE_SECONDS:
            asked_at = time.monotonic()
            async with self._database.read() as connection:
                if await keys.are_there_any(connection):
                    self._is_closed = True
            self._asked_at = asked_at
        return self._is_closed

    def close_to_strangers(self) -> None:
        """Require a key from now on: this process has created one."""
        self._is_closed = True

    def forget(self, key_id: str) -> None:
        """Look this key up again: it was revoked."""
        for hash_ in [hash_ for hash_, known in self._known.items() if known.key.id == key_id]:
            del self._known[hash_]

    async def close(self) -> None:
        """Give the notes that are being written a moment."""
        if self._notes:
            await asyncio.wait(self._notes, timeout=CLOSE_SECONDS)
        for task in self._notes:
            task.cancel()

    async def _by_key(self, text: str) -> Principal:
        key_id = keys.id_of(text)
        if key_id is None:
            raise Unauthenticated("This is no API key of this service.", is_invalid=True)
        hashes = self._hasher.hashes(text)
        known = self._known.get(hashes[0])
        if known is None or known.until <= time.monotonic():
            known = await self._look_up(key_id, hashes)
        key = known.key
        if key.is_expired:
            raise Unauthenticated("This API key has expired. Create another one.", is_invalid=True)
        return Principal(key.owner, key.id, key.name, frozenset(key.scopes))

    async def _look_up(self, key_id: str, hashes: Sequence[bytes]) -> _Known:
        """The key with this id, if its secret is right. Only such keys are remembered: a guess is always looked up."""
        until = time.monotonic() + CACHE_SECONDS
        async with self._database.read() as connection:
            found = await keys.find(connection, key_id)
        key, stored = found or (None, _NOBODYS_HASH)
        matching = [hmac.compare_digest(stored, hash_) for hash_ in hashes]
        self._known.pop(hashes[0], None)
        if key is None or not any(matching):
            raise Unauthenticated("This API key is not known here.", is_invalid=True)
        if key.revoked_at is not None:
            raise Unauthenticated("This API key was revoked. Create another one.", is_invalid=True)
        self._is_closed = True
        if not matching[0] or _is_long_ago(key.last_used_at):
            self._note_use(key.id, hashes[0])
        while len(self._known) >= MAX_CACHED:
            del self._known[next(iter(self._known))]
        known = self._known[hashes[0]] = _Known(key, until)
        return known

    def _note_use(self, key_id: str, hash_: bytes) -> None:
        """Write in the background that the key is used: no request waits for a commit."""
        task = asyncio.create_task(self._write_use(key_id, hash_), name=f"use of key {key_id}")
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _write_use(self, key_id: str, hash_: bytes) -> None:
        try:
            async with self._database.begin() as connection:
                await keys.note_use(connection, key_id, hash_)
        except Unavailable:
            log.warning("could not note the use of a key", extra={"key_id": key_id}, exc_info=True)


def _token(authorization: Sequence[str]) -> str | None:
    """The bearer token; null if there is none, or another scheme, as of a proxy in front that asks for a password."""
    if len(authorization) > 1:
        raise Unauthenticated("Send one Authorization header.", is_invalid=True)
    matched = _BEARER.fullmatch(authorization[0]) if authorization else None
    return matched[1] if matched else None


def _is_long_ago(time_: datetime | None) -> bool:
    return time_ is None or time_ < datetime.now(UTC) - timedelta(seconds=NOTE_SECONDS)

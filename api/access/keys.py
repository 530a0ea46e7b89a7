"""API keys: their form, how they are recognised, and the table that they are in.

A key is `spl_<id>_<secret>`. Its secret has 256 random bits, so one HMAC is enough, and no slow hash is needed.
All functions work in the caller's transaction.
"""

import hmac
import re
import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from sqlalchemy import Row, exists, func, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from api.access.tables import api_keys
from engine.database.base import now_sql
from engine.errors import NotFound
from engine.security.keys import derive_keys

PREFIX = "spl_"
ID_CHARACTERS = 12
SECRET_CHARACTERS = 43
"""As many characters of base 62 as hold 256 bits."""

_BASE62 = string.ascii_letters + string.digits
_KEY = re.compile(rf"{PREFIX}([A-Za-z0-9]{{{ID_CHARACTERS}}})_[A-Za-z0-9]{{{SECRET_CHARACTERS}}}")
_PURPOSE = b"spanloom api keys"

_keys = api_keys.c


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without its secret. Times are UTC."""

    id: str
    owner: str
    name: str
    scopes: tuple[str, ...]
    created_by: str | None
    """The id of the key that made it; null if it was made on the command line."""
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None

    @property
    def is_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to create."""

    owner: str
    name: str
    scopes: Sequence[str]
    expires_at: datetime | None = None
    created_by: str | None = None


@dataclass(frozen=True, slots=True)
class KeyCursor:
    """The last key of a page."""

    created_at: datetime
    id: str


class KeyHasher:
    """Makes the HMACs by which keys are recognised, with keys derived from `SPANLOOM_SECRET_KEY`.

    `secret_keys` are the secret keys, newest first, and are asked for when they are needed.
    """

    def __init__(self, secret_keys: Callable[[], Sequence[str]]) -> None:
        self._secret_keys = secret_keys

    def hashes(self, key: str) -> list[bytes]:
        """The HMACs of an API key, with the newest secret key first. Raises `SecretKeyMissing`."""
        return [hmac.digest(derived, key.encode(), "sha256") for derived in self._derived]

    @cached_property
    def _derived(self) -> list[bytes]:
        return derive_keys(self._secret_keys(), _PURPOSE)


def id_of(text: str) -> str | None:
    """The id in an API key; null if the text does not have the form of a key."""
    matched = _KEY.fullmatch(text)
    return matched[1] if matched else None


async def create(connection: AsyncConnection, new: NewKey, hasher: KeyHasher) -> tuple[ApiKey, str]:
    """Create a key; returns it with its text, which is never shown again. Raises `SecretKeyMissing`."""
    key_id, secret = _random(ID_CHARACTERS), _random(SECRET_CHARACTERS)
    text = f"{PREFIX}{key_id}_{secret}"
    values = {
        "key_id": key_id,
        "hmac": hasher.hashes(text)[0],
        "owner_id": new.owner,
        "name": new.name,
        "scopes": sorted(set(new.scopes)),
        "created_by": new.created_by,
        "created_at": datetime.now(UTC),
        "expires_at": new.expires_at,
    }
    await connection.execute(insert(api_keys).values(values))
    return await get(connection, key_id), text


async def get(connection: AsyncConnection, key_id: str, owner: str | None = None) -> ApiKey:
    """The key of this owner, or of any. Raises `NotFound`."""
    found = await find(connection, key_id)
    if found is None or owner not in (None, found[0].owner):
        raise NotFound.of("key", key_id)
    return found[0]


async def find(connection: AsyncConnection, key_id: str) -> tuple[ApiKey, bytes] | None:
    """The key with this id and its HMAC; null if there is none."""
    row = (await connection.execute(select(api_keys).where(_keys.key_id == key_id))).one_or_none()
    return None if row is None else (_read(row), row.hmac)


async def list_keys(
    connection: AsyncConnection, owner: str | None, *, limit: int = 50, after: KeyCursor | None = None
) -> tuple[list[ApiKey], KeyCursor | None]:
    """A page of keys of an owner, or of all, newest first, and its cursor; null on the last page."""
    statement = select(api_keys).order_by(_keys.created_at.desc(), _keys.key_id.desc()).limit(limit + 1)
    if owner is not None:
        statement = statement.where(_keys.owner_id == owner)
    if after is not None:
        end = tuple_(after.created_at, after.id, types=[_keys.created_at.type, _keys.key_id.type])
        statement = statement.where(tuple_(_keys.created_at, _keys.key_id) < end)
    found = [_read(row) for row in await connection.execute(statement)]
    last = found[limit - 1] if len(found) > limit else None
    return found[:limit], KeyCursor(last.created_at, last.id) if last else None


async def revoke(connection: AsyncConnection, key_id: str, owner: str | None = None) -> ApiKey:
    """Revoke a key of this owner, or of any; a revoked one stays as it is. Raises `NotFound`."""
    await get(connection, key_id, owner)
    await connection.execute(
        update(api_keys).where(_keys.key_id == key_id, _keys.revoked_at.is_(None)).values(revoked_at=now_sql())
    )
    return await get(connection, key_id)


async def note_use(connection: AsyncConnection, key_id: str, hash_: bytes) -> None:
    """Note that a key is used now. `hash_` is its HMAC with the newest secret key, so that older ones can go."""
    await connection.execute(update(api_keys).where(_keys.key_id == key_id).values(last_used_at=now_sql(), hmac=hash_))


async def are_there_any(connection: AsyncConnection) -> bool:
    """Whether a key was ever created, valid or not."""
    return bool((await connection.execute(select(exists(select(_keys.key_id))))).scalar_one())


async def count(connection: AsyncConnection) -> tuple[int, int]:
    """How many keys count now, and how many are expired or revoked."""
    counts = _keys.revoked_at.is_(None) & (_keys.expires_at.is_(None) | (_keys.expires_at > now_sql()))
    statement = select(func.count(), func.count().filter(counts)).select_from(api_keys)
    total, valid = (await connection.execute(statement)).one()
    return valid, total - valid


def _random(characters: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(characters))


def _read(row: Row[tuple[object, ...]]) -> ApiKey:
    return ApiKey(
        id=row.key_id,
        owner=row.owner_id,
        name=row.name,
        scopes=tuple(row.scopes),
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )

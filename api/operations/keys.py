"""Creates API keys for a key: with no more scopes than it has, and no longer than it is valid."""

from collections.abc import Collection
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from api.access import keys
from api.access.keys import ApiKey, KeyHasher, NewKey
from api.access.principal import Principal, ScopeExceeded
from api.access.scopes import exceeding
from api.schemas.keys import KeyBody
from engine.errors import InvalidRequest


async def create_key(
    connection: AsyncConnection, principal: Principal, asked: KeyBody, hasher: KeyHasher
) -> tuple[ApiKey, str]:
    """Create a key of the principal's owner; returns it with its text.

    Raises `ScopeExceeded`, `InvalidRequest` or `SecretKeyMissing`.
    """
    check_scopes(principal.scopes, asked.scopes)
    check_time(asked.expires_at)
    expires_at = await _last_moment(connection, principal, asked.expires_at)
    new = NewKey(principal.owner, asked.name, asked.scopes, expires_at, principal.key_id)
    return await keys.create(connection, new, hasher)


def check_scopes(held: Collection[str], wanted: Collection[str]) -> None:
    """Raises `ScopeExceeded` if somebody with the scopes that are held may not give all that are wanted."""
    if too_many := exceeding(held, wanted):
        names = ", ".join(too_many)
        raise ScopeExceeded(f"This key cannot give the scope {names}. `spanloom keys create` can give every scope.")


def check_time(expires_at: datetime | None) -> None:
    """Raises `InvalidRequest` if the time has passed."""
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise InvalidRequest("The key would have expired already. Choose a later expires_at.")


async def _last_moment(connection: AsyncConnection, principal: Principal, wanted: datetime | None) -> datetime | None:
    """When the new key expires: when its maker does, if nothing else is asked for. Raises `ScopeExceeded`."""
    found = await keys.find(connection, principal.key_id) if principal.key_id is not None else None
    own = found[0].expires_at if found else None
    if own is not None and wanted is not None and wanted > own:
        raise ScopeExceeded("A key does not outlive the key that makes it. Choose an earlier expires_at.")
    return wanted or own

"""`spanloom keys`: create, list and revoke API keys of every owner."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.access import keys
from api.access.keys import NewKey
from api.access.principal import OWNER_PATTERN
from api.access.scopes import ALL, SCOPES
from api.cli import terminal
from api.cli.database_reads import check_exists, every, read, write
from api.cli.errors import wrong_use
from api.cli.exit_codes import DONE
from api.cli.rendering.keys import keys_table
from api.schemas import keys as documents
from api.settings import Settings
from api.wiring.access import build_hasher

T = TypeVar("T")

_SPAN = re.compile(r"([0-9]{1,4})([dh])")
_TIME: TypeAdapter[datetime] = TypeAdapter(datetime)


@dataclass(frozen=True, slots=True)
class AskedKey:
    """The arguments of `spanloom keys create`."""

    owner: str
    name: str
    scopes: Sequence[str]
    expires: str | None


def create(asked: AskedKey, *, as_json: bool) -> int:
    """Create a key and print it, the only time that it is shown."""
    settings = terminal.begin()
    new = NewKey(asked.owner, asked.name, asked.scopes, _expiry(asked.expires))
    _check(new)
    made = created(settings, new)
    if as_json:
        terminal.show_json(made.model_dump(mode="json"))
        return DONE
    print(f"Created key {made.id} of owner {made.owner}, for: {', '.join(made.scopes)}.")
    print(f"The key, shown only once: {made.key}")
    print(f"Try it: curl -H 'Authorization: Bearer {made.key}' {settings.public_address}/v1/me")
    return DONE


def list_all(owner: str | None, *, as_json: bool) -> int:
    """List all keys, or those of one owner."""
    settings = terminal.begin()
    page = listed(settings, owner)
    if as_json:
        terminal.show_json(page.model_dump(mode="json"))
    else:
        terminal.show(keys_table(page.items, width=terminal.console().width))
    return DONE


def revoke(id: str, *, as_json: bool) -> int:
    """Revoke a key; a revoked one stays revoked. Raises `NotFound`."""
    settings = terminal.begin()
    found = revoked(settings, id)
    if as_json:
        terminal.show_json(found.model_dump(mode="json"))
    else:
        print(f"Revoked key {found.id} ({found.name} of {found.owner}). It is refused everywhere within 5 seconds.")
    return DONE


def created(settings: Settings, new: NewKey) -> documents.NewKeyAnswer:
    """The document of a new key. Raises `SecretKeyMissing`."""
    made, text = write(settings, lambda connection: keys.create(connection, new, build_hasher(settings)))
    return documents.new_key(made, text)


def listed(settings: Settings, owner: str | None) -> documents.KeyPage:
    """The document of all keys, or of those of one owner."""

    async def everything(connection: AsyncConnection) -> list[keys.ApiKey]:
        return await every(lambda after: keys.list_keys(connection, owner, limit=200, after=after))

    return documents.KeyPage(items=[documents.key(one) for one in read(settings, everything)], next_cursor=None)


def revoked(settings: Settings, key_id: str) -> documents.KeyAnswer:
    """The document of a key that is now revoked. Raises `NotFound`."""
    check_exists(settings)
    return documents.key(write(settings, lambda connection: keys.revoke(connection, key_id)))


def _check(new: NewKey) -> None:
    """The rules of the HTTP API. Raises `WrongUse`."""
    if not re.fullmatch(OWNER_PATTERN, new.owner):
        wrong_use(f"Cannot use the owner {new.owner!r}. Write up to 128 letters, digits and . _ @ | + -")
    if not re.fullmatch(documents.NAME_PATTERN, new.name):
        wrong_use(f"Cannot use the name {new.name!r}. Write up to 64 letters, digits, spaces and . _ @ : / + -")
    unknown = [scope for scope in new.scopes if scope not in (*SCOPES, ALL)]
    if unknown:
        wrong_use(f"Unknown scope {unknown[0]!r}. Valid scopes: {', '.join(SCOPES)}, or '*'.")
    if new.expires_at is not None and new.expires_at <= datetime.now(UTC):
        wrong_use("The key would have expired already. Choose a later time for --expires.")


def _expiry(text: str | None) -> datetime | None:
    """The time that `90d`, `12h` or a date names, in UTC. Raises `WrongUse`."""
    if text is None:
        return None
    if (span := _SPAN.fullmatch(text)) is not None:
        number = int(span[1])
        return datetime.now(UTC) + (timedelta(days=number) if span[2] == "d" else timedelta(hours=number))
    try:
        time = _TIME.validate_python(text) if not text.isdigit() else None
    except ValidationError:
        time = None
    if time is None:
        wrong_use(f"Cannot read --expires {text!r}. Write 90d, 12h, 2027-06-30 or 2027-06-30T12:00:00.")
    return time.replace(tzinfo=time.tzinfo or UTC)

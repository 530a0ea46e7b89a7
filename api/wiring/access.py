"""Builds the gate, and refuses to listen where strangers could come in."""

from api.access import keys
from api.access.gate import Gate
from api.access.keys import KeyHasher
from api.settings import Settings, SettingsInvalid
from api.wiring.secret_key import key_file, secret_keys
from engine.database.database import Database

_CREATE = "create one: spanloom keys create --owner NAME --name NAME --scope '*'"


def build_hasher(settings: Settings) -> KeyHasher:
    """Recognises keys with the secret keys of this deployment."""
    return KeyHasher(lambda: secret_keys(settings))


def build_gate(settings: Settings, database: Database) -> Gate:
    """The gate of a service: closed from the start where other machines could reach it."""
    return Gate(database, build_hasher(settings), is_closed=settings.is_reachable)


def check_bind(settings: Settings) -> None:
    """Raises `SettingsInvalid` if other machines could reach the service and no key could be told from a wrong one."""
    if settings.is_reachable and not settings.secret_key and key_file(settings) is None:
        raise SettingsInvalid(
            f"{_place(settings)}, which needs SPANLOOM_SECRET_KEY, by which API keys are recognised; make one with "
            "`openssl rand -hex 32` and give the same to every process"
        )


async def check_keys(settings: Settings, database: Database) -> None:
    """Raises `SettingsInvalid` if other machines could reach the service and there is no API key yet."""
    if not settings.is_reachable:
        return
    async with database.read() as connection:
        if not await keys.are_there_any(connection):
            raise SettingsInvalid(f"{_place(settings)}, and there is no API key, so nobody could use it; {_CREATE}")


def _place(settings: Settings) -> str:
    return f"SPANLOOM_BIND={settings.address[0]} can be reached from other machines"

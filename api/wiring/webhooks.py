"""Builds the sender of webhooks, with its address guard and the sealing of secrets."""

import logging
import os
import secrets
from pathlib import Path

from api.settings import Settings, SettingsInvalid
from engine.database.database import Database, dialect_name, parse_url
from engine.security.addresses import Exceptions
from engine.security.egress import Egress
from engine.security.redaction import know_secrets
from engine.security.sealing import Sealer, SecretKeyMissing
from telemetry.health import DeliveryHealth
from telemetry.webhooks import endpoints
from telemetry.webhooks.queue import Policy
from telemetry.webhooks.sender import Sender

log = logging.getLogger(__name__)


def build_egress(settings: Settings) -> Egress:
    """The guard of requests to addresses that users name."""
    return Egress(Exceptions.parse(settings.egress_allow), ports=settings.egress_ports)


def build_sealer(settings: Settings) -> Sealer:
    """Seals with `SPANLOOM_SECRET_KEY`; on SQLite without it, with a key in a file that is created when needed."""
    return Sealer(lambda: settings.secret_key or _kept_key(settings))


def build_sender(settings: Settings, database: Database, health: DeliveryHealth | None = None) -> Sender:
    """The sender of webhooks."""
    policy = Policy(
        schedule_seconds=settings.webhook_schedule,
        disable_hours=settings.webhook_disable_hours,
        lease_seconds=2 * settings.webhook_timeout_seconds + 20,
    )
    return Sender(
        database,
        build_egress(settings),
        build_sealer(settings),
        policy=policy,
        timeout_seconds=settings.webhook_timeout_seconds,
        health=health,
    )


async def seal_urls(settings: Settings, database: Database) -> None:
    """Seal the URLs that an earlier version stored openly, if there is a key."""
    try:
        async with database.begin() as connection:
            await endpoints.seal_urls(connection, build_sealer(settings))
    except SecretKeyMissing:
        log.warning("webhook URLs with credentials are not sealed: set SPANLOOM_SECRET_KEY")


def key_file(settings: Settings) -> Path | None:
    """The key file beside a SQLite database; None for PostgreSQL, whose processes must share a configured key."""
    url = parse_url(settings.database_url)
    return Path(f"{url.database}.key") if dialect_name(url) == "sqlite" else None


def _kept_key(settings: Settings) -> tuple[str, ...]:
    """The key in the file, created if there is none. Raises `SettingsInvalid` if other users may read the file."""
    file = key_file(settings)
    if file is None:
        return ()
    if not file.exists():
        _make(file)
    if file.stat().st_mode & 0o077:
        raise SettingsInvalid(f"{file} holds a secret, but other users can read it; run: chmod 600 {file}")
    key = file.read_text().strip()
    know_secrets([key])
    return (key,)


def _make(file: Path) -> None:
    """Create the key file atomically; of two processes at once, one wins."""
    draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, f"{secrets.token_hex(32)}\n".encode())
        os.fsync(descriptor)
        file.hardlink_to(draft)
    except FileExistsError:
        return
    finally:
        os.close(descriptor)
        draft.unlink()

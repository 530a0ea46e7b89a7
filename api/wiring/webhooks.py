"""Builds the sender of webhooks, with its address guard and the sealing of secrets."""

import logging

from api.settings import Settings
from api.wiring.secret_key import secret_keys
from engine.database.database import Database
from engine.security.addresses import Exceptions
from engine.security.egress import Egress
from engine.security.keys import SecretKeyMissing
from engine.security.sealing import Sealer
from telemetry.health import DeliveryHealth
from telemetry.webhooks import endpoints
from telemetry.webhooks.queue import Policy
from telemetry.webhooks.sender import Sender

log = logging.getLogger(__name__)


def build_egress(settings: Settings) -> Egress:
    """The guard of requests to addresses that users name."""
    return Egress(Exceptions.parse(settings.egress_allow), ports=settings.egress_ports)


def build_sealer(settings: Settings) -> Sealer:
    """Seals with the secret keys of this deployment."""
    return Sealer(lambda: secret_keys(settings))


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

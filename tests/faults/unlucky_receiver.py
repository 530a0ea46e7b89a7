"""The receiver in a process of its own, with a database that fails by chance: `SHARE` of its transactions,
chosen by `SEED`.

`python -m tests.faults.unlucky_receiver SHARE SEED`; the rest is said as for `spanloom serve --role ingest`.
"""

import asyncio
import logging
import sys
from random import Random

from api.service.server import listen, receiving, url_of
from api.settings import Settings
from api.wiring.ingest import Ingest, open_ingest
from api.wiring.secret_key import build_signer
from telemetry.collector.receiver import Receiver
from tests.both_modes import FlakyDatabase, consumers


async def receive(settings: Settings, share: float, seed: int) -> None:
    """Answer the Collector until the process ends."""
    async with open_ingest(settings) as ingest, FlakyDatabase(settings.database_url) as database:
        database.random, database.share = Random(seed), share
        receiver = Receiver(database, consumers(), ingest.receiver.health, build_signer(settings))
        with listen(*settings.ingest_address) as listener:
            async with receiving(Ingest(settings, ingest.metrics, receiver), listener):
                print("ready at", url_of(listener), flush=True)
                await asyncio.Event().wait()


if __name__ == "__main__":
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s: %(error)s", defaults={"error": ""}))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    asyncio.run(receive(Settings(), float(sys.argv[1]), int(sys.argv[2])))

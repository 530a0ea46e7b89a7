"""`spanloom serve`: the HTTP API."""

import asyncio

from api import server
from api.commands.failing import DONE
from api.logs import configure_logs
from api.settings import read_settings


def run_service() -> int:
    """Serve until SIGTERM or Ctrl-C."""
    settings = read_settings()
    configure_logs(settings)
    asyncio.run(server.serve(settings))
    return DONE

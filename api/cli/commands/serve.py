"""`spanloom serve`: the service, or some of its roles."""

import asyncio

from api.cli.errors import DONE
from api.service import server
from api.service.logs import configure_logs
from api.settings import SettingsInvalid, read_settings
from api.wiring.shutdown import LastResort


def run_service(roles: str | None) -> int:
    """Serve until SIGTERM or Ctrl-C; `roles` by comma, all that the settings call for if null."""
    settings = read_settings()
    configure_logs(settings)
    chosen = server.default_roles(settings) if roles is None else _chosen(roles)
    asyncio.run(server.serve(settings, chosen, on_signal=LastResort().arm))
    return DONE


def _chosen(roles: str) -> frozenset[server.Role]:
    names = {name.strip() for name in roles.split(",")}
    chosen = frozenset(role for role in server.ROLES if role in names)
    if len(chosen) != len(names):
        raise SettingsInvalid(f"--role takes {', '.join(server.ROLES)}, or several of them by comma")
    return chosen

"""`spanloom serve`: run the service, or some of its roles."""

from api.cli import interrupts
from api.cli.exit_codes import DONE
from api.service import server
from api.service.logs import configure_logs
from api.settings import SettingsInvalid, read_settings
from api.wiring.shutdown import LastResort


def run_service(roles: str | None) -> int:
    """Serve until SIGTERM or Ctrl-C. `roles` is a list with commas; null means all that the settings ask for."""
    settings = read_settings()
    configure_logs(settings)
    chosen = server.default_roles(settings) if roles is None else _chosen(roles)
    interrupts.run(server.serve(settings, chosen, on_signal=LastResort().arm))
    return DONE


def _chosen(roles: str) -> frozenset[server.Role]:
    names = {name.strip() for name in roles.split(",")}
    chosen = frozenset(role for role in server.ROLES if role in names)
    if len(chosen) != len(names):
        raise SettingsInvalid(
            f"Unknown role in --role {roles}. Valid roles: {', '.join(server.ROLES)}; separate several with commas."
        )
    return chosen

"""`./dev services [name]` downloads or builds the services of the tests into the cache."""

import sys
from collections.abc import Callable
from pathlib import Path

from tests.services.aimock import server as aimock
from tests.services.alertmanager import server as alertmanager
from tests.services.cache import ServiceMissing, say
from tests.services.chromium import server as chromium
from tests.services.collector import server as collector
from tests.services.generators import server as generators
from tests.services.grafana import server as grafana
from tests.services.jaeger import server as jaeger
from tests.services.postgres import server as postgres
from tests.services.prometheus import server as prometheus

SERVICES: dict[str, Callable[[], Path]] = {
    "postgres": postgres.fetch,
    "aimock": aimock.fetch,
    "jaeger": jaeger.fetch,
    "collector": collector.fetch,
    "prometheus": prometheus.fetch,
    "alertmanager": alertmanager.fetch,
    "chromium": chromium.fetch,
    "grafana": grafana.fetch,
    "generators": generators.fetch,
}


def main(names: list[str]) -> int:
    """Fetch the named services, or all. Returns the exit code: 0, 1 if one is missing, 2 for a wrong name."""
    unknown = sorted(set(names) - set(SERVICES))
    if unknown:
        say(f"there is no {', '.join(unknown)}; there are {', '.join(SERVICES)}")
        return 2
    return max([_fetch(name) for name in names or SERVICES])


def _fetch(name: str) -> int:
    try:
        folder = SERVICES[name]()
    except ServiceMissing as missing:
        say(f"{name} is missing. {missing}")
        return 1
    say(f"{name}: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The packages that are shipped, and their source files."""

from tests.house.lock import ROOT

PACKAGES = ("spanloom", "engine", "telemetry", "api")


def sources() -> list[str]:
    """Every source file of the packages, as a path: `engine/nodes/__init__.py`."""
    return sorted(file.relative_to(ROOT).as_posix() for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def modules() -> list[str]:
    """The same without `__init__.py`."""
    return [name for name in sources() if not name.endswith("/__init__.py")]

"""Makes sure that `engine`, `telemetry` and `api` are spanloom's packages, not others of the same name.

The names are generic: many projects have an `api/` of their own. Whichever Python finds first on `sys.path` wins, so
the command takes its own packages, and the library checks that it got them.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds spanloom's packages: `site-packages`, or the root of a source tree."""

LIBRARY = ("engine", "telemetry")
"""What Python users of spanloom need."""

COMMAND = ("engine", "telemetry", "api")
"""What the command needs."""


class _OwnPackages(MetaPathFinder):
    """Finds spanloom's packages in their own folder, whatever `sys.path` says."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Only the three top-level names are found here; their modules are found through them."""
        return PathFinder.find_spec(fullname, [str(ROOT)]) if fullname in COMMAND else None


def prefer_own_packages() -> None:
    """Let every later import of the three names find spanloom's packages. For a process that runs only spanloom."""
    sys.meta_path.insert(0, _OwnPackages())


def check_packages(names: Sequence[str]) -> None:
    """Raise an `ImportError` with both paths and the ways out if Python finds another package of one of these names."""
    for name in names:
        found = _location(name)
        own = ROOT / name
        if found != own:
            raise ImportError(
                f"spanloom needs its own package `{name}` in {own}, but Python finds {found or 'none'} first. "
                f"Rename your `{name}`, or start `spanloom serve` and talk to it over HTTP: the command does not mind "
                "packages of the same name."
            )


def _location(name: str) -> Path | None:
    """The folder or file that an import of this name gets."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    if spec.origin is not None:
        file = Path(spec.origin).resolve()
        return file.parent if file.name == "__init__.py" else file
    return Path(next(iter(spec.submodule_search_locations or ["?"]))).resolve()

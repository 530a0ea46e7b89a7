"""Grafana's own panel library, bundled for a page: what it draws is what Grafana shows, without a Grafana."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tests.services.cache import ServiceMissing, cached_folder, filling, run, say, tool

VERSION = "10.1.9"
"""Of all three packages of package.json."""
_HERE = Path(__file__).parent
_MANIFEST = [_HERE / name for name in (".npmrc", "library.js", "package.json", "package-lock.json")]
_SCRIPT, _STYLES = "library.min.js", "uPlot.min.css"
_BUNDLE = ["--bundle", "--minify", "--loader:.svg=dataurl", "--loader:.woff2=dataurl", "--define:global=globalThis"]
_PRODUCTION = '--define:process.env.NODE_ENV="production"'


def fetch() -> Path:
    """Fetch and bundle the library into the cache (1 minute), without install scripts. Returns its folder."""
    target = _folder()
    if target.exists():
        return target
    npm = tool("npm", needed_for="grafana", package="nodejs npm")
    say(f"fetching Grafana's panel library {VERSION}, this takes about a minute")
    # Only the bundle is kept: the 650 MB that it is made of go.
    with filling(target) as kept, TemporaryDirectory(dir=kept.parent) as scratch:
        build = Path(scratch)
        for file in _MANIFEST:
            (build / file.name).write_bytes(file.read_bytes())
        run([npm, "ci"], cwd=build)
        run(
            [npm, "exec", "--", "esbuild", "library.js", f"--outfile={kept / _SCRIPT}", *_BUNDLE, _PRODUCTION],
            cwd=build,
        )
        (kept / _STYLES).write_bytes((build / "node_modules" / "uplot" / "dist" / _STYLES).read_bytes())
    return target


def files() -> tuple[Path, Path]:
    """The script, which sets the global `grafana`, and the style sheet. Raises `ServiceMissing`."""
    folder = _folder()
    if not folder.exists():
        raise ServiceMissing("Grafana's panel library is not in the cache: ./dev services grafana")
    return folder / _SCRIPT, folder / _STYLES


def _folder() -> Path:
    return cached_folder("grafana", VERSION, _MANIFEST)

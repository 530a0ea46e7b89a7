"""/docs: the API in Swagger UI, which is vendored; nothing comes from another origin."""

from functools import cache
from pathlib import Path

from fastapi import APIRouter, Response

from api.http.dependencies import NoQueryDep, RuntimeDep
from engine.errors import NotFound

FOLDER = Path(__file__).parents[1] / "vendored" / "swagger_ui"
_TYPES = {
    "start.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>spanloom API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
"""Its links are relative, so that it works below a path of a proxy, too."""

router = APIRouter(include_in_schema=False)


@router.get("/docs", response_model=None)
async def page(runtime: RuntimeDep, query: NoQueryDep) -> Response:
    """The page; 404 unless `SPANLOOM_DOCS` shows it."""
    _require_shown(runtime)
    return Response(_PAGE, headers={"Content-Security-Policy": _POLICY}, media_type="text/html")


@router.get("/docs/{name}", response_model=None)
async def file(name: str, runtime: RuntimeDep, query: NoQueryDep) -> Response:
    """One of its files."""
    _require_shown(runtime)
    if name not in _TYPES:
        raise NotFound
    return Response(_read(name), headers={"Cache-Control": "max-age=3600"}, media_type=_TYPES[name])


def _require_shown(runtime: RuntimeDep) -> None:
    if not runtime.settings.shows_docs:
        raise NotFound("The documentation is off; SPANLOOM_DOCS=true shows it.")


@cache
def _read(name: str) -> bytes:
    return (FOLDER / name).read_bytes()

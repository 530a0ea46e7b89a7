"""Files that are generated and committed: `python -m tests.api.generated` writes them, `--check` compares."""

import sys
from collections.abc import Callable
from pathlib import Path

import orjson

from api.service.app import openapi_document
from api.settings import env_example

ROOT = Path(__file__).parents[2]


def openapi_text() -> str:
    """The description of the service, as it is committed."""
    return orjson.dumps(openapi_document(), option=orjson.OPT_INDENT_2).decode() + "\n"


FILES: dict[str, Callable[[], str]] = {".env.example": env_example, "docs/openapi.json": openapi_text}


def main(arguments: list[str]) -> int:
    """Write, or say which are not up to date."""
    stale = [name for name, make in FILES.items() if not is_current(name, make())]
    if "--check" in arguments:
        for name in stale:
            print(f"{name} is not up to date: python -m tests.api.generated")
        return 1 if stale else 0
    for name in stale:
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_text(FILES[name]())
    return 0


def is_current(name: str, text: str) -> bool:
    """The committed file says this."""
    file = ROOT / name
    return file.is_file() and file.read_text() == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

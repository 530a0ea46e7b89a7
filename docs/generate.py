"""Generated files that are committed: `python -m docs.generate` writes them, `--check` compares.

The pages below docs/reference/ are read from the code, so what they say is edited there.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import orjson

from api.service.app import openapi_document
from api.setting_texts import env_example
from docs.generator.client import client_modules
from docs.generator.failures import errors_page, rules_page
from docs.generator.language import events_page, expressions_page
from docs.generator.nodes import document_page, node_types_page
from docs.generator.service import commands_page, routes_page, settings_page
from docs.generator.telemetry import metrics_page, spans_page, tables_page
from engine.prices.own import price_file_schema

ROOT = Path(__file__).parents[1]


def openapi_text() -> str:
    """The description of the service's HTTP API."""
    return orjson.dumps(openapi_document(), option=orjson.OPT_INDENT_2).decode() + "\n"


def price_schema_text() -> str:
    """The JSON Schema of a file of own prices."""
    return orjson.dumps(price_file_schema(), option=orjson.OPT_INDENT_2).decode() + "\n"


REFERENCE: dict[str, Callable[[], str]] = {
    "document": document_page,
    "node-types": node_types_page,
    "expressions": expressions_page,
    "events": events_page,
    "errors": errors_page,
    "rules": rules_page,
    "settings": settings_page,
    "routes": routes_page,
    "commands": commands_page,
    "metrics": metrics_page,
    "spans": spans_page,
    "tables": tables_page,
}

FILES: dict[str, Callable[[], str]] = {
    ".env.example": env_example,
    "docs/openapi.json": openapi_text,
    "docs/prices.schema.json": price_schema_text,
    **{f"docs/reference/{name}.md": make for name, make in REFERENCE.items()},
}


def main(arguments: list[str]) -> int:
    """Write the files, or name those that are not up to date. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail when a file is not up to date")
    texts = {name: make() for name, make in FILES.items()} | client_modules()
    stale = {name: text for name, text in texts.items() if not is_current(name, text)}
    if parser.parse_args(arguments).check:
        for name in stale:
            print(f"{name} is not up to date: python -m docs.generate")
        return 1 if stale else 0
    for name, text in stale.items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_text(text)
    return 0


def is_current(name: str, text: str) -> bool:
    """Whether the committed file has this text."""
    file = ROOT / name
    return file.is_file() and file.read_text() == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

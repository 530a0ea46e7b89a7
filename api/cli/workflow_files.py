"""Workflow files: a graph, or a template (a graph with parameters), as JSON."""

from pathlib import Path

from api.cli.errors import wrong_use
from engine.documents.strict_json import MalformedJson, read_json
from engine.graph import Json


def read_document(file: Path) -> Json:
    """Read the JSON document in a file. Raises `WrongUse` with the position of the error."""
    try:
        data = file.read_bytes()
    except OSError as error:
        wrong_use(f"Cannot read {file}: {(error.strerror or str(error)).lower()}.")
    try:
        return read_json(data)
    except MalformedJson as error:
        wrong_use(f"{file}: {error}")


def is_template(document: Json) -> bool:
    """Whether a document is a template rather than a graph."""
    return isinstance(document, dict) and "graph" in document and "nodes" not in document

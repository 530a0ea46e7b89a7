"""The edges of a resolved template as text."""

from engine.graph import JsonObject


def drawing(resolved: JsonObject) -> list[str]:
    """The edges as text."""
    edges = resolved["edges"]
    assert isinstance(edges, list)
    return [f"{e['source']} -{e.get('when', '')}-> {e['target']}" for e in edges if isinstance(e, dict)]

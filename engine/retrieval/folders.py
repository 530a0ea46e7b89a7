"""A retriever over several folders: the retriever `default` of a server with `SPANLOOM_FILES_ROOTS`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.graph import JsonObject
from engine.resources import Passage, RetrievalQuery
from engine.retrieval.files import FilesRetriever


class FoldersRetriever:
    """Searches each folder with the retriever `files` and merges the passages by score."""

    options_schema: JsonObject = {"type": "object", "properties": {}, "additionalProperties": False}

    def __init__(self, files: FilesRetriever, roots: Sequence[Path]) -> None:
        self._files = files
        self._roots = roots

    async def retrieve(self, query: RetrievalQuery) -> list[Passage]:
        """The passages, best first. Raises `ResourceMissing` if a folder cannot be read."""
        found: list[Passage] = []
        for root in self._roots:
            found += await self._files.retrieve(replace(query, options={"path": str(root)}))
        found.sort(key=lambda passage: -passage.score)
        return found[: query.max_documents]

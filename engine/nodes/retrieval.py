"""The node type `retrieval`: searches passages for the models behind it."""

from typing import Annotated

from pydantic import Field

from engine.errors import TypeMismatch
from engine.expressions.prompts import parse as parse_prompt
from engine.expressions.prompts import parse_json
from engine.graph import Json, JsonObject, Node, Retry
from engine.nodes.base import JSON_PROMPT, PROMPT, NodeBase, NodeConfig, NodeResult
from engine.resources import Passage, RetrievalQuery
from engine.runtime.calls import retrieve
from engine.runtime.state import Change, RetrievalContext, WorkflowState
from engine.runtime.visit import RetrieverUse, Visit
from engine.tracing import semconv


class RetrievalConfig(NodeConfig):
    """The query, its restrictions and its limits; sizes are in bytes of UTF-8."""

    retriever: str = Field(default="default", min_length=1, max_length=64)
    """Name of the retriever, such as `files`."""
    query: Annotated[str, PROMPT] = "{{ last_user_message }}"
    """The query; an empty query finds nothing."""
    max_documents: int = Field(default=5, ge=1, le=100)
    """Most passages that are returned."""
    score_threshold: float | None = Field(default=None, ge=0, le=1)
    """Lowest score of a passage."""
    filter: Annotated[Json, JSON_PROMPT] = Field(default_factory=dict)
    """Filter in the retriever's own form."""
    document_ids: Annotated[Json, JSON_PROMPT] = None
    """Ids of the documents to search; null means all, `[]` none."""
    max_context_bytes: int = Field(default=32_768, ge=1, le=262_144)
    """Most bytes of text that are passed on."""
    options: JsonObject = Field(default_factory=dict)
    """Options in the retriever's own form; for `files`: `path`."""


class RetrievalNode(NodeBase[RetrievalConfig]):
    """Sends one query to one retriever and passes the passages to the models behind it."""

    type = "retrieval"
    title = "Retrieval"
    description = (
        "Searches with a retriever and passes the passages to the models behind it. Labels `found` and `empty`."
    )
    category = "data"
    Config = RetrievalConfig
    default_retry = Retry(max_attempts=3)
    default_timeout_seconds = 30
    allows_timeout = True
    output_is_untrusted = True
    output_schema = {
        "type": "object",
        "properties": {"count": {"type": "integer"}, "documents": {"type": "array"}},
    }

    def __init__(self, node: Node, config: RetrievalConfig) -> None:
        super().__init__(node, config)
        self._query = parse_prompt(config.query)
        self._filter = parse_json(config.filter)
        self._document_ids = parse_json(config.document_ids)

    @classmethod
    def labels(cls, config: RetrievalConfig) -> tuple[str, ...]:
        return ("found", "empty")

    @classmethod
    def retriever_use(cls, config: RetrievalConfig) -> RetrieverUse:
        return RetrieverUse(config.retriever, config.options)

    async def run(self, state: WorkflowState, visit: Visit) -> NodeResult:
        query = self._prepare(visit)
        passages = await retrieve(visit, self.config.retriever, query) if self._asks(query) else []
        passages = _within(passages, self.config.max_context_bytes)
        size = sum(len(passage.text.encode()) for passage in passages)
        visit.span.update(
            {
                semconv.RETRIEVAL_DOCUMENTS: len(passages),
                semconv.RETRIEVAL_SIZE_BYTES: size,
                semconv.RETRIEVAL_TOP_SCORE: max((passage.score for passage in passages), default=0.0),
            }
        )
        documents: list[JsonObject] = [{"id": p.id, "source": p.source, "score": p.score} for p in passages]
        found = RetrievalContext(
            query=query.text,
            text="\n".join(passage.text for passage in passages),
            documents=[{**document, "text": p.text} for document, p in zip(documents, passages, strict=True)],
        )
        return NodeResult(
            output={"count": len(passages), "documents": list(documents)},
            label="found" if passages else "empty",
            change=Change(retrieval=found),
        )

    def _prepare(self, visit: Visit) -> RetrievalQuery:
        """The query. Raises `TypeMismatch` for an unreadable restriction, rather than search without it."""
        ids = self._document_ids.render(visit.names)
        conditions = self._filter.render(visit.names)
        if not isinstance(conditions, dict):
            raise TypeMismatch("`filter` must evaluate to an object")
        if ids is not None and not isinstance(ids, list):
            raise TypeMismatch("`document_ids` must evaluate to a list or null")
        return RetrievalQuery(
            text=self._query.render(visit.names).strip(),
            owner=visit.context.owner,
            max_documents=self.config.max_documents,
            score_threshold=self.config.score_threshold,
            filter=conditions,
            document_ids=None if ids is None else tuple(str(id_) for id_ in ids),
            options=self.config.options,
            any_folder=visit.context.any_folder,
        )

    @staticmethod
    def _asks(query: RetrievalQuery) -> bool:
        return bool(query.text) and query.document_ids != ()


def _within(passages: list[Passage], max_bytes: int) -> list[Passage]:
    """The best passages up to the first that exceeds `max_bytes` in total."""
    kept: list[Passage] = []
    for passage in passages:
        max_bytes -= len(passage.text.encode())
        if max_bytes < 0:
            break
        kept.append(passage)
    return kept

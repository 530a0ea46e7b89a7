"""A retrieval node: what is searched, and where the texts go."""

import pytest

from engine.graph import JsonObject
from engine.resources import (
    Passage,
    RetrievalQuery,
)
from engine.testing.models import Say
from tests.engine.harness import Harness, graph


class Library:
    """A retriever that returns fixed passages."""

    options_schema: JsonObject = {"type": "object"}

    def __init__(self, *texts: str) -> None:
        self.queries: list[RetrievalQuery] = []
        self._texts = texts

    async def retrieve(self, query: RetrievalQuery) -> list[Passage]:
        self.queries.append(query)
        return [Passage(str(n), f"doc{n}.md", text, 1.0 - n / 10) for n, text in enumerate(self._texts)]


def rag(config: JsonObject | None = None) -> JsonObject:
    nodes: list[JsonObject] = [
        {"id": "find", "type": "retrieval", "config": {"retriever": "library", **(config or {})}},
        {"id": "ask", "type": "model"},
    ]
    return graph(nodes, ["start -> find", "find -> ask", "ask -> end"])


async def test_retrieved_texts_precede_the_question_and_stay_out_of_the_system_message() -> None:
    harness = Harness([Say("Blue.")], retrievers={"library": Library("The sky is blue.")})
    run = await harness.run(rag(), {"message": "What colour is the sky?"})
    sent = harness.model.requests[0]
    assert "The sky is blue." in str(sent.messages[-1]["content"])
    assert str(sent.messages[-1]["content"]).endswith("What colour is the sky?")
    assert "blue" not in sent.system
    assert "retrieval library" in run.tree
    assert run.span("execute_node find")["workflow.retrieval.documents"] == 1


async def test_an_empty_query_makes_no_call() -> None:
    library = Library("text")
    run = await Harness([Say("?")], retrievers={"library": library}).run(rag({"query": "  "}))
    assert (run.result.status, library.queries) == ("completed", [])


async def test_an_empty_list_of_document_ids_searches_nothing() -> None:
    library = Library("text")
    await Harness([Say("?")], retrievers={"library": library}).run(rag({"document_ids": []}))
    assert library.queries == []


@pytest.mark.parametrize("config", [{"document_ids": "{{ input.message }}"}, {"filter": "{{ input.message }}"}])
async def test_a_restriction_that_cannot_be_read_does_not_search_everything(config: JsonObject) -> None:
    library = Library("text")
    run = await Harness([Say("?")], retrievers={"library": library}).run(rag(config))
    assert (run.result.status, run.result.error_type) == ("failed", "type_mismatch")
    assert library.queries == []


async def test_an_outage_is_never_an_empty_context() -> None:
    class Down(Library):
        async def retrieve(self, query: RetrievalQuery) -> list[Passage]:
            raise ConnectionError("no route to the index")

    run = await Harness([Say("?")], retrievers={"library": Down()}).run(rag())
    assert (run.result.status, run.result.error_type) == ("failed", "ConnectionError")

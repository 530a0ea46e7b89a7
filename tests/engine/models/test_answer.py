"""An answer as it arrives from a LangChain model whose HTTP client is not ours: LangChain's usage is all there is."""

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk

from engine.models.answer import Answer
from engine.resources import AnswerLimits
from engine.usage import CallUsage


def reported(*usages: tuple[int, int]) -> tuple[int | None, int | None]:
    """The usage of a stream whose chunks have these input and output tokens."""
    answer = Answer(AnswerLimits())
    for read, written in usages:
        usage = UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)
        answer.add_chunk(AIMessageChunk(content="word ", usage_metadata=usage))
    report = answer.report()
    if report is None or report.usage is None:
        return None, None
    assert report.is_partial
    return report.usage.input_tokens, report.usage.output_tokens


@pytest.mark.parametrize(
    ("usages", "known"),
    [
        ([(12, 7)], (12, 7)),
        ([(12, 1), (12, 4), (12, 7)], (12, 7)),
        ([(12, 7), (12, 7)], (12, 7)),
        ([(12, 1), (0, 3), (0, 3)], (12, 7)),
        ([(0, 0), (12, 7)], (12, 7)),
        ([(0, 0)], (None, None)),
        ([], (None, None)),
    ],
    ids=["once", "growing", "twice", "in parts", "zeros first", "zeros for what is missing", "never"],
)
def test_chunks_add_up_unless_they_count_the_input_again(
    usages: list[tuple[int, int]], known: tuple[int | None, int | None]
) -> None:
    assert reported(*usages) == known


def test_a_filtered_answer_is_no_invalid_one() -> None:
    """To retry it would cost as much again, with the same end."""
    answer = Answer(AnswerLimits())
    piece = tool_call_chunk(name="add", args='{"a": ', id="1", index=0)
    answer.add_chunk(AIMessageChunk(content="", tool_call_chunks=[piece]))
    answer.add_chunk(AIMessageChunk(content="", response_metadata={"finish_reason": "content_filter"}))
    answer.end_of_stream(must_finish=True)
    assert answer.reply({"type": "object"}).finish_reason == "content_filter"


def test_the_parts_that_langchain_tells_apart_are_kept() -> None:
    answer = Answer(AnswerLimits())
    usage: UsageMetadata = {
        "input_tokens": 1_195,
        "output_tokens": 50,
        "total_tokens": 1_245,
        "input_token_details": {
            "audio": 5,
            "cache_read": 80,
            "cache_creation": 0,
            "ephemeral_5m_input_tokens": 100,  # type: ignore[typeddict-unknown-key]  # as langchain-anthropic writes it
            "ephemeral_1h_input_tokens": 1_000,
        },
        "output_token_details": {"audio": 3, "reasoning": 20},
    }
    answer.add_whole(AIMessage("Hello", usage_metadata=usage, response_metadata={"service_tier": "priority"}))
    reply = answer.reply(None)
    assert reply.usage == CallUsage.of_counts(
        {
            "input_tokens": 1_195,
            "output_tokens": 50,
            "cache_read_tokens": 80,
            "cache_write_tokens": 1_100,
            "reasoning_tokens": 20,
            "cache_write_1h_tokens": 1_000,
            "input_audio_tokens": 5,
            "output_audio_tokens": 3,
        }
    )
    assert reply.service_tier == "priority"

"""Pieces of tool calls are joined by index and id, in linear time."""

import time

from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk

from engine.models.tool_calls import JoinedCalls


def piece(args: str | None, index: int | None = 0, id: str | None = None, name: str | None = None) -> ToolCallChunk:
    """One piece, as LangChain gives it."""
    return tool_call_chunk(name=name, args=args, id=id, index=index)


def test_pieces_of_two_calls_that_arrive_in_turns_are_told_apart() -> None:
    joined = JoinedCalls()
    joined.add([piece("", 0, "a", "add"), piece("", 1, "b", "sub")])
    joined.add([piece('{"x":', 0), piece('{"y":', 1)])
    joined.add([piece(" 1}", 0), piece(" 2}", 1)])
    calls, invalid = joined.parsed()
    assert [(call["id"], call["name"], call["args"]) for call in calls] == [
        ("a", "add", {"x": 1}),
        ("b", "sub", {"y": 2}),
    ]
    assert (len(joined), invalid) == (2, [])


def test_another_id_or_no_index_is_another_call() -> None:
    joined = JoinedCalls()
    joined.add([piece('{"x": 1}', 0, "a", "add"), piece('{"x": 2}', 0, "b", "add"), piece(None, None, None, "add")])
    calls, _ = joined.parsed()
    assert [(call["id"], call["args"]) for call in calls] == [("a", {"x": 1}), ("b", {"x": 2}), (None, {})]


def test_arguments_that_are_no_object_are_invalid() -> None:
    joined = JoinedCalls()
    for number, text in enumerate(('{"x": ', "[1]", "[" * 10_000)):
        joined.add([piece(text, number, f"{number}", "add")])
    calls, invalid = joined.parsed()
    assert (calls, [call["id"] for call in invalid]) == ([], ["0", "1", "2"])


def test_many_pieces_take_time_in_proportion() -> None:
    joined, began = JoinedCalls(), time.process_time()
    size = sum(joined.add([piece("]")]) for _ in range(400_000))
    assert size == 400_000
    assert len(joined.parsed()[1]) == 1
    assert time.process_time() - began < 10  # what is quadratic takes hours


def test_everything_that_is_kept_of_a_piece_counts() -> None:
    assert JoinedCalls().add([piece("{}", id="call-1", name="add")]) == len("{}call-1add")

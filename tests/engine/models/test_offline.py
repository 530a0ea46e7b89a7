"""The offline model quotes the given texts, calls fitting tools, and otherwise describes itself."""

import pytest

from engine.documents.framing import frame, passage
from engine.errors import ModelFailure
from engine.models.offline import SELF_DESCRIPTION, OfflineModel
from engine.resources import ChatModel, Message, ModelReply, ModelRequest, ModelSettings, ToolSpec

MODEL: ChatModel = OfflineModel()
TEXTS = frame(
    passage("money.md > Cost", "Money is an integer of nano-USD. Cost is kept exact by adding integers, never floats.")
    + passage("birds.md", "The kea is a parrot.\n\n- It lives in the Alps of New Zealand.\n- It opens backpacks.")
)
CALCULATE = ToolSpec(
    "calculate",
    "Work out an arithmetic expression.",
    {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
)
TIME = ToolSpec(
    "current_time", "The date and time now.", {"type": "object", "properties": {"time_zone": {"type": "string"}}}
)
SEARCH = ToolSpec(
    "search_docs",
    "Search the documents for passages.",
    {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
)
CONVERT = ToolSpec(
    "convert_length",
    "Convert a length in metres to another unit.",
    {
        "type": "object",
        "properties": {"metres": {"type": "number"}, "unit": {"enum": ["feet", "miles"]}},
        "required": ["metres", "unit"],
    },
)


def user(text: str) -> Message:
    return {"id": "u", "role": "user", "content": text}


async def answer(*messages: Message, tools: tuple[ToolSpec, ...] = (), **settings: object) -> ModelReply:
    request = ModelRequest("", messages, tools, ModelSettings(**settings))  # type: ignore[arg-type] # by keyword
    reply = await MODEL.invoke(request)
    *tokens, last = [item async for item in MODEL.stream(request)]
    assert last == reply
    assert "".join(str(token) for token in tokens) == reply.text
    return reply


@pytest.mark.parametrize(
    ("question", "quote"),
    [
        ("How is cost kept exact?", "“Cost is kept exact by adding integers, never floats.” (money.md > Cost)"),
        ("Where does the kea live?", "“It lives in the Alps of New Zealand.” (birds.md)"),
    ],
)
async def test_it_quotes_the_sentence_that_fits_with_its_source(question: str, quote: str) -> None:
    assert quote in (await answer(user(TEXTS + question))).text


async def test_it_does_not_quote_an_echo_of_the_question() -> None:
    text = frame(passage("faq.md > What does a kea eat?", "What does a kea eat? Roots, leaves and lunch boxes."))

    assert (await answer(user(text + "What does a kea eat?"))).text.startswith("“Roots, leaves and lunch boxes.”")


async def test_it_says_when_the_given_texts_lack_the_answer() -> None:
    text = (await answer(user(TEXTS + "Who won the cup?"))).text

    assert text == "I find nothing about that in the given texts (money.md > Cost, birds.md)."


async def test_it_reads_a_text_inside_the_message() -> None:
    text = (await answer(user("The kea is a parrot. It eats roots. It sings badly. What does it eat?"))).text

    assert text == "“It eats roots.” (your message)"


async def test_it_quotes_earlier_messages() -> None:
    earlier: list[Message] = [user("My name is Ada."), {"id": "a", "role": "assistant", "content": "Hello"}]

    assert (await answer(*earlier, user("What is my name?"))).text == "“My name is Ada.” (earlier in this conversation)"


async def test_it_summarizes_with_the_central_sentences() -> None:
    text = (await answer(user(TEXTS + "Summarize this."))).text

    assert 0 < text.count(".") <= 3


@pytest.mark.parametrize("text", ["Hi!", "", "Write me a poem"])
async def test_without_any_text_it_describes_itself(text: str) -> None:
    assert (await answer(user(text))).text == SELF_DESCRIPTION


@pytest.mark.parametrize(
    ("question", "tool", "arguments"),
    [
        ("What is 2 * 21.5?", "calculate", {"expression": "2 * 21.5"}),
        ("How much is (3 + 4) times 2?", "calculate", {"expression": "(3 + 4) * 2"}),
        ("What time is it?", "current_time", {}),
        ("What is the time in Europe/Berlin?", "current_time", {"time_zone": "Europe/Berlin"}),
        ("How is cost kept exact?", "search_docs", {"query": "How is cost kept exact?"}),
        ("Convert 30 metres to feet", "convert_length", {"metres": 30, "unit": "feet"}),
    ],
)
async def test_it_calls_the_tool_that_fits_the_question(question: str, tool: str, arguments: dict[str, object]) -> None:
    reply = await answer(user(question), tools=(CONVERT, SEARCH, TIME, CALCULATE))

    assert [(call["name"], call["arguments"]) for call in reply.tool_calls] == [(tool, arguments)]
    assert (reply.text, reply.finish_reason) == ("", "tool_calls")


@pytest.mark.parametrize("text", ["Hello!", "What was on 2026-11-24 of interest?"])
async def test_it_calls_no_tool_that_does_not_fit(text: str) -> None:
    assert (await answer(user(text), tools=(CALCULATE, CONVERT))).tool_calls == ()


def tool_result(name: str, arguments: dict[str, str], content: str, *, is_error: bool = False) -> list[Message]:
    return [
        {
            "id": "a",
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c", "name": name, "arguments": {**arguments}}],
        },
        {"id": "t", "role": "tool", "tool_call_id": "c", "content": content, "is_error": is_error},
    ]


async def test_it_answers_from_the_result_of_a_tool_and_calls_none_again() -> None:
    result = tool_result("calculate", {"expression": "2 * 21.5"}, "43.0")

    reply = await answer(user("What is 2 * 21.5?"), *result, tools=(CALCULATE,))

    assert (reply.text, reply.tool_calls) == ("calculate(2 * 21.5) gives 43.0.", ())


async def test_it_quotes_the_passages_that_a_search_found() -> None:
    found = '[{"source": "birds.md", "text": "The kea is a parrot. It lives in the Alps.", "score": 1.0}]'

    reply = await answer(user("Where does the kea live?"), *tool_result("search_docs", {"query": "kea"}, found))

    assert "“It lives in the Alps.” (birds.md)" in reply.text


async def test_it_reports_a_failed_tool() -> None:
    failed = tool_result("calculate", {"expression": "1 / 0"}, "division by zero", is_error=True)

    assert (await answer(user("What is 1 / 0?"), *failed)).text == "calculate failed: division by zero"


async def test_it_counts_one_token_per_four_bytes() -> None:
    usage = (await answer(user("12345"))).usage

    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (2, -(-len(SELF_DESCRIPTION) // 4))
    assert MODEL.estimate_input_tokens(ModelRequest("", [user("12345")])) == 2


async def test_it_obeys_max_tokens_and_stop() -> None:
    cut, stopped = await answer(user("Hi"), max_tokens=2), await answer(user("Hi"), stop=("offline",))

    assert (cut.text, cut.finish_reason) == (SELF_DESCRIPTION[:8], "length")
    assert stopped.text == "I am spanloom's "


async def test_it_refuses_a_response_schema() -> None:
    with pytest.raises(ModelFailure, match="response_schema") as caught:
        await MODEL.invoke(ModelRequest("", [user("x")], (), ModelSettings(response_schema={"type": "object"})))

    assert caught.value.error_type == "bad_request"

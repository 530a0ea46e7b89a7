"""The scripted LangChain model passes LangChain's own tests, and our adapter keeps its answers unchanged."""

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests

from engine.errors import ModelFailure
from engine.models.langchain import LangChainModel
from engine.resources import ModelReply, ModelRequest, ToolSpec
from engine.testing.scripted_chat import ScriptedChat
from engine.usage import Usage

ASK = ModelRequest("", [{"id": "1", "role": "user", "content": "hi"}], (ToolSpec("add", "Add.", {"type": "object"}),))


class TestScriptedChat(ChatModelUnitTests):
    """LangChain's own tests of a chat model."""

    @property
    def chat_model_class(self) -> type[ScriptedChat]:
        return ScriptedChat

    @property
    def chat_model_params(self) -> dict[str, object]:
        return {"model": "scripted-1"}

    @pytest.mark.xfail(reason="it reads no environment")
    def test_init_from_env(self) -> None:
        assert self.init_from_env_params[0]

    @pytest.mark.xfail(reason="it is not to be serialized: loading runs code")
    def test_serdes(self, model: BaseChatModel, snapshot: object) -> None:
        assert model.is_lc_serializable()


@pytest.mark.parametrize(
    "chat",
    [
        ScriptedChat(text="Two words"),
        ScriptedChat(text="", tool="add", arguments={"a": [1, 2]}),
        ScriptedChat(text="Let me see.", tool="add"),
        ScriptedChat(text="Free", usage=None),
    ],
)
async def test_whole_and_streamed_answers_are_the_same(chat: ScriptedChat) -> None:
    model = LangChainModel(chat, provider="scripted", model="scripted-1")

    whole = await model.invoke(ASK)
    *tokens, streamed = [item async for item in model.stream(ASK)]

    assert whole == streamed
    assert "".join(str(token) for token in tokens) == whole.text
    assert (whole.usage and Usage() + whole.usage) == chat.usage
    assert [(call["name"], call["arguments"]) for call in whole.tool_calls] == (
        [(chat.tool, chat.arguments)] if chat.tool else []
    )


async def test_a_failure_midway_comes_after_the_text() -> None:
    chat = ScriptedChat(text="Half an", failure=ConnectionResetError("reset"))
    answer = aiter(LangChainModel(chat, provider="scripted", model="scripted-1").stream(ASK))

    assert [await anext(answer), await anext(answer)] == ["Half ", "an"]
    with pytest.raises(ModelFailure) as caught:
        await anext(answer)
    assert caught.value.error_type == "connection"


async def test_a_stream_is_closed_when_its_reader_leaves() -> None:
    stream = LangChainModel(ScriptedChat(text="a b c"), provider="scripted", model="scripted-1").stream(ASK)

    async for item in stream:
        assert not isinstance(item, ModelReply)
        break

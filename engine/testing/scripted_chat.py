"""A LangChain chat model that follows a script, for tests of code that uses LangChain.

Unlike LangChain's own fake models it reports usage when streaming, accepts tools, and can fail midway.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCall, ToolCallChunk, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from engine.documents.json_text import to_json
from engine.graph import JsonObject
from engine.retrieval.lexical import words
from engine.testing.models import USAGE
from engine.usage import Usage

_CALL_ID = "call-1"


class ScriptedChat(BaseChatModel):
    """Answers every call with `text`, then with a call of `tool` if it is set; `failure` is raised after the text."""

    text: str = "Hello"
    tool: str | None = None
    arguments: JsonObject = Field(default_factory=dict)
    usage: Usage | None = USAGE
    failure: Exception | None = None
    model: str = "scripted-1"

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind the tools to each call in the format in which a provider would receive them."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self.failure is not None:
            raise self.failure
        calls = [ToolCall(name=self.tool, args=self.arguments, id=_CALL_ID)] if self.tool else []
        message = AIMessage(
            content=self.text, tool_calls=calls, usage_metadata=self._usage(), response_metadata=self._metadata()
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        yield from self._chunks()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._chunks():
            yield chunk

    def _chunks(self) -> Iterator[ChatGenerationChunk]:
        for word in words(self.text):
            yield _chunk(AIMessageChunk(content=word))
        if self.failure is not None:
            raise self.failure
        for piece in self._call_pieces():
            yield _chunk(AIMessageChunk(content="", tool_call_chunks=[piece]))
        yield _chunk(
            AIMessageChunk(
                content="",
                usage_metadata=self._usage(),
                response_metadata=self._metadata(),
                chunk_position="last",
            )
        )

    def _call_pieces(self) -> list[ToolCallChunk]:
        """Return the tool call as providers stream it: the name first, then the arguments in two pieces."""
        if self.tool is None:
            return []
        arguments = to_json(self.arguments).decode()
        half = len(arguments) // 2
        return [
            tool_call_chunk(name=self.tool, args="", id=_CALL_ID, index=0),
            tool_call_chunk(name=None, args=arguments[:half], id=None, index=0),
            tool_call_chunk(name=None, args=arguments[half:], id=None, index=0),
        ]

    def _metadata(self) -> dict[str, str]:
        return {"finish_reason": "tool_calls" if self.tool else "stop", "model_name": self.model}

    def _usage(self) -> UsageMetadata | None:
        if self.usage is None:
            return None
        read, written = self.usage.input_tokens or 0, self.usage.output_tokens or 0
        return UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)


def _chunk(message: AIMessageChunk) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=message)

"""Tool calls that arrive in pieces, joined in linear time.

LangChain joins chunks in pairs and parses the arguments after each, which is quadratic; arguments that are no JSON it
parses again without the last letter until they are, which is quadratic for every piece.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from langchain_core.messages import InvalidToolCall
from langchain_core.messages import ToolCall as LangChainToolCall
from langchain_core.messages.tool import ToolCallChunk


@dataclass(slots=True)
class _Pieces:
    id: str | None
    names: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)


class JoinedCalls:
    """The calls of one answer so far, in the order in which they began."""

    def __init__(self) -> None:
        self._all: list[_Pieces] = []
        self._by_index: dict[int | str, _Pieces] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, chunks: Iterable[ToolCallChunk]) -> int:
        """Add the pieces of a chunk and return their size in letters."""
        size = 0
        for chunk in chunks:
            name, arguments = chunk["name"] or "", chunk["args"] or ""
            pieces = self._pieces_of(chunk)
            pieces.names.append(name)
            pieces.arguments.append(arguments)
            size += len(chunk["id"] or "") + len(name) + len(arguments)
        return size

    def parsed(self) -> tuple[list[LangChainToolCall], list[InvalidToolCall]]:
        """The complete calls, and those whose arguments are not a JSON object."""
        calls: list[LangChainToolCall] = []
        invalid: list[InvalidToolCall] = []
        for pieces in self._all:
            name, text = "".join(pieces.names), "".join(pieces.arguments)
            arguments = _parsed(text)
            if isinstance(arguments, dict):
                calls.append(LangChainToolCall(name=name, args=arguments, id=pieces.id, type="tool_call"))
            else:
                invalid.append(
                    InvalidToolCall(name=name, args=text, id=pieces.id, error=None, type="invalid_tool_call")
                )
        return calls, invalid

    def _pieces_of(self, chunk: ToolCallChunk) -> _Pieces:
        """The call that a chunk belongs to: that of its index, unless it names another id."""
        index, id_ = chunk["index"], chunk["id"] or None
        known = self._by_index.get(index) if index is not None else None
        if known is not None and (id_ is None or known.id is None or known.id == id_):
            known.id = known.id or id_
            return known
        begun = _Pieces(id_)
        self._all.append(begun)
        if index is not None:
            self._by_index[index] = begun
        return begun


def _parsed(text: str) -> object:
    """The arguments, which none of our servers may leave out but some do; null if they are no JSON."""
    try:
        return json.loads(text or "{}", strict=False)
    except (ValueError, RecursionError):
        return None

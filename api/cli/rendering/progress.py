"""Shows a running execution: its nodes and tool calls, from the events."""

from dataclasses import dataclass, field
from typing import Literal

from rich.text import Text

from api.cli.rendering.formatting import duration
from engine.events import EventType, ExecutionEvent
from engine.security.printable import one_line

State = Literal["running", "completed", "failed", "retrying", "handled"]

_MARKS: dict[State, tuple[str, str]] = {
    "running": ("•", "cyan"),
    "completed": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "retrying": ("↻", "yellow"),
    "handled": ("!", "yellow"),
}
_HIDDEN_TYPES = frozenset({"start", "end"})
"""These nodes do nothing, and are shown only if they fail."""


@dataclass(slots=True)
class _Entry:
    """A visit of a node, or a tool call below it."""

    name: str
    depth: int
    began_at: float
    state: State = "running"
    duration_ms: float | None = None
    note: str = ""
    is_hidden: bool = False

    def line(self, now: float) -> Text:
        mark, style = _MARKS[self.state]
        lasted = self.duration_ms if self.duration_ms is not None else (now - self.began_at) * 1_000
        text = Text("  " * (self.depth + 1), no_wrap=True, overflow="ellipsis")
        text.append(f"{mark} ", style=style)
        text.append(one_line(self.name).ljust(26 - 2 * self.depth))
        text.append(f"{duration(lasted):>9}", style="dim")
        if self.note:
            text.append(f"  {one_line(self.note)}", style="dim" if self.state == "completed" else style)
        return text


@dataclass(slots=True)
class Progress:
    """The nodes and tool calls so far."""

    _entries: list[_Entry] = field(default_factory=list)
    _open_nodes: dict[tuple[str, int], _Entry] = field(default_factory=dict)
    _open_calls: dict[str, _Entry] = field(default_factory=dict)

    def apply(self, event: ExecutionEvent) -> Text | None:
        """Apply an event. Returns a line for logs if the event ended a node or a call."""
        entry = self._changed(event)
        return None if entry is None or entry.is_hidden else entry.line(event.at)

    def view(self, now: float, *, at_most: int = 40) -> Text:
        """The newest entries, at most `at_most`."""
        shown = [entry for entry in self._entries if not entry.is_hidden]
        lines = [entry.line(now) for entry in shown[-at_most:]]
        if len(shown) > at_most:
            lines.insert(0, Text(f"  … {len(shown) - at_most} earlier", style="dim"))
        return Text("\n", no_wrap=True, overflow="ellipsis").join(lines)

    def _changed(self, event: ExecutionEvent) -> _Entry | None:
        """The entry that the event ends or changes; null if it starts one or concerns none."""
        data = event.data
        match event.type:
            case EventType.NODE_STARTED:
                self._start_node(event)
            case EventType.TOOL_CALL:
                entry = _Entry(str(data["tool"]), 1, event.at)
                self._open_calls[str(data["call_id"])] = entry
                self._entries.append(entry)
            case EventType.TOOL_RESULT:
                return self._end_call(event)
            case EventType.NODE_COMPLETED | EventType.NODE_FAILED | EventType.NODE_RETRYING:
                return self._change_node(event)
        return None

    def _start_node(self, event: ExecutionEvent) -> None:
        entry = _Entry(event.node_id or "", 0, event.at, is_hidden=event.node_type in _HIDDEN_TYPES)
        self._open_nodes[_key(event)] = entry
        self._entries.append(entry)

    def _end_call(self, event: ExecutionEvent) -> _Entry | None:
        entry = self._open_calls.pop(str(event.data["call_id"]), None)
        if entry is None:
            return None
        entry.state = "completed" if event.data["ok"] else "failed"
        entry.duration_ms = _number(event, "duration_ms")
        entry.note = str(event.data["error_type"] or "")
        return entry

    def _change_node(self, event: ExecutionEvent) -> _Entry | None:
        entry = self._open_nodes.get(_key(event))
        if entry is None:
            return None
        data = event.data
        if event.type is EventType.NODE_RETRYING:
            entry.state = "retrying"
            entry.note = f"{data['error_type']}, retrying in {duration(_number(event, 'delay_ms'))}"
            return entry
        del self._open_nodes[_key(event)]
        entry.duration_ms = (
            _number(event, "duration_ms") if "duration_ms" in data else (event.at - entry.began_at) * 1e3
        )
        if event.type is EventType.NODE_COMPLETED:
            entry.state = "handled" if data["degraded"] else "completed"
            entry.note = f"→ {data['label']}" if data["label"] else ""
        else:
            entry.state = "handled" if data["handled"] else "failed"
            entry.note = str(data["error_type"])
            entry.is_hidden = False
        return entry


def _key(event: ExecutionEvent) -> tuple[str, int]:
    return event.path or event.node_id or "", event.visit or 0


def _number(event: ExecutionEvent, name: str) -> float:
    value = event.data[name]
    assert isinstance(value, int | float)
    return value

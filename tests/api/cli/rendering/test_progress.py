"""The live tree of a running execution, from its events."""

from api.cli.rendering.progress import Progress
from engine.events import EventType, ExecutionEvent
from engine.graph import JsonObject
from tests.api.cli.rendering.samples import drawn


def _event(
    type: EventType, data: JsonObject, node: str = "answer", kind: str = "model", at: float = 0
) -> ExecutionEvent:
    return ExecutionEvent(type, 1, "id", 1, at, data, node, kind, node, 1, 1)


def test_the_live_tree_shows_nodes_and_tools_and_hides_start_and_end() -> None:
    progress = Progress()
    for event in (
        _event(EventType.NODE_STARTED, {}, "start", "start"),
        _event(EventType.NODE_COMPLETED, {"duration_ms": 0, "label": None, "degraded": False}, "start", "start"),
        _event(EventType.NODE_STARTED, {}, "tools", "tools"),
        _event(EventType.TOOL_CALL, {"call_id": "c", "tool": "calculate"}, "tools", "tools"),
        _event(
            EventType.TOOL_RESULT, {"call_id": "c", "ok": False, "error_type": "timeout", "duration_ms": 30}, "tools"
        ),
        _event(EventType.NODE_COMPLETED, {"duration_ms": 31, "label": "done", "degraded": False}, "tools", "tools"),
        _event(EventType.NODE_STARTED, {}),
    ):
        progress.apply(event)
    assert drawn(progress.view(1.5)) == [
        "  ✓ tools                         31 ms  → done",
        "    ✗ calculate                   30 ms  timeout",
        "  • answer                       1.50 s",
    ]


def test_a_failed_start_node_is_shown_all_the_same() -> None:
    progress = Progress()
    progress.apply(_event(EventType.NODE_STARTED, {}, "end", "end"))
    failed: JsonObject = {"error_type": "template_error", "message": "m", "attempts": 1, "handled": False}
    line = progress.apply(_event(EventType.NODE_FAILED, failed, "end", "end", at=0.002))
    assert line is not None
    assert line.plain.split() == ["✗", "end", "2.0", "ms", "template_error"]

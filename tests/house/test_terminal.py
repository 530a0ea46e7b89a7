"""Nothing reaches a terminal but through the guard of `api/cli/streams.py`."""

import ast
from collections.abc import Iterator

import pytest

from tests.house.lock import ROOT
from tests.house.sources import modules

_WAYS_AROUND = frozenset({"buffer", "__stdout__", "__stderr__", "exact", "Console", "RichHandler", "fdopen", "openpty"})
_MAY = {
    "api/cli/streams.py": {"exact"},
    "api/cli/terminal.py": {"exact", "Console"},
}


def ways_around(source: str) -> Iterator[str]:
    """Names in the code that write to a terminal past the guard."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name in _WAYS_AROUND:
                yield name
            if ast.unparse(node.func) == "os.write" and isinstance(node.args[0], ast.Constant):
                yield "os.write"
        elif isinstance(node, ast.Attribute) and node.attr in _WAYS_AROUND - {"Console"}:
            yield node.attr


def test_only_the_terminal_module_goes_around_the_guard() -> None:
    found = {module: set(ways_around((ROOT / module).read_text())) for module in modules() if module.startswith("api/")}
    allowed = {module: names - _MAY.get(module, set()) for module, names in found.items()}
    assert {module: names for module, names in allowed.items() if names} == {}


@pytest.mark.parametrize(
    "line",
    [
        "Console(stderr=True)",
        "sys.stdout.buffer.write(b'')",
        "sys.__stderr__",
        "os.write(1, b'')",
        "exact(s)",
    ],
)
def test_a_way_around_is_seen(line: str) -> None:
    assert list(ways_around(line)) != []


def test_commands_run_their_work_where_ctrl_c_is_handled() -> None:
    calls = {
        module: (ROOT / module).read_text().count("asyncio.run(")
        for module in modules()
        if module.startswith("api/cli/") and module != "api/cli/interrupts.py"
    }
    assert {module: count for module, count in calls.items() if count} == {}

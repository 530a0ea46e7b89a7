"""The tree is the table of contents: small rooms, modules on the map, tests where their modules are."""

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.lock import ROOT
from tests.house.sources import PACKAGES, modules

MOST_MODULES = 14
MOST_LINES = 450
MOST_FUNCTION_LINES = 45
P90_FUNCTION_LINES = 17
GENERATED = "api/client/operations/"
"""Written by docs/generator/client.py: a method has as many lines as its route has parameters."""


def written() -> list[str]:
    """The modules that people write and read."""
    return [module for module in modules() if not module.startswith(GENERATED)]


def on_the_map(text: str) -> Counter[str]:
    """The modules that the code map of ARCHITECTURE.md names: rows of a room, `engine/nodes/`, and its modules."""
    section = text.partition("\n## Code map\n")[2].partition("\n## ")[0]
    named: Counter[str] = Counter()
    for row in section.splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if len(cells) == 2 and (room := re.fullmatch(r"`([\w/]+/)`", cells[0])):
            named.update(f"{room[1]}{name}.py" for name in re.findall(r"`(\w+)`", cells[1]))
    return named


def test_the_map_names_every_module_once() -> None:
    assert on_the_map((ROOT / "ARCHITECTURE.md").read_text()) == Counter(modules())


def test_the_map_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = {f"{module.rpartition('/')[0]}/" for module in modules()}
    assert [room for room in sorted(rooms) if f"| `{room}` |" not in text] == []


def test_a_module_that_is_not_on_the_map_is_seen() -> None:
    text = (
        "\n## Code map\n| where | modules |\n|---|---|\n| `engine/nodes/` | `base` of every type, `loop` goes round |\n"
    )
    assert on_the_map(text) == Counter({"engine/nodes/base.py": 1, "engine/nodes/loop.py": 1})


def test_a_package_has_few_modules() -> None:
    rooms = Counter(module.rpartition("/")[0] for module in written())
    assert {room: count for room, count in rooms.items() if count > MOST_MODULES} == {}


def test_a_module_is_short() -> None:
    lines = {module: len((ROOT / module).read_text().splitlines()) for module in written()}
    assert {module: count for module, count in lines.items() if count > MOST_LINES} == {}


def test_functions_are_short() -> None:
    lengths = {f"{module}:{name}": lines for module in written() for name, lines in functions(ROOT / module)}
    ordered = sorted(lengths.values())
    assert {name: lines for name, lines in lengths.items() if lines > MOST_FUNCTION_LINES} == {}
    assert ordered[len(ordered) * 9 // 10] <= P90_FUNCTION_LINES


def test_a_module_gives_a_name_once() -> None:
    assert [line for module in modules() for line in given_twice((ROOT / module).read_text())] == []


def test_a_name_that_is_given_twice_is_seen() -> None:
    assert given_twice("A = 1\nB: int = 2\nA = 3\nB = 4\nC = 5\n") == ["A", "B"]


def given_twice(text: str) -> list[str]:
    """The constants that a module assigns more than once: the first value is lost without a word."""
    assigned = [node for node in ast.parse(text).body if isinstance(node, ast.Assign | ast.AnnAssign)]
    targets = [node.targets if isinstance(node, ast.Assign) else [node.target] for node in assigned]
    names = Counter(target.id for each in targets for target in each if isinstance(target, ast.Name))
    return sorted(name for name, times in names.items() if times > 1)


def functions(file: Path) -> Iterator[tuple[str, int]]:
    """Name and lines of each function of a module, decorators and docstring left out."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            length = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            yield f"{node.name}:{node.lineno}", length + (node.body[0].lineno - node.lineno)


def mirrored(test: str) -> str:
    """The module that a test file is about: `tests/engine/nodes/test_loop.py` -> `engine/nodes/loop.py`."""
    return test.removeprefix("tests/").replace("/test_", "/")


def unmirrored(tests: list[str], known: set[str]) -> list[str]:
    """Test files below tests/<package>/ that are about no module."""
    return [test for test in tests if mirrored(test) not in known]


def test_every_test_file_has_its_module() -> None:
    tests = [
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in sorted((ROOT / "tests" / package).rglob("test_*.py"))
    ]
    assert len(tests) > 50
    assert unmirrored(tests, set(modules())) == []


def test_a_test_file_without_a_module_is_seen() -> None:
    known = {"engine/nodes/loop.py"}
    assert unmirrored(["tests/engine/nodes/test_loop.py", "tests/engine/test_loop.py"], known) == [
        "tests/engine/test_loop.py"
    ]


def contracts() -> list[dict[str, object]]:
    """The import contracts of pyproject.toml."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found: list[dict[str, object]] = document["tool"]["importlinter"]["contracts"]
    return found


@pytest.mark.parametrize("contract", contracts(), ids=lambda contract: str(contract["name"]))
def test_a_contract_has_no_hole(contract: dict[str, object]) -> None:
    assert "ignore_imports" not in contract
    if "containers" in contract:
        assert contract["exhaustive"] is True
        assert not contract.get("exhaustive_ignores")
        layers = contract["layers"]
        assert isinstance(layers, list)
        assert [layer for layer in layers if "(" in layer] == []


def test_every_larger_room_has_a_contract() -> None:
    held = {str(container) for contract in contracts() for container in contract.get("containers", ())}  # type: ignore[attr-defined]  # a list
    rooms = Counter(module.rpartition("/")[0].replace("/", ".") for module in modules())
    larger = {room for room, count in rooms.items() if count >= 4}
    assert larger - held == set()

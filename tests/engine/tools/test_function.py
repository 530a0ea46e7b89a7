"""Tools made of Python functions."""

from decimal import Decimal

import pytest

from engine.tools.function import function_tool
from tests.engine.tools.calls import call


def area(width: Decimal, height: Decimal = Decimal(2)) -> Decimal:
    """Work out the area of a rectangle."""
    return width * height


async def greet(name: str) -> dict[str, str]:
    """Greet somebody by name."""
    return {"text": f"Hello {name}"}


async def test_a_function_becomes_a_tool() -> None:
    tool, other = function_tool(area, effect="read"), function_tool(greet, name="hello")

    assert (tool.spec.name, tool.spec.description) == ("area", "Work out the area of a rectangle.")
    assert tool.spec.parameters["required"] == ["width"]
    assert (tool.effect, other.effect, other.spec.name) == ("read", "write", "hello")
    assert await call(tool, width="1.5") == "3.0"
    assert await call(other, name="Ada") == {"text": "Hello Ada"}


def test_a_function_without_a_docstring_is_refused() -> None:
    with pytest.raises(ValueError, match="docstring"):
        function_tool(lambda: None)

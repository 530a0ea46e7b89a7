"""Give an agent a tool of your own: any typed function with a docstring.

python own_tool.py 'What is the stock of article A7?'
"""

import asyncio
import sys
from typing import Literal

from spanloom import ExecutionEngine, ExecutionRequest, function_tool, local_resources

STOCK = {"A7": 12, "B3": 0}


def stock(article: Literal["A7", "B3"]) -> int:
    """Say how many pieces of an article are in stock."""
    return STOCK[article]


async def main(message: str) -> None:
    """Run the template `tool_agent` with this tool; `effect="read"` says that a call may be repeated."""
    source = {"kind": "template", "template": "tool_agent", "params": {"allowed_tools": ["stock", "calculate"]}}
    request = ExecutionRequest.model_validate({"source": source, "input": {"message": message}})
    async with local_resources(tools=[function_tool(stock, effect="read")]) as resources:
        result = await ExecutionEngine(resources).execute(request)
    print(result.response)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

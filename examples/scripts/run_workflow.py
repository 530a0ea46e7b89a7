"""Run a workflow from a file and print its answer, tokens and cost.

    python run_workflow.py WORKFLOW.json 'MESSAGE'

No key is needed: without one the offline model answers. Nothing is stored.
"""

import asyncio
import json
import sys
from pathlib import Path

from spanloom import ExecutionEngine, ExecutionRequest, local_resources


async def main(graph: object, folder: Path, message: str) -> None:
    """Run the workflow once; it may search the folder of its file."""
    source = {"kind": "graph", "graph": graph}
    request = ExecutionRequest.model_validate({"source": source, "input": {"message": message}})
    async with local_resources(files_roots=[folder]) as resources:
        result = await ExecutionEngine(resources).execute(request)
    print(f"{result.status}: {result.response or result.error_message}")
    print(f"{result.usage.total_tokens} tokens, {(result.cost_nano_usd or 0) / 1e9:.9f} USD")


if __name__ == "__main__":
    file = Path(sys.argv[1])
    asyncio.run(main(json.loads(file.read_text()), file.parent, sys.argv[2]))

"""Follow an execution: print each node as it runs, and the answer as it is written.

python stream_events.py 'MESSAGE'
"""

import asyncio
import sys

from spanloom import EventType, ExecutionEngine, ExecutionRequest, local_resources


async def main(message: str) -> None:
    """Stream the template `universal_chat`."""
    source = {"kind": "template", "template": "universal_chat"}
    request = ExecutionRequest.model_validate({"source": source, "input": {"message": message}})
    async with local_resources() as resources:
        async for event in ExecutionEngine(resources).stream(request):
            if event.type == EventType.TOKEN:
                print(event.data["text"], end="", flush=True)
            elif event.node_id:
                print(f"\n[{event.type} {event.node_id}]")
            else:
                print(f"\n[{event.type}]")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

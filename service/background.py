"""Tasks that run beside requests, and how they end."""

import asyncio

PATIENCE = 0.1


async def end(task: asyncio.Task[None] | None) -> None:
    """Cancels a task until it is over: `asyncio.wait_for` of Python 3.11 may swallow a cancellation."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=PATIENCE)

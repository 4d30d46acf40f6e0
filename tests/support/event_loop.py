"""An event loop of one's own: Pulumi's mocks take the thread's current one, which others close or take away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def own_event_loop() -> Iterator[None]:
    """Make a new loop the thread's current one, and close it at the end; there is none then, as before the first.

    The mocks answer in the loop's worker threads and would make a loop in each, which nobody closes: when the
    collector finds its socket before the loop, the loop's end is an error. So each thread gets one that is closed here.
    """
    loop = asyncio.new_event_loop()
    loops = [loop]

    def one_more() -> None:
        made = asyncio.new_event_loop()
        asyncio.set_event_loop(made)
        loops.append(made)

    loop.set_default_executor(ThreadPoolExecutor(initializer=one_more))
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.run_until_complete(loop.shutdown_default_executor())
        for one in loops:
            one.close()

"""An event loop of one's own: Pulumi's mocks take the thread's current one, which others close or take away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_event_loop() -> Iterator[None]:
    """Make a new loop the thread's current one, and close it at the end; there is none then, as before the first."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()

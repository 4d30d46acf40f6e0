"""A whole parent between a fake enclave and a fake worker, as usual and with small limits."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.parent_host import Host, free_port, host, running

__all__ = ["free_port", "host", "quick_host"]


@pytest.fixture
async def quick_host(tmp_path: Path, free_port: int) -> AsyncIterator[Host]:
    """A parent with one slot, no queue, and little patience."""
    limits = {"MAX_IN_FLIGHT": "1", "MAX_QUEUE": "0", "IDLE_TIMEOUT_S": "0.5", "DRAIN_TIMEOUT_S": "0.3"}
    async with running(Host(tmp_path, free_port, limits)) as host:
        yield host

"""The load balancers' health checks: GET on each router's health URL, at an interval, each with its own deadline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus

import aiohttp

from stacks.local.accelerator.settings import HealthSettings
from stacks.local.accelerator.state import AcceleratorState

logger = logging.getLogger(__name__)


async def check(session: aiohttp.ClientSession, url: str, timeout_s: float) -> bool:
    """Say whether `url` answers with a status from 200 to 399 within `timeout_s` (the balancer's default matcher).

    A balancer does not verify the target's certificate.
    """
    try:
        async with asyncio.timeout(timeout_s), session.get(url, ssl=False, allow_redirects=False) as response:
            return HTTPStatus.OK <= response.status < HTTPStatus.BAD_REQUEST
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


OnUnhealthy = Callable[[str], None]


async def probe(state: AcceleratorState, settings: HealthSettings, *, on_unhealthy: OnUnhealthy) -> None:
    """Check every endpoint for ever, calling `on_unhealthy` with the name of one that turns; ends by cancellation."""
    # A connection a check: a kept-alive one would pass for a router that no longer accepts.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        for name, endpoint in state.endpoints.items():
            group.create_task(
                _probe_one(session, state, name, endpoint.health_url, settings, on_unhealthy), name=f"probe {name}"
            )


async def _probe_one(
    session: aiohttp.ClientSession,
    state: AcceleratorState,
    name: str,
    url: str,
    settings: HealthSettings,
    on_unhealthy: OnUnhealthy,
) -> None:
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        passed = await check(session, url, settings.timeout_s)
        if state.record_check(name, passed=passed):
            logger.info("endpoint %s is now %s", name, "healthy" if passed else "unhealthy")
            if not passed:
                on_unhealthy(name)
        await asyncio.sleep(max(0.0, began + settings.interval_s - loop.time()))

"""`mrgc router`: one router, from its environment."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, NoReturn

from dataplane.mesh.lifecycle import Stop, run_sidecar
from dataplane.registry.dynamodb import DynamoRegistry, dynamodb_client
from dataplane.router.app import Router
from dataplane.router.settings import RouterSettings
from observability.tracing import Telemetry

SERVICE = "router"


async def main(settings: RouterSettings, stop: Stop) -> None:
    """Route until `stop`, then drain. SIGHUP reads the tenants file again."""
    loop = asyncio.get_running_loop()
    registry = DynamoRegistry(dynamodb_client(settings.mrgc_region), table=settings.registry_table)
    telemetry = Telemetry.from_environment(SERVICE, region=settings.mrgc_region, instance_id=settings.instance_id)
    try:
        async with Router(settings, registry=registry, telemetry=telemetry) as router:
            loop.add_signal_handler(signal.SIGHUP, router.tenants.reload)
            try:
                await _either(stop.wait(), router.failed())
                await router.drain()
            finally:
                loop.remove_signal_handler(signal.SIGHUP)
    finally:
        await asyncio.to_thread(telemetry.shutdown)


async def _either(stopped: Coroutine[Any, Any, None], failed: Coroutine[Any, Any, None]) -> None:
    """Return when `stopped` does, or raise what `failed` raises, whichever is first."""
    tasks = {asyncio.ensure_future(stopped), asyncio.ensure_future(failed)}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def command() -> NoReturn:
    """Run one router from its environment: takes tenants' requests and forwards each to the better of two hosts."""
    run_sidecar(RouterSettings, main, service=SERVICE)


if __name__ == "__main__":
    command()

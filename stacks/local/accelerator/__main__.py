"""Run the accelerator emulator: `python -m stacks.local.accelerator SETTINGS.json`."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

from aiohttp import web

from dataplane.mesh.address import TcpAddress, start_server
from dataplane.mesh.logs import configure_logs
from dataplane.mesh.settings import EX_USAGE
from dataplane.protocol.errors import MrgcError, SettingsError
from stacks.local.accelerator.admin import application
from stacks.local.accelerator.probe import probe
from stacks.local.accelerator.relay import Relay
from stacks.local.accelerator.settings import AcceleratorSettings, read_settings
from stacks.local.accelerator.state import AcceleratorState


async def serve(settings: AcceleratorSettings, stop: asyncio.Event) -> None:
    """Serve until `stop`; raises `AddressError` or `OSError` when a port is taken."""
    state = AcceleratorState(settings, draw=random.random)
    relay = Relay(state, connect_timeout_s=settings.connect_timeout_s)
    server = await start_server(relay.handle, TcpAddress(settings.listen_host, settings.listen_port))
    runner = web.AppRunner(application(state), access_log=None, shutdown_timeout=1.0)
    try:
        await runner.setup()
        await web.TCPSite(runner, settings.admin_host, settings.admin_port).start()
        on_unhealthy = relay.cut if settings.cut_unhealthy else _leave
        probing = asyncio.create_task(probe(state, settings.health, on_unhealthy=on_unhealthy), name="probe")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({probing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if probing.done():
                probing.result()  # Ends only by a fault: raise it.
        finally:
            for task in (probing, stopping):
                task.cancel()
            await asyncio.gather(probing, stopping, return_exceptions=True)
    finally:
        server.close()
        await relay.close()
        await server.wait_closed()
        await runner.cleanup()


def _leave(_endpoint: str) -> None:
    """Leave connections to an unhealthy target alone: its router may be draining."""


async def _run(settings: AcceleratorSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop)


def main(arguments: list[str]) -> int:
    """Run from the command line; returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m stacks.local.accelerator SETTINGS.json\n")
        return EX_USAGE
    configure_logs("accelerator", "INFO")
    try:
        asyncio.run(_run(read_settings(Path(arguments[0]))))
    except SettingsError as error:
        sys.stderr.write(f"accelerator: bad configuration\n{error}\n")
        return EX_USAGE
    except (MrgcError, OSError) as error:
        sys.stderr.write(f"accelerator: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

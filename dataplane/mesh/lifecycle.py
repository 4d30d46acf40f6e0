"""How a sidecar starts and stops: settings before anything binds, signals to a bounded drain, one exit code each.

Exit codes: 0 stopped as asked, 1 failed, 64 (`EX_USAGE`) configured wrongly.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from dataplane.mesh.logs import configure_logs, log_unhandled
from dataplane.mesh.settings import EX_USAGE, SidecarSettings, load_settings
from dataplane.protocol.errors import MrgcError, SettingsError

S = TypeVar("S", bound=SidecarSettings)

DRAIN_MARGIN_S = 10.0
"""What a sidecar may take beyond its drain time (closing sockets, flushing spans) before it is ended."""

logger = logging.getLogger(__name__)


class Stop:
    """Tells a sidecar that it was asked to stop; the first SIGTERM or SIGINT sets it."""

    def __init__(self) -> None:
        """Start unset."""
        self._event = asyncio.Event()

    @property
    def requested(self) -> bool:
        """Whether the sidecar was asked to stop."""
        return self._event.is_set()

    def request(self) -> None:
        """Ask the sidecar to stop; asking twice is the same as once."""
        self._event.set()

    async def wait(self) -> None:
        """Wait until the sidecar is asked to stop."""
        await self._event.wait()


Main = Callable[[S, Stop], Coroutine[Any, Any, None]]


def run_sidecar(settings_class: type[S], main: Main[S], *, service: str) -> NoReturn:
    """Parse the environment, run `main` until it returns, and exit.

    `main` must return within `drain_timeout_s` (plus `DRAIN_MARGIN_S`) after `Stop`; then it is cancelled. A second
    signal cancels it at once.
    """
    try:
        settings = load_settings(settings_class)
    except SettingsError as error:
        sys.stderr.write(f"mrgc {service}: bad configuration\n{error}\n")
        sys.exit(EX_USAGE)
    configure_logs(service, settings.log_level)
    try:
        asyncio.run(supervise(main, settings, last=True))
    except SettingsError as error:
        # A file that a variable names is configuration too: found out later, reported the same way.
        sys.stderr.write(f"mrgc {service}: bad configuration\n{error}\n")
        sys.exit(EX_USAGE)
    except MrgcError as error:
        sys.stderr.write(f"mrgc {service}: {error}\n")
        sys.exit(1)
    except OSError as error:
        sys.stderr.write(f"mrgc {service}: {error.strerror or error}.\n")
        sys.exit(1)
    sys.exit(0)


async def supervise(main: Main[S], settings: S, *, last: bool = False) -> None:
    """Run `main`, turning signals into `Stop` and bounding the time after it.

    Where it is the `last` that the process does, signals that come after it are ignored: the process ends already, and
    a signal in that moment must not make an orderly end look like a death.
    """
    stop = Stop()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_unhandled)
    task = asyncio.create_task(main(settings, stop), name="sidecar")

    def asked() -> None:
        if stop.requested:
            task.cancel()
        stop.request()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            limit = settings.drain_timeout_s + DRAIN_MARGIN_S
            _, pending = await asyncio.wait({task}, timeout=limit)
            if pending:
                logger.error("drain took longer than %g s and was cut short", limit)
                task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            if not stop.requested:
                raise
    finally:
        stopping.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            if last:
                signal.signal(number, signal.SIG_IGN)

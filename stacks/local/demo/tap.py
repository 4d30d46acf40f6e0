"""A recording relay between router and parent: `python -m stacks.local.demo.tap PORT:PORT,... DIRECTORY`.

Passes bytes on unchanged and keeps a copy of both directions, so that the demo can show what these two parties really
saw. One pair of files a connection, `<n>-<port>.request` and `.response`, bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from itertools import count
from pathlib import Path
from typing import BinaryIO

from dataplane.mesh.address import TcpAddress, connect, start_server
from dataplane.protocol.errors import MrgcError

CHUNK_BYTES = 65_536
MAX_RECORDED = 262_144
"""Bytes kept of each direction of a connection: a demo's question and answer are a few KiB."""

MAX_RECORDINGS = 64
"""Connections that are recorded; later ones pass unrecorded, so that a load test fills no disk."""

CONNECT_TIMEOUT_S = 3.0
LOOPBACK = "127.0.0.1"


class Tap:
    """Relays every route's connections and records the first ones."""

    def __init__(self, directory: Path) -> None:
        """Record into `directory`."""
        self._directory = directory
        self._numbers = count()
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, port: int, target: int) -> asyncio.Server:
        """Listen on `port` and pass everything to `target`, both on loopback."""

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task is not None:
                self._tasks.add(task)
            try:
                with contextlib.suppress(OSError, MrgcError, asyncio.CancelledError):
                    await self._relay(target, reader, writer)
            finally:
                writer.transport.abort()
                if task is not None:
                    self._tasks.discard(task)

        return await start_server(handle, TcpAddress(LOOPBACK, port))

    async def close(self) -> None:
        """Cut what is left."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _relay(self, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await connect(TcpAddress(LOOPBACK, target), timeout_s=CONNECT_TIMEOUT_S)
        number = next(self._numbers)
        with contextlib.ExitStack() as files:
            request: BinaryIO | None = None
            response: BinaryIO | None = None
            if number < MAX_RECORDINGS:
                stem = self._directory / f"{number:04}-{target}"
                request = files.enter_context(stem.with_suffix(".request").open("wb", buffering=0))
                response = files.enter_context(stem.with_suffix(".response").open("wb", buffering=0))
            pumps = [
                asyncio.create_task(_pump(reader, far_writer, request)),
                asyncio.create_task(_pump(far_reader, writer, response)),
            ]
            try:
                # Either side's end ends both: HTTP between router and parent does not half-close.
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                far_writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: BinaryIO | None) -> None:
    kept = 0
    while data := await reader.read(CHUNK_BYTES):
        if record is not None and kept < MAX_RECORDED:
            record.write(data[: MAX_RECORDED - kept])
            kept += len(data)
        writer.write(data)
        await writer.drain()


async def _main(routes: str, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.re*"):
        old.unlink()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tap = Tap(directory)
    pairs = [route.partition(":") for route in routes.split(",")]
    servers = [await tap.listen(int(port), int(target)) for port, _, target in pairs]
    try:
        await stop.wait()
    finally:
        for server in servers:
            server.close()
        await tap.close()


def main(arguments: list[str]) -> int:
    """Run the tap; returns the exit code."""
    try:
        asyncio.run(_main(arguments[0], Path(arguments[1])))
    except MrgcError as error:
        sys.stderr.write(f"tap: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What the data plane costs: sealing, the whole path beside its engine, KMS calls, memory. One run, one table.

`make bench`, or with other sizes `python benchmarks/whole_path.py --requests 200 --concurrency 8 --streams 50`. It
starts a local stack of one region and one host with the synthetic engine, and takes it down. The synthetic engine's
own time is its documented cost model, so "path minus direct" is what the cluster adds. Machines differ and are noisy:
quote ratios within one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from dataplane.protocol.envelope import RequestOpener, RequestSealer
from dataplane.protocol.header import RequestHeader
from dataplane.tenant.client import TenantClient
from dataplane.tenant.config import load_cluster
from dataplane.worker.engine import EngineCall
from stacks.local.synthetic import SyntheticEngine
from stacks.local.synthetic_cost import SyntheticCosts

MRGC = str(Path(sys.executable).with_name("mrgc"))
FRAME_BYTES = 256
FRAMES = 4000
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Timing:
    """One answer: seconds to the first event, and between events after it."""

    first_s: float
    gap_s: float


def chat(tokens: int, number: int) -> bytes:
    """A streamed chat request whose prompt no other request shares, so that no prefix is cached."""
    message = {"role": "user", "content": f"request {number}: " + "words and more words " * 8}
    body = {"model": "tiny", "messages": [message], "stream": True, "max_tokens": tokens}
    return json.dumps(body).encode()


def frames() -> tuple[float, float]:
    """Microseconds to seal and to open one 256-byte frame."""
    header = RequestHeader(
        rid=bytes(16),
        iat=1,
        tenant="t",
        model="m",
        kms="arn:aws:kms:us-east-1:111122223333:key/x",
        ctx={"mrgc:tenant": "t", "mrgc:session": "0" * 32, "mrgc:expires": "1"},
        wrapped=b"w" * 184,
        assurance=0,
        pad=0,
    )
    sealer, opener = RequestSealer(header, bytes(32)), RequestOpener()
    sealer.seal(b"", final=True)
    opener.feed(_whole_request(header))
    opener.unlock(bytes(32))
    opener.finish()
    receiver = sealer.response_opener()
    sender = opener.response_sealer(bytes(32))
    receiver.feed(sender.prefix())
    data = os.urandom(FRAME_BYTES)
    start = time.perf_counter()
    sealed = [sender.seal(data) for _ in range(FRAMES)]
    middle = time.perf_counter()
    for frame in sealed:
        receiver.feed(frame)
    return (middle - start) / FRAMES * 1e6, (time.perf_counter() - middle) / FRAMES * 1e6


def _whole_request(header: RequestHeader) -> bytes:
    """A request of one empty final frame."""
    sealer = RequestSealer(header, bytes(32))
    return sealer.prefix() + sealer.seal(b"", final=True)


@contextmanager
def cluster() -> Iterator[Path]:
    """A local stack of one region and one host with the synthetic engine; gives its `cluster.json`."""
    folder = Path(tempfile.mkdtemp(prefix="mrgc-bench-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    up = [MRGC, "local", "up", "--detach", "--engine", "synthetic", "--regions", "1", "--hosts", "1"]
    try:
        subprocess.run([*up, "--port", str(port), "--dir", str(folder)], check=True, stdout=subprocess.DEVNULL)
        yield folder / "cluster.json"
    finally:
        subprocess.run([MRGC, "local", "down", "--dir", str(folder)], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)


async def through_the_path(client: TenantClient, tokens: int, number: int) -> Timing:
    """One streamed request by the whole path, timed at the tenant."""
    start = time.perf_counter()
    async with client.infer("/v1/chat/completions", chat(tokens, number), model="tiny") as response:
        return await timed(start, response.chunks())


async def timed(start: float, chunks: Any) -> Timing:
    """Read a stream of events to its end."""
    first = last = 0.0
    events = 0
    async for chunk in chunks:
        last = time.perf_counter()
        first = first or last
        events += chunk.count(b"\n\n")
    return Timing(first - start, (last - first) / max(1, events - 1))


async def load(
    ask: Callable[[int], Awaitable[Timing]], *, requests: int, concurrency: int, offset: int = 0
) -> tuple[float, list[Timing]]:
    """Closed loop: `concurrency` at once until `requests` are done; seconds taken and each one's timing."""
    numbers = iter(range(offset, offset + requests))
    timings: list[Timing] = []

    async def one() -> None:
        for number in numbers:
            timings.append(await ask(number))  # noqa: PERF401 - each takes its turn

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(one())
    return time.perf_counter() - start, timings


def processes(document: dict[str, Any]) -> dict[str, psutil.Process]:
    """The sidecars of the one host and its router."""
    (region,) = document["regions"].values()
    pids = {"router": region["pids"]["router"], **region["hosts"][0]["pids"], **document["pids"]}
    return {name.split("/")[-1]: psutil.Process(pid) for name, pid in pids.items()}


def cpu_ms(running: dict[str, psutil.Process]) -> dict[str, float]:
    """CPU milliseconds that each process has used."""
    return {name: sum(process.cpu_times()[:2]) * 1000 for name, process in running.items()}


def resident_mb(running: dict[str, psutil.Process]) -> dict[str, float]:
    """Resident MiB of each process."""
    return {name: process.memory_info().rss / MEBIBYTE for name, process in running.items()}


def decrypts(document: dict[str, Any]) -> dict[str, int]:
    """What the emulated KMS counted so far."""
    with urllib.request.urlopen(f"{document['aws_endpoint_url']}/_mrgc/kms-audit", timeout=10) as reply:  # noqa: S310 - loopback, from cluster.json
        counts = json.load(reply)["counts"]
    return {name: counts.get(f"{name} allowed", 0) for name in ("GenerateDataKey", "Decrypt")}


def row(name: str, timings: list[Timing], seconds: float) -> None:
    """Print one load's row."""
    first = statistics.median(t.first_s for t in timings) * 1000
    gap = statistics.median(t.gap_s for t in timings) * 1000
    print(f"  {name:<22}{first:>10.1f}{gap:>14.2f}{len(timings) / seconds:>14.1f}")


async def measure(options: argparse.Namespace) -> None:
    """Run everything and print the tables."""
    seal_us, open_us = frames()
    print(f"256-byte frame: seal {seal_us:.1f} us, open {open_us:.1f} us\n")
    with cluster() as path:
        document = json.loads(path.read_text())
        config = load_cluster(path)
        telemetry = config.telemetry()
        running = processes(document)
        idle = resident_mb(running)
        async with config.client(telemetry) as client:
            await compare(options, client, running)
            kms = decrypts(document)
            await load(lambda number: through_the_path(client, 1, number), requests=1000, concurrency=16, offset=50_000)
            after = decrypts(document)
            calls = ", ".join(f"{name} {after[name] - kms[name]}" for name in kms)
            print(f"\nKMS calls in 1,000 further requests of one session: {calls}")
            whole = ", ".join(f"{name} {count}" for name, count in after.items())
            print(f"KMS calls since the stack started (its own probe of two calls included): {whole}")
            busy = await streams(options, client, running)
        print(f"\n  {'resident MiB':<14}{'idle':>10}{f'{options.streams} streams':>16}")
        for name in idle:
            print(f"  {name:<14}{idle[name]:>10.0f}{busy[name]:>16.0f}")
        await asyncio.to_thread(telemetry.shutdown)


async def compare(options: argparse.Namespace, client: TenantClient, running: dict[str, psutil.Process]) -> None:
    """The path beside the engine called directly, under the same load; then CPU a request of each process."""
    direct = direct_engine(options.tokens)
    print(f"  {'':<22}{'first ms':>10}{'per token ms':>14}{'requests/s':>14}")
    for concurrency in (1, options.concurrency):
        requests = options.requests if concurrency > 1 else max(10, options.requests // 10)

        async def by_path(number: int) -> Timing:
            return await through_the_path(client, options.tokens, number)

        seconds, timings = await load(direct, requests=requests, concurrency=concurrency)
        row(f"engine alone x{concurrency}", timings, seconds)
        before = cpu_ms(running)
        seconds, timings = await load(by_path, requests=requests, concurrency=concurrency, offset=10_000 * concurrency)
        row(f"whole path x{concurrency}", timings, seconds)
        used = cpu_ms(running)
        each = ", ".join(f"{name} {(used[name] - before[name]) / requests:.1f}" for name in running)
        print(f"    CPU ms a request: {each}")


async def streams(
    options: argparse.Namespace, client: TenantClient, running: dict[str, psutil.Process]
) -> dict[str, float]:
    """Resident MiB at the peak of many concurrent streams."""
    peak = resident_mb(running)
    task = asyncio.create_task(
        load(
            lambda number: through_the_path(client, 256, number),
            requests=options.streams,
            concurrency=options.streams,
            offset=100_000,
        )
    )
    while not task.done():
        now = resident_mb(running)
        peak = {name: max(peak[name], now[name]) for name in peak}
        await asyncio.sleep(0.1)
    await task
    return peak


def direct_engine(tokens: int) -> Callable[[int], Awaitable[Timing]]:
    """The same synthetic engine with the same costs, in this process, without any of the cluster."""
    engine = SyntheticEngine(
        "tiny",
        seed=0,
        costs=SyntheticCosts(),
        clock_ms=lambda: time.time_ns() // 1_000_000,
        sleep=asyncio.sleep,
        report_cached=False,
    )

    async def ask(number: int) -> Timing:
        start = time.perf_counter()
        call = EngineCall(path="/v1/chat/completions", body=chat(tokens, number))
        async with engine.generate(call) as reply:
            return await timed(start, reply.body)

    return ask


def main() -> None:
    """Parse sizes and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--streams", type=int, default=200)
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()

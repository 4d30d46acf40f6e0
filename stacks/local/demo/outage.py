"""A region killed under load, and every request counted.

Sealed requests run at a bounded concurrency through the endpoint. After a while every process of the region that
answers is killed at once, and the load goes on until another region has answered for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path
from typing import Any

from dataplane.protocol.errors import MrgcError
from dataplane.tenant.client import TenantClient
from dataplane.tenant.config import load_cluster

STREAMS = 8
MAX_TOKENS = 16
BEFORE_S = 2.0
"""Load before the kill."""

AFTER_S = 2.0
"""Load after another region's first answer."""

RECOVERY_LIMIT_S = 30.0
"""Longest wait for another region: the load balancer needs two checks 5 s apart to notice, so 12 s at most."""

REQUEST_DEADLINE_S = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """One whole answer: when it was complete (monotonic seconds), where, and after how many attempts."""

    at: float
    region: str
    attempts: int


@dataclass(slots=True, kw_only=True)
class Outage:
    """What was counted. `killed_at` and `ended_at` are monotonic seconds."""

    region: str
    pids: int = 0
    began_at: float
    killed_at: float = 0.0
    ended_at: float = 0.0
    successes: list[Success] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def retried(self) -> int:
        """Requests that succeeded after more than one attempt."""
        return sum(1 for success in self.successes if success.attempts > 1)

    @property
    def failed(self) -> int:
        """Requests that got no whole answer."""
        return sum(self.failures.values())

    @property
    def elsewhere(self) -> list[Success]:
        """Answers of other regions after the kill."""
        return [s for s in self.successes if s.at > self.killed_at and s.region != self.region]

    @property
    def longest_gap_s(self) -> float:
        """Longest time without any success, from the load's begin to its end."""
        moments = sorted([self.began_at, *(success.at for success in self.successes), self.ended_at])
        return max((later - earlier for earlier, later in pairwise(moments)), default=0.0)

    def as_json(self) -> dict[str, Any]:
        """Return the counts for `--json`."""
        return {
            "region": self.region,
            "killed_processes": self.pids,
            "streams": STREAMS,
            "seconds": round(self.ended_at - self.began_at, 2),
            "succeeded": len(self.successes),
            "retried": self.retried,
            "failed": self.failed,
            "failures": dict(self.failures),
            "longest_gap_s": round(self.longest_gap_s, 2),
            "by_region": dict(Counter(success.region for success in self.successes)),
            "elsewhere_after_kill": len(self.elsewhere),
        }


def pids_of(cluster: Mapping[str, Any], region: str) -> list[int]:
    """Return every process of a region: its router and its hosts."""
    entry = cluster["regions"][region]
    return [entry["pids"]["router"], *(pid for host in entry["hosts"] for pid in host["pids"].values())]


async def kill_under_load(cluster_file: Path, region: str, pids: Sequence[int]) -> Outage:
    """Run the load, kill the processes, and go on until another region answers or `RECOVERY_LIMIT_S` is over."""
    config = load_cluster(cluster_file)
    telemetry = config.telemetry()
    stop = asyncio.Event()
    try:
        async with config.client(telemetry) as client:
            outage = Outage(region=region, began_at=time.monotonic())
            streams = [
                asyncio.create_task(_stream(client, config.model or "", outage, stop), name=f"stream {number}")
                for number in range(STREAMS)
            ]
            try:
                await asyncio.sleep(BEFORE_S)
                outage.killed_at = time.monotonic()
                outage.pids = _kill(pids)
                await _until_elsewhere(outage)
                await asyncio.sleep(AFTER_S)
            finally:
                stop.set()
                await asyncio.gather(*streams)
                outage.ended_at = time.monotonic()
    finally:
        await asyncio.to_thread(telemetry.shutdown, 1.0)
    return outage


async def _stream(client: TenantClient, model: str, outage: Outage, stop: asyncio.Event) -> None:
    """Send one request after the other until `stop`; the client's own retries are part of a request."""
    number = 0
    while not stop.is_set():
        number += 1
        body = {
            "model": model,
            "messages": [{"role": "user", "content": f"Question {number}, please."}],
            "max_tokens": MAX_TOKENS,
        }
        try:
            done = await client.complete(
                "/v1/chat/completions", json.dumps(body).encode(), model=model, deadline_s=REQUEST_DEADLINE_S
            )
        except MrgcError as error:
            outage.failures[getattr(error, "code", None) or type(error).__name__] += 1
            continue
        if done.status == HTTPStatus.OK:
            outage.successes.append(Success(at=time.monotonic(), region=done.receipt.region, attempts=done.attempts))
        else:
            outage.failures[f"inner status {done.status}"] += 1


async def _until_elsewhere(outage: Outage) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RECOVERY_LIMIT_S):
            while not outage.elsewhere:  # noqa: ASYNC110 - eight streams append, one looks
                await asyncio.sleep(0.05)


def _kill(pids: Sequence[int]) -> int:
    """SIGKILL all at once, as a region's power would fail; return how many there were."""
    killed = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed

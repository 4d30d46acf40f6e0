"""The router's view of its region's hosts: the registry's reports, joined with what this router sees itself.

The view is plain state without I/O; `HostRefresher` is the one loop that feeds it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from dataplane.mesh.breaker import CircuitBreaker
from dataplane.protocol.errors import MrgcError
from dataplane.registry.host import HostRecord, HostState
from dataplane.registry.registry import Registry
from dataplane.router.choose import Candidate
from dataplane.router.score import Latency, Load, score

STALE_AFTER_MS = 6_000
"""Age at which a report counts as saturated: three heartbeats of 2 s were missed."""

FULL_FOR_S = 1.0
"""How long a host that answered `overloaded` counts as saturated: half a heartbeat, until it reports again."""

REFRESH_TIMEOUT_S = 5.0
"""Longest wait for the registry: its own limit is 3 s, so this only catches a registry without one."""

MAX_POOLS_REMEMBERED = 4_096
"""Names of pools ever seen: what tells "no host now" (503) from "no such pool" (404). 128 characters each: 512 KiB."""

logger = logging.getLogger(__name__)


class Host:
    """One host: its last report, our requests in flight, what we saw of its latency, and its breaker."""

    __slots__ = ("breaker", "full_until", "in_flight", "in_flight_at_report", "latency", "record")

    def __init__(self, record: HostRecord) -> None:
        """Know the report only."""
        self.record = record
        self.in_flight = 0
        self.in_flight_at_report = 0
        self.latency = Latency()
        self.breaker = CircuitBreaker()
        self.full_until = 0.0

    def take_report(self, record: HostRecord) -> None:
        """Take in a newer report; one seen before changes nothing."""
        if record.reported_ms > self.record.reported_ms:
            self.in_flight_at_report = self.in_flight
        self.record = record

    def load(self, *, now: float, now_ms: int) -> Load:
        """Return what the score is made from."""
        record = self.record
        return Load(
            queue_depth=record.queue_depth,
            running=record.running,
            capacity=record.capacity,
            in_flight=self.in_flight,
            in_flight_at_report=self.in_flight_at_report,
            latency_ms=self.latency.expected_ms(now, record.latency_ms),
            health=record.health,
            stale=now_ms - record.reported_ms > STALE_AFTER_MS or now < self.full_until,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """One host as `/hosts` and the metrics show it."""

    instance_id: str
    address: str
    state: str
    pools: tuple[str, ...]
    score: float
    in_flight: int
    breaker: str
    report_age_ms: int
    routable: bool


class Flight:
    """One attempt on one host: counted from `HostTable.begin` to `end`; of the four reports the first one counts."""

    __slots__ = ("_ended", "_monotonic", "_reported", "host", "started")

    def __init__(self, host: Host, monotonic: Callable[[], float]) -> None:
        """Count the attempt in. The breaker was asked by the caller."""
        self.host = host
        self._monotonic = monotonic
        self.started = monotonic()
        self._reported = False
        self._ended = False
        host.in_flight += 1

    def answered(self) -> None:
        """Note that the first byte of the answer came now."""
        if self._report():
            now = self._monotonic()
            self.host.breaker.success(now)
            self.host.latency.succeeded((now - self.started) * 1000, now, self.host.record.latency_ms)

    def failed(self) -> None:
        """Note that the host failed, before its answer or (`answered` was noted) in the middle of it."""
        self._report()
        now = self._monotonic()
        self.host.breaker.failure(now)
        self.host.latency.failed(now, self.host.record.latency_ms)

    def full(self) -> None:
        """Note that the host is full: it is well, and saturated for a moment."""
        if self._report():
            now = self._monotonic()
            self.host.breaker.success(now)
            self.host.full_until = now + FULL_FOR_S

    def slow(self) -> None:
        """Note that the deadline passed before the answer: as slow as that, and nothing more is known."""
        if self._report():
            now = self._monotonic()
            self.host.breaker.release(now)
            elapsed_ms = (now - self.started) * 1000
            self.host.latency.failed(now, self.host.record.latency_ms, penalty_ms=elapsed_ms)

    def end(self) -> None:
        """Count the attempt out; calling it again does nothing. Without a report the host is not judged."""
        if self._ended:
            return
        self._ended = True
        self.host.in_flight -= 1
        if self._report():
            self.host.breaker.release(self._monotonic())

    def _report(self) -> bool:
        first, self._reported = not self._reported, True
        return first


class HostTable:
    """All hosts of one region as this router knows them."""

    def __init__(self, *, monotonic: Callable[[], float], clock_ms: Callable[[], int], tls_only: bool = False) -> None:
        """Know no host until the first `refresh`; with `tls_only` a host without an `https` address gets nothing."""
        self._monotonic = monotonic
        self._clock_ms = clock_ms
        self._tls_only = tls_only
        self._hosts: dict[str, Host] = {}
        self._pools: dict[str, None] = {}
        self.refreshed = False
        """Whether the registry has answered at least once."""

    def refresh(self, records: Iterable[HostRecord]) -> None:
        """Take in the registry's whole answer: hosts that it no longer lists are gone.

        A host that is gone may still have requests in flight; they end as they end, and a host that comes back starts
        with an empty history.
        """
        fresh: dict[str, Host] = {}
        for record in records:
            host = self._hosts.get(record.instance_id)
            if host is None or host.record.address != record.address:
                host = Host(record)
            else:
                host.take_report(record)
            fresh[record.instance_id] = host
            for pool in record.pools:
                self._pools[pool] = None
        while len(self._pools) > MAX_POOLS_REMEMBERED:
            del self._pools[next(iter(self._pools))]
        self._hosts = fresh
        self.refreshed = True

    def candidates(self, pool: str | None, *, without: Collection[str] = ()) -> list[Candidate]:
        """Return the routable hosts that serve `pool` (any host for None), except those in `without`."""
        now, now_ms = self._monotonic(), self._clock_ms()
        return [
            Candidate(name, score(host.load(now=now, now_ms=now_ms)))
            for name, host in self._hosts.items()
            if (pool is None or pool in host.record.pools) and name not in without and self._routable(host, now)
        ]

    def begin(self, instance_id: str) -> Flight | None:
        """Start an attempt on a host, or return None if it went away or its breaker's one probe is taken."""
        host = self._hosts.get(instance_id)
        if host is None or not host.breaker.allow(self._monotonic()):
            return None
        return Flight(host, self._monotonic)

    def knows_pool(self, pool: str) -> bool:
        """Say whether any host was ever seen to serve the pool, or whether that can't be known yet."""
        return pool in self._pools or not self._pools

    @property
    def routable(self) -> int:
        """How many hosts can take a request now."""
        now = self._monotonic()
        return sum(self._routable(host, now) for host in self._hosts.values())

    def records(self) -> list[HostRecord]:
        """Return the last report of every routable host."""
        now = self._monotonic()
        return [host.record for host in self._hosts.values() if self._routable(host, now)]

    def routable_record(self, instance_id: str) -> HostRecord | None:
        """Return the last report of one host, or None where it is not known or not routable."""
        host = self._hosts.get(instance_id)
        return host.record if host is not None and self._routable(host, self._monotonic()) else None

    def views(self) -> list[HostView]:
        """Return every host, routable or not, for people and dashboards."""
        now, now_ms = self._monotonic(), self._clock_ms()
        return [
            HostView(
                instance_id=name,
                address=host.record.address,
                state=host.record.state.value,
                pools=host.record.pools,
                score=round(score(host.load(now=now, now_ms=now_ms)), 2),
                in_flight=host.in_flight,
                breaker=host.breaker.state(now).value,
                report_age_ms=max(0, now_ms - host.record.reported_ms),
                routable=self._routable(host, now),
            )
            for name, host in self._hosts.items()
        ]

    def _routable(self, host: Host, now: float) -> bool:
        # A report's age does not make a host unroutable here: while the registry can't be read, all reports age, and
        # refusing all traffic for that would be a worse failure. The registry itself leaves silent hosts out.
        if self._tls_only and not host.record.address.startswith("https://"):
            return False  # or whoever can write to the registry could have the router speak in clear
        return host.record.state is HostState.READY and host.breaker.would_allow(now)


class HostRefresher:
    """The loop that reads the registry into a `HostTable`; whoever runs it owns its task."""

    def __init__(
        self,
        *,
        registry: Registry,
        table: HostTable,
        region: str,
        interval_s: float,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        """`failed` is called for every reading that did not succeed."""
        self._registry = registry
        self._table = table
        self._region = region
        self._interval_s = interval_s
        self._failed = failed
        self._well = True

    async def run(self) -> None:
        """Refresh for ever; a failed reading leaves the view as it was, and its reports age."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._interval_s)

    async def refresh(self) -> bool:
        """Read the registry once; return whether it answered."""
        try:
            async with asyncio.timeout(REFRESH_TIMEOUT_S):
                records = await self._registry.hosts(self._region)
        except (MrgcError, TimeoutError) as error:
            self._failed()
            if self._well:
                logger.warning("the registry can't be read; the last view stays in use: %s", error)
            self._well = False
            return False
        if not self._well:
            logger.info("the registry can be read again")
        self._well = True
        self._table.refresh(records)
        return True

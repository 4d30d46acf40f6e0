"""The parent's background work: look at worker and enclave, bind them, hand credentials over, report to the registry.

Each loop does one thing, waits its period or until another loop wakes it, and survives what its step may raise. What
one step decides is a pure function over the view.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from dataplane.mesh.admission import Admission
from dataplane.mesh.health import Health
from dataplane.parent.calls import FAILURES, HostCalls
from dataplane.parent.credentials import (
    CHECK_S,
    Credentials,
    CredentialsError,
    CredentialSource,
    must_hand_over,
)
from dataplane.parent.report import ENCLAVE, WORKER, host_record
from dataplane.parent.settings import ParentSettings
from dataplane.parent.view import HostView
from dataplane.registry.host import RegistryError
from dataplane.registry.registry import Registry

MAX_BACKOFF_S = 10.0
"""The longest pause between two attempts to bind or to hand credentials over."""
REBIND_JITTER = 0.1
"""Renewals are spread over a tenth of their period, so that hosts that started together do not stay together."""
FAREWELL_TIMEOUT_S = 5.0
"""For removing the host's record at the end of a drain."""

logger = logging.getLogger(__name__)


def must_bind(view: HostView, *, rebind_s: float) -> bool:
    """Whether the enclave must challenge the worker, `rebind_s` seconds being the age at which a binding is renewed.

    So it is when both answer and the enclave holds no key of the worker, another than the newest (the worker started
    anew, or its host was washed), or one for that long.
    """
    enclave, worker = view.enclave, view.worker
    if enclave is None or worker is None or worker.epoch is None:
        return False
    old = enclave.binding_age_ms is not None and enclave.binding_age_ms >= rebind_s * 1000
    return not enclave.worker or enclave.worker_epoch != worker.epoch or old


def enclave_fault(view: HostView) -> str:
    """Why the enclave can't serve now, or "" when it can."""
    enclave, worker = view.enclave, view.worker
    if enclave is None:
        return "does not answer"
    if not enclave.credentials:
        return "has no credentials"
    if not enclave.worker:
        return "has no worker"
    # An older key that the worker still accepts serves on; a newer one may be told by the enclave first.
    known = worker is None or worker.epoch is None or worker.accepts(enclave.worker_epoch)
    if not known and not view.renewing:
        return "has an older key of the worker"
    if enclave.ready:
        return ""
    figures = {"the binding's age": enclave.binding_age_ms, "the clock's skew": enclave.clock_skew_ms}
    told = ", ".join(f"{name} {value / 1000:.0f} s" for name, value in figures.items() if value is not None)
    return f"is not ready ({told})" if told else "is not ready"


class Keeper:
    """Runs the loops. `registry` None reports nowhere."""

    def __init__(
        self,
        settings: ParentSettings,
        *,
        calls: HostCalls,
        view: HostView,
        health: Health,
        admission: Admission,
        credentials: CredentialSource,
        registry: Registry | None,
        address: str,
        clock_ms: Callable[[], int],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`jitter` draws from 0 to 1: by how much of `REBIND_JITTER` the next renewal comes later."""
        self._settings = settings
        self._calls = calls
        self._view = view
        self._health = health
        self._admission = admission
        self._credentials = credentials
        self._registry = registry
        self._address = address
        self._clock_ms = clock_ms
        self._jitter = jitter
        self._rebind_s = self._next_rebind_s()
        self._given: Credentials | None = None
        self._report_now = asyncio.Event()
        self._bind_now = asyncio.Event()
        self._hand_over_now = asyncio.Event()

    async def run(self) -> None:
        """Run every loop until cancelled."""
        settings = self._settings
        async with asyncio.TaskGroup() as group:
            group.create_task(_every(settings.poll_s, self._look_at_worker), name="worker")
            group.create_task(_every(settings.poll_s, self._look_at_enclave), name="enclave")
            group.create_task(_retrying(settings.poll_s, self._bind, self._bind_now), name="bind")
            group.create_task(_retrying(CHECK_S, self._hand_over, self._hand_over_now), name="credentials")
            if self._registry is not None:
                group.create_task(_every(settings.heartbeat_s, self._report, self._report_now), name="heartbeat")

    def drain(self) -> None:
        """Say at once, everywhere, that nothing new should come."""
        self._health.draining = True
        self._report_now.set()

    async def farewell(self) -> None:
        """Remove the host from the registry; call it when `run` has ended, or a last report would bring it back."""
        if self._registry is None:
            return
        try:
            async with asyncio.timeout(FAREWELL_TIMEOUT_S):
                await self._registry.remove_host(self._settings.mrgc_region, self._settings.instance_id)
        except (RegistryError, TimeoutError) as error:
            logger.warning("the host's record could not be removed and will expire: %s", error)

    async def _look_at_worker(self) -> None:
        view = self._view
        bindings = view.bound_epochs
        try:
            stats = await self._calls.worker_stats()
            if view.bound_epochs != bindings:
                return  # asked before a binding and answered after it: the binding looked itself
            view.worker = stats
        except FAILURES as error:
            view.worker = None
            view.fsx_available = await asyncio.to_thread((self._settings.fsx_mount_point / "models").is_dir)
            self._note(WORKER, fault=f"does not answer ({type(error).__name__})")
            return
        view.fsx_available = view.worker.models.get("fsx_available") is True
        view.forgive()
        self._note(WORKER, fault="" if view.worker.ready else "is not ready")
        self._wake()

    async def _look_at_enclave(self) -> None:
        bindings = self._view.bound_epochs
        try:
            report = await self._calls.enclave_health()
            if self._view.bound_epochs != bindings:
                return  # as above
            self._view.enclave = report
        except FAILURES as error:
            self._view.enclave = None
            self._note(ENCLAVE, fault=f"does not answer ({type(error).__name__})")
            return
        self._wake()
        self._note(ENCLAVE, fault=enclave_fault(self._view))

    def _wake(self) -> None:
        """Wake the loops that have something to mend."""
        if must_bind(self._view, rebind_s=self._rebind_s):
            self._bind_now.set()
        if self._view.enclave is not None and not self._view.enclave.credentials:
            self._hand_over_now.set()

    def _note(self, part: str, *, fault: str) -> None:
        if self._health.report(part, ok=not fault, detail=fault):
            if fault:
                logger.warning("the %s %s", part, fault)
            else:
                logger.info("the %s is well", part)
            self._report_now.set()

    async def _bind(self) -> bool:
        if not must_bind(self._view, rebind_s=self._rebind_s):
            return True
        view = self._view
        view.renewing = enclave_fault(view) == ""
        try:
            assurance, epoch = await self._calls.bind()
            view.bound(assurance, epoch)
        except FAILURES as error:
            logger.warning("the enclave did not accept the worker: %s", error)
            return False
        finally:
            view.renewing = False
        logger.info("the enclave accepted the worker's key", extra={"assurance": assurance, "epoch": epoch.hex()})
        self._rebind_s = self._next_rebind_s()
        await self._look_at_enclave()  # before this loop decides again
        return True

    def _next_rebind_s(self) -> float:
        return self._settings.rebind_s * (1 + REBIND_JITTER * self._jitter())

    async def _hand_over(self) -> bool:
        enclave = self._view.enclave
        if enclave is None:
            return True  # its first answer, or its next, wakes this loop
        try:
            current = await self._credentials.fetch()
            if not must_hand_over(self._given, current, enclave_has=enclave.credentials, now_ms=self._clock_ms()):
                return True
            await self._calls.hand_over(current)
        except CredentialsError as error:
            logger.warning("there are no credentials for the enclave: %s", error)
            return False
        except FAILURES as error:
            logger.warning("the enclave did not take credentials (%s)", type(error).__name__)
            return False
        self._given = current
        self._view.handovers += 1
        logger.info("the enclave was given credentials", extra={"expires_ms": current.expires_ms})
        await self._look_at_enclave()  # before this loop decides again
        return True

    async def _report(self) -> None:
        if self._registry is None:
            return
        record = host_record(
            self._view,
            self._health,
            instance_id=self._settings.instance_id,
            region=self._settings.mrgc_region,
            address=self._address,
            capacity=self._settings.max_in_flight,
            in_flight=self._admission.in_flight,
            waiting=self._admission.waiting,
            now_ms=self._clock_ms(),
        )
        try:
            await self._registry.put_host(record)
        except RegistryError as error:
            self._view.failed_reports += 1
            logger.warning("the registry did not take a report: %s", error)


async def _every(period_s: float, step: Callable[[], Awaitable[None]], wake: asyncio.Event | None = None) -> None:
    """Take `step` now and then each `period_s`, earlier when `wake` is set."""
    while True:
        if wake is not None:
            wake.clear()
        await step()
        await _pause(period_s, wake)


async def _retrying(period_s: float, step: Callable[[], Awaitable[bool]], wake: asyncio.Event) -> None:
    """As `_every`, but a step that returns False is taken again after 1 s, 2 s, 4 s …, and not woken in between."""
    backoff_s = 0.0
    while True:
        wake.clear()
        if await step():
            backoff_s = 0.0
            await _pause(period_s, wake)
        else:
            backoff_s = min(MAX_BACKOFF_S, max(min(1.0, period_s), backoff_s * 2))
            await asyncio.sleep(backoff_s)


async def _pause(period_s: float, wake: asyncio.Event | None) -> None:
    if wake is None:
        await asyncio.sleep(period_s)
        return
    try:
        async with asyncio.timeout(period_s):
            await wake.wait()
    except TimeoutError:
        return

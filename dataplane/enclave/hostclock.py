"""The host's clock, held against the hypervisor's.

The enclave's wall clock is the host's to influence; the timestamps in the documents of its own NSM are not, they are
the hypervisor's and signed. Every document that is made for whatever reason gives one; in between the enclave's
monotonic clock counts on from the last. A document that came over our own device is read and not verified: whoever
could forge it there is the hypervisor itself, whose word the signature would be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Final, Self

from dataplane.enclave.nsm import Nsm
from dataplane.protocol.attestation.document import parse_cose, parse_payload
from dataplane.protocol.errors import MrgcError, ProblemError

MAX_SKEW_MS: Final = 60_000
"""How far the host's clock may be from the hypervisor's. `iat` may lie 60 s ahead (docs/protocol.md), so with a host
that is this far off an old message still lives no longer than twice that window."""

LOOK_S: Final = 60.0
"""How often a document is made to look at its time; whatever else asks the NSM counts as a look too."""

MAX_LOOK_AGE_S: Final = 300.0
"""Longest that the monotonic clock counts on alone: five looks that failed. Crystals differ by under 100 ppm, 30 ms in
that time; what ends here is trust in an NSM that answers no more."""

LOOK_TIMEOUT_S: Final = 2.0
"""How long a look may take where something waits for it: the module signs in about 100 ms, one document at a time."""

RETRY_AFTER_S: Final = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Look:
    timestamp_ms: int
    at_s: float


class HostClock:
    """Knows how far `clock_ms` (wall, ms since 1970) is from the documents' time. Safe for threads."""

    def __init__(self, *, clock_ms: Callable[[], int], monotonic: Callable[[], float]) -> None:
        """Nothing is known, and therefore nothing trusted, before the first document."""
        self._clock_ms = clock_ms
        self._monotonic = monotonic
        self._look: _Look | None = None

    def observe(self, document: bytes) -> None:
        """Take the time of a document that the NSM has just made; one that can't be read changes nothing."""
        try:
            timestamp_ms = parse_payload(parse_cose(document).payload).timestamp_ms
        except MrgcError as error:
            logger.error("the security module's document has no time to read: %s", error)  # noqa: TRY400 - it says all
            return
        self._look = _Look(timestamp_ms, self._monotonic())

    @property
    def age_s(self) -> float:
        """Seconds since the last document, infinite without one."""
        look = self._look
        return float("inf") if look is None else self._monotonic() - look.at_s

    @property
    def skew_ms(self) -> int | None:
        """How far the host's clock is ahead of the hypervisor's (behind: negative); None where nothing is known."""
        look = self._look
        if look is None:
            return None
        return self._clock_ms() - look.timestamp_ms - round((self._monotonic() - look.at_s) * 1000)

    @property
    def fault(self) -> str:
        """Why the host's clock can't be taken now, as a sentence, or "" when it can."""
        skew_ms = self.skew_ms
        if skew_ms is None or self.age_s > MAX_LOOK_AGE_S:
            return "The enclave's security module has given no time to hold the host's clock against (clock skew)."
        if abs(skew_ms) > MAX_SKEW_MS:
            direction = "ahead of" if skew_ms > 0 else "behind"
            return (
                f"The host's clock is {abs(skew_ms) // 1000} s {direction} the hypervisor's, and "
                f"{MAX_SKEW_MS // 1000} s are allowed (clock skew)."
            )
        return ""

    def check(self) -> None:
        """Refuse while the host's clock can't be taken; raises `ProblemError` host-failed."""
        fault = self.fault
        if fault:
            raise ProblemError("host-failed", fault, retry_after_s=RETRY_AFTER_S)


class WatchedNsm:
    """An NSM each of whose documents is a look at the hypervisor's time."""

    def __init__(self, nsm: Nsm, *, clock_ms: Callable[[], int], monotonic: Callable[[], float]) -> None:
        """`nsm` makes the documents; `clock` learns from them."""
        self._nsm = nsm
        self.clock = HostClock(clock_ms=clock_ms, monotonic=monotonic)

    def beside(self, nsm: Nsm) -> Self:
        """Watch another way to the same module: its documents are looks for the same clock."""
        other = copy(self)
        other._nsm = nsm  # noqa: SLF001 - a copy of our own kind
        return other

    @property
    def assurance(self) -> int:
        """See `Nsm`."""
        return self._nsm.assurance

    def attest(self, *, nonce: bytes | None, user_data: bytes | None, public_key: bytes | None) -> bytes:
        """See `Nsm`; the document's time is noted."""
        document = self._nsm.attest(nonce=nonce, user_data=user_data, public_key=public_key)
        self.clock.observe(document)
        return document

    def random(self, size: int) -> bytes:
        """See `Nsm`."""
        return self._nsm.random(size)

    async def look(self) -> None:
        """Make a document for its time alone; `NsmError`."""
        # The module's device blocks for milliseconds.
        await asyncio.to_thread(self.attest, nonce=None, user_data=None, public_key=None)

    async def keep_looking(self, *, period_s: float = LOOK_S, timeout_s: float = LOOK_TIMEOUT_S) -> None:
        """Look whenever nobody else has for `period_s` seconds, each time for `timeout_s`; runs until cancelled.

        A look that hangs keeps its thread until the module answers; those behind it give up at the gate.
        """
        told = ""
        while True:
            if self.clock.age_s >= period_s:
                try:
                    async with asyncio.timeout(timeout_s):
                        await self.look()
                except TimeoutError:
                    logger.error("the security module gave no time within %g s: it hangs", timeout_s)  # noqa: TRY400 - it says all
                except MrgcError as error:
                    logger.error("the security module gave no time: %s", error)  # noqa: TRY400 - the sentence says all
            fault = self.clock.fault
            if fault != told:
                told = fault
                logger.log(logging.ERROR if fault else logging.INFO, fault or "the host's clock is right again")
            await asyncio.sleep(period_s / 4)

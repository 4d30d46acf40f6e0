"""The tenant's look at the public log: what it trusts is an entry that everybody sees, or no prompt leaves.

`check_logged` proves measurements once. `LogGuard` does so before a client's first request and again while it runs; in
between it lets requests pass, and none once the log was caught lying or could not be asked for too long.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dataplane.log.headfile import HeadFileError, head_name
from dataplane.log.pin import LogPin, parse_key
from dataplane.log.source import LogUnavailableError
from dataplane.protocol.errors import MrgcError, SettingsError
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.tenant.errors import RequestError

logger = logging.getLogger(__name__)

LOG_REFUSED: Final = "measurement-log"
"""The tenant's own code beside the protocol's: nothing is sent, for the log does not show what is trusted."""

CHECK_S: Final = 60.0
"""Longest check: a few dozen small files, 10 s each at most and most of them at once from a cache."""

RECHECK_S: Final = 900.0
"""Between checks that succeed: a session's data key lives about as long."""

RETRY_S: Final = 60.0
"""Between checks while the last one did not succeed."""

MAX_UNCHECKED_S: Final = 3600.0
"""How long a log that cannot be asked is forgiven: four checks in a row, and a bucket's bad hour."""

FINAL: Final = frozenset({"fork", "rewound"})
"""What no later check mends: the log's key has signed two stories."""

_STATUS: Final = 503
_SHOWN: Final = 16
"""Hex digits of PCR0 that a sentence shows: enough to find it in measurements.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """Where a measurement stands in the log: entry `index` of `size`, dated `time_ms`; the head is of `head_s`."""

    log: str
    size: int
    index: int
    name: str
    version: str
    time_ms: int
    head_s: int | None
    mock: bool = False

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.log,
            "size": self.size,
            "index": self.index,
            "entry": f"{self.name} {self.version}",
            "time_ms": self.time_ms,
            "head_time_s": self.head_s,
            "assurance": "mock" if self.mock else "signed",
        }


async def check_logged(pin: LogPin, measurements: Sequence[Mapping[int, bytes]]) -> list[Logged]:
    """Prove that each of `measurements` is an entry of the log, at a head that extends the one remembered.

    Raises `TransparencyError` where one is not, or where the log is not what it was; `LogUnavailableError` where it
    can't be read; `HeadFileError` where its head can't be remembered.
    """
    try:
        async with asyncio.timeout(CHECK_S), pin.source() as source:
            reader = (await pin.follower(source).follow()).reader
            found: list[Logged] = []
            for pcrs in measurements:
                proved = await reader.find(lambda entry, pcrs=pcrs: entry.covers(pcrs))  # type: ignore[misc]
                if proved is None:
                    size = 0 if reader.view.head is None else reader.view.head.size
                    raise TransparencyError(
                        f"The enclave image with PCR0 {pcrs.get(0, b'').hex()[:_SHOWN]}… is none of the {size} entries "
                        f"of the log {pin.key.name}: nobody else was told of it, so send it nothing.",
                        reason="not-included",
                    )
                found.append(
                    Logged(
                        log=pin.key.name,
                        size=proved.head.size,
                        index=proved.index,
                        name=proved.entry.name,
                        version=proved.entry.version,
                        time_ms=proved.entry.time_ms,
                        head_s=proved.head.time_s,
                        mock=pin.mock,
                    )
                )
            return found
    except TimeoutError:
        raise LogUnavailableError(f"The log at {pin.url} was not read within {CHECK_S:g} s; try again.") from None


def cluster_pin(entry: object, path: Path) -> LogPin | None:
    """Return the log that a `cluster.json` names in `entry`, its head remembered beside the file; None for none."""
    if entry is None:
        return None
    if not isinstance(entry, Mapping) or not all(isinstance(entry.get(name), str) for name in ("url", "key")):
        raise SettingsError(f"{path} names a log without url and key; start the local stack again.")
    key = parse_key(entry["key"], source=f"The log's key in {path}")
    state = path.parent / "log-heads" / head_name(key)
    return LogPin(url=entry["url"], key=key, state=state, mock=entry.get("assurance") == "mock")


Check = Callable[[], Awaitable[object]]


class LogGuard:
    """Lets requests pass while the log is known to show what is trusted; owned by one client."""

    def __init__(
        self,
        check: Check,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._check = check
        self._monotonic = monotonic
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None
        self._checked = 0.0
        self._refusal: MrgcError | None = None

    @classmethod
    def of(cls, pin: LogPin, measurements: Sequence[Mapping[int, bytes]]) -> LogGuard:
        """A guard over `measurements`; `SettingsError` without any, for then nothing would be looked for."""
        if not measurements:
            raise SettingsError(
                f"The log {pin.key.name} is to be asked, and no measurements were named to look for; set "
                "MRGC_MEASUREMENTS to the measurements.json of the allowed images."
            )
        return cls(lambda: check_logged(pin, measurements))

    async def start(self) -> None:
        """Check, and raise what `check_logged` raises; then go on checking in the background."""
        await self._check()
        self._checked = self._monotonic()
        self._task = asyncio.create_task(self._watch(), name="measurement-log")

    async def close(self) -> None:
        """End the checking."""
        if self._task is not None:
            self._task.cancel()
            (ended,) = await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            if isinstance(ended, Exception):
                logger.error("the measurement log's check ended by a fault: %s", type(ended).__name__)

    def require(self) -> None:
        """Raise `RequestError` (`measurement-log`, 503) unless requests may pass."""
        if self._refusal is not None:
            raise RequestError(str(self._refusal), code=LOG_REFUSED, status=_STATUS, attempts=0)
        if self._task is None or self._task.done() or self._monotonic() - self._checked > MAX_UNCHECKED_S:
            raise RequestError(
                f"The measurement log was not checked for over {MAX_UNCHECKED_S:g} s, so nothing is sent; "
                "see why it can't be read.",
                code=LOG_REFUSED,
                status=_STATUS,
                attempts=0,
            )

    async def _watch(self) -> None:
        wait_s = RECHECK_S
        while True:
            await self._sleep(wait_s)
            try:
                await self._check()
            except LogUnavailableError as error:
                logger.warning("the measurement log can't be read: %s", error)
                wait_s = RETRY_S
            except (TransparencyError, HeadFileError, SettingsError) as error:
                logger.error("the measurement log is refused: %s", error)  # noqa: TRY400 - a refusal, not a fault of ours
                self._refusal = error
                if isinstance(error, TransparencyError) and error.reason in FINAL:
                    return
                wait_s = RETRY_S
            else:
                self._refusal = None
                self._checked = self._monotonic()
                wait_s = RECHECK_S

"""Follows a log for whoever watches it: every new entry is read, hashed to the signed head, and told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dataplane.log.follow import TRIES, Follower, Look
from dataplane.log.headfile import HeadFileError
from dataplane.protocol.transparency.checkpoint import Checkpoint, SignedHead
from dataplane.protocol.transparency.entry import Entry
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.merkle import EMPTY_ROOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One round: the head now, how many entries were known, and each new one."""

    head: SignedHead
    known: int
    new: tuple[tuple[int, Entry], ...]


class Monitor:
    """Watches one log. A head is remembered only when every entry under it was seen, so nothing is passed over."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    async def round(self, told: Callable[[Seen], None]) -> Seen:
        """Look once, hand what is new to `told`, then remember the head.

        Raises `TransparencyError` (`fork`, `rewound`, `hidden`, `entry`, `signature`, `stale` …), `LogUnavailableError`
        and `HeadFileError`.
        """
        for _ in range(TRIES):
            look = await self._follower.look()
            try:
                seen = await self._read_new(look)
            except TransparencyError as error:
                await self._follower.keep_evidence(error, look.reader)
                raise
            # Told before it is remembered: an entry may be told twice after a crash, and never not at all.
            told(seen)
            if await self._follower.keep(look):
                return seen
        raise HeadFileError("The file of the remembered head is changed by others; give the monitor one of its own.")

    async def _read_new(self, look: Look) -> Seen:
        before = look.before or SignedHead(Checkpoint(self._follower.key.name, 0, EMPTY_ROOT), b"", None)
        new: list[tuple[int, Entry]] = []
        if look.head.size > before.size:
            data = await look.reader.checked_entries(before.size, look.head.size, from_head=before)
            for number, each in enumerate(data, before.size):
                try:
                    new.append((number, Entry.parse(each)))
                except TransparencyError as error:
                    raise TransparencyError(
                        f"Entry {number} says nothing that can be read. {error}", reason="hidden"
                    ) from None
        return Seen(head=look.head, known=before.size, new=tuple(new))

"""A reader that remembers: its head may only grow, and what was accepted is kept in a file before it counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dataplane.log.headfile import HeadFile, HeadFileError
from dataplane.log.reader import LogReader, wall_clock_s
from dataplane.log.source import LogSource
from dataplane.protocol.transparency.checkpoint import SignedHead
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.note import VerifierKey
from dataplane.protocol.transparency.view import LogView

EVIDENCE: Final = frozenset({"fork", "rewound", "hidden"})
"""Refusals whose checkpoint is evidence against the log's operator."""

TRIES: Final = 3
"""Another process that shares the file may move the head once or twice between our reading and writing it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One accepted look at a log: `head` as `reader` accepted it, `before` what was remembered."""

    reader: LogReader
    head: SignedHead
    before: SignedHead | None


class Follower:
    """Follows one log from `source` under a pinned key.

    Raises `TransparencyError`, `LogUnavailableError`, `HeadFileError`. A checkpoint that contradicts the remembered
    one is kept beside it as evidence.
    """

    def __init__(
        self,
        source: LogSource,
        key: VerifierKey,
        file: HeadFile,
        *,
        max_age_s: int | None = None,
        clock_s: Callable[[], int] = wall_clock_s,
    ) -> None:
        self.key = key
        self._source = source
        self._file = file
        self._max_age_s = max_age_s
        self._clock_s = clock_s

    async def look(self) -> Look:
        """Fetch the log's head and accept it, remembering nothing yet."""
        remembered = await asyncio.to_thread(self._file.read)
        view = LogView(self.key, max_age_s=self._max_age_s)
        if remembered is not None:
            try:
                view = view.remembering(remembered)
            except TransparencyError as error:
                raise HeadFileError(
                    f"{self._file.path} holds no head that the pinned key signed ({error}); if the key was changed on "
                    "purpose, name another file."
                ) from None
        reader = LogReader(self._source, view, clock_s=self._clock_s)
        try:
            head = await reader.update()
        except TransparencyError as error:
            await self.keep_evidence(error, reader)
            raise
        return Look(reader=reader, head=head, before=view.head)

    async def keep(self, look: Look) -> bool:
        """Remember a look's head; False where another process remembered something else meanwhile: look again."""
        before = None if look.before is None else look.before.note
        if look.head.note == before:
            return True
        return await asyncio.to_thread(self._file.replace, look.head.note, instead_of=before)

    async def follow(self) -> Look:
        """Look, and remember what was accepted."""
        for _ in range(TRIES):
            look = await self.look()
            if await self.keep(look):
                return look
        raise HeadFileError(f"{self._file.path} is changed by others all the time; give each reader a file of its own.")

    async def keep_evidence(self, error: TransparencyError, reader: LogReader) -> None:
        """Keep the checkpoint that was refused, where it is evidence."""
        if error.reason in EVIDENCE and reader.offered is not None:
            await asyncio.to_thread(self._file.keep_evidence, reader.offered)

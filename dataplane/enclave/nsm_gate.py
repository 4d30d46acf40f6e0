"""One Nitro Secure Module for two kinds of callers: data keys first, documents that somebody asked for after them.

The module signs one document at a time. Without an order, whoever asks for documents often enough makes every data key
wait. Calls block, so this is for threads; each side is an `Nsm` of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from dataplane.enclave.nsm import Nsm
from dataplane.protocol.errors import ProblemError

T = TypeVar("T")

PATIENCE_S = 4.0
"""How long a document that was asked for waits for its turn: under the 5 s that a parent waits for it."""


class NsmGate:
    """Orders the calls of `first` (KMS) before those of `later` (everybody else)."""

    def __init__(self, nsm: Nsm, *, patience_s: float = PATIENCE_S) -> None:
        """Put the gate before `nsm`, which nobody may call past it."""
        self._nsm = nsm
        self._patience_s = patience_s
        self._free = threading.Condition()
        self._busy = False
        self._first_waiting = 0
        self.first: Nsm = _Side(nsm, self._run_first)
        self.later: Nsm = _Side(nsm, self._run_later)

    @property
    def first_waiting(self) -> int:
        """How many calls of `first` wait now."""
        return self._first_waiting

    def _run_first(self, work: Callable[[], T]) -> T:
        with self._free:
            self._first_waiting += 1
            try:
                self._free.wait_for(lambda: not self._busy)
                self._busy = True
            finally:
                self._first_waiting -= 1
        return self._work(work)

    def _run_later(self, work: Callable[[], T]) -> T:
        with self._free:
            if not self._free.wait_for(lambda: not self._busy and self._first_waiting == 0, self._patience_s):
                raise ProblemError(
                    "overloaded", "The enclave's security module is busy with data keys; try again.", retry_after_s=1
                )
            self._busy = True
        return self._work(work)

    def _work(self, work: Callable[[], T]) -> T:
        try:
            return work()
        finally:
            with self._free:
                self._busy = False
                self._free.notify_all()


Gate = Callable[[Callable[[], bytes]], bytes]


class _Side:
    """One kind of callers' view of the module."""

    def __init__(self, nsm: Nsm, gate: Gate) -> None:
        self._nsm = nsm
        self._gate = gate

    @property
    def assurance(self) -> int:
        return self._nsm.assurance

    def attest(self, *, nonce: bytes | None, user_data: bytes | None, public_key: bytes | None) -> bytes:
        return self._gate(lambda: self._nsm.attest(nonce=nonce, user_data=user_data, public_key=public_key))

    def random(self, size: int) -> bytes:
        return self._gate(lambda: self._nsm.random(size))

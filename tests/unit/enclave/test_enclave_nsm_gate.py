"""Data keys come before documents that somebody asked for, however many ask."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dataplane.enclave.nsm_gate import NsmGate
from dataplane.enclave.server import MAX_WAITING_ATTESTS
from dataplane.protocol.errors import ProblemError
from dataplane.protocol.link import LinkMessage, LinkType
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import create_nsm_root
from tests.unit.enclave.harness import PCRS, enclave

WAIT_S = 10.0


class HeldNsm:
    """Signs one document for every `turn`, and notes whose it was."""

    assurance = 0

    def __init__(self) -> None:
        self.turn = threading.Semaphore(0)
        self.signed: list[bytes | None] = []
        self.inside = 0
        self.fails = False

    def attest(
        self,
        *,
        nonce: bytes | None,
        user_data: bytes | None,  # noqa: ARG002 - the protocol's
        public_key: bytes | None,  # noqa: ARG002 - the protocol's
    ) -> bytes:
        self.inside += 1
        assert self.inside == 1, "the module makes one document at a time"
        assert self.turn.acquire(timeout=WAIT_S), "the test gives each call its turn"
        self.signed.append(nonce)
        self.inside -= 1
        return b"document"

    def random(self, size: int) -> bytes:
        if self.fails:
            raise OSError("the device failed")
        return bytes(size)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.001)


def ask(pool: ThreadPoolExecutor, side: object, name: bytes) -> object:
    return pool.submit(side.attest, nonce=name, user_data=None, public_key=None)  # type: ignore[attr-defined] # either side


def test_every_data_key_goes_before_any_document_that_waits() -> None:
    nsm = HeldNsm()
    gate = NsmGate(nsm, patience_s=WAIT_S)
    with ThreadPoolExecutor(8) as pool:
        ask(pool, gate.later, b"being made")
        until(lambda: nsm.inside == 1, "the first document is being made")
        for _ in range(3):
            ask(pool, gate.later, b"asked for")
        for _ in range(3):
            ask(pool, gate.first, b"data key")
        until(lambda: gate.first_waiting == 3, "three data keys wait")
        for _ in range(7):
            nsm.turn.release()
    assert nsm.signed == [b"being made", *[b"data key"] * 3, *[b"asked for"] * 3], "data keys overtook what waited"


def test_a_document_that_never_gets_its_turn_is_refused_in_a_sentence() -> None:
    nsm = HeldNsm()
    gate = NsmGate(nsm, patience_s=0.01)
    with ThreadPoolExecutor(1) as pool:
        ask(pool, gate.first, b"data key")
        until(lambda: nsm.inside == 1, "a data key is being made")
        with pytest.raises(ProblemError, match="busy with data keys") as caught:
            gate.later.attest(nonce=None, user_data=None, public_key=None)
        assert (caught.value.code, caught.value.retry_after_s) == ("overloaded", 1), "and when to come back"
        nsm.turn.release()
    assert nsm.signed == [b"data key"], "it was not made after all"


def test_a_module_that_fails_leaves_the_gate_open() -> None:
    nsm = HeldNsm()
    gate = NsmGate(nsm)
    nsm.fails = True
    with pytest.raises(OSError, match="failed"):
        gate.first.random(8)
    nsm.turn.release()
    assert gate.later.attest(nonce=b"n", user_data=None, public_key=None) == b"document", "the next call has its turn"


async def test_the_enclave_makes_one_document_at_a_time_and_lets_one_wait(tmp_path: Path) -> None:
    release, asked = threading.Event(), list[bytes | None]()

    class SlowNsm(SoftwareNsm):
        def attest(self, *, nonce: bytes | None, user_data: bytes | None, public_key: bytes | None) -> bytes:
            if nonce is not None:
                asked.append(nonce)
                assert release.wait(WAIT_S), "the test lets it go"
            return super().attest(nonce=nonce, user_data=user_data, public_key=public_key)

    root = create_nsm_root()
    nsm = SlowNsm(root=root, pcrs=PCRS, instance_id="i-0aaaabbbbccccdddd", clock_ms=lambda: time.time_ns() // 1_000_000)
    async with enclave(tmp_path, nsm=nsm, root=root, bound=False) as running:
        calls = [asyncio.create_task(running.call(op="attest", nonce=bytes([n]) * 16)) for n in range(6)]
        done: set[asyncio.Task[LinkMessage]] = set()
        async with asyncio.timeout(WAIT_S):
            while len(done) < len(calls) - 1 - MAX_WAITING_ATTESTS:
                done, _ = await asyncio.wait(calls, timeout=0.01)
        refused = [(await task).map() for task in done]
        assert {one["code"] for one in refused} == {"overloaded"}, "those beyond are told at once"
        assert len(asked) == 1, "the module has one to make"
        release.set()
        types = [(await task).type for task in calls]
    assert types.count(LinkType.REPLY) == 1 + MAX_WAITING_ATTESTS, "the one being made, and the one that waited"

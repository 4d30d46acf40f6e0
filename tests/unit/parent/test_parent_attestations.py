"""One document a second for all who ask, on a clock of the test's own."""

from __future__ import annotations

import asyncio

import pytest

from dataplane.parent.attestations import PERIOD_S, SharedAttestations
from dataplane.protocol.attestation.nonces import MAX_SHARED_NONCES, expected_nonce
from dataplane.protocol.errors import ProblemError


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self.now + seconds, woken))
        self._wake()
        await woken.wait()

    async def pass_(self, seconds: float) -> None:
        await settle()
        self.now += seconds
        self._wake()
        await settle()

    def _wake(self) -> None:
        for until, woken in self._sleepers:
            if until <= self.now + 1e-9:
                woken.set()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Enclave:
    """Answers with the nonce itself, so that a test sees what the document carries."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.hold: asyncio.Event | None = None
        self.fail: Exception | None = None

    async def attest(self, nonce: bytes) -> bytes:
        self.asked.append(nonce)
        if self.hold is not None:
            await self.hold.wait()
        if self.fail is not None:
            raise self.fail
        return nonce


def nonce(number: int) -> bytes:
    return number.to_bytes(16, "big")


async def test_one_asker_is_served_at_once_over_its_own_nonce() -> None:
    clock, enclave = Clock(), Enclave()
    shared = SharedAttestations(enclave.attest, monotonic=clock.monotonic, sleep=clock.sleep)
    for number in range(3):
        got = await shared.document(nonce(number))
        assert (got.document, got.nonces) == (nonce(number), None), "a single nonce stays as it is"
        clock.now += PERIOD_S
    await shared.close()


async def test_all_who_ask_within_a_second_share_one_document_and_each_can_check_it() -> None:
    clock, enclave = Clock(), Enclave()
    shared = SharedAttestations(enclave.attest, monotonic=clock.monotonic, sleep=clock.sleep)
    await shared.document(nonce(99))
    askers = [asyncio.create_task(shared.document(nonce(number))) for number in range(20)]
    await clock.pass_(PERIOD_S * 0.9)
    assert len(enclave.asked) == 1, "the module is left alone for a second"
    await clock.pass_(PERIOD_S * 0.1)
    answers = await asyncio.gather(*askers)
    assert len(enclave.asked) == 2, "one document for all twenty"
    for number, answer in enumerate(answers):
        assert expected_nonce(nonce(number), answer.nonces) == answer.document, "each finds its nonce in it"
    await shared.close()


async def test_who_comes_while_a_document_is_made_gets_a_younger_one() -> None:
    clock, enclave = Clock(), Enclave()
    enclave.hold = asyncio.Event()
    shared = SharedAttestations(enclave.attest, monotonic=clock.monotonic, sleep=clock.sleep)
    first = asyncio.create_task(shared.document(nonce(1)))
    await settle()
    late = asyncio.create_task(shared.document(nonce(2)))
    await clock.pass_(5)
    assert enclave.asked == [nonce(1)], "one at a time"
    enclave.hold.set()
    assert (await first).document == nonce(1), "the first is done"
    await clock.pass_(PERIOD_S)
    assert (await late).document == nonce(2), "a document is never older than the nonce that it serves"
    await shared.close()


async def test_a_document_serves_a_bounded_number_and_the_rest_are_told_when_to_come_back() -> None:
    clock, enclave = Clock(), Enclave()
    shared = SharedAttestations(enclave.attest, monotonic=clock.monotonic, sleep=clock.sleep)
    await shared.document(nonce(99))
    askers = [asyncio.create_task(shared.document(nonce(number))) for number in range(MAX_SHARED_NONCES)]
    await settle()
    with pytest.raises(ProblemError, match="serves 32 others") as caught:
        await shared.document(nonce(77))
    assert (caught.value.code, caught.value.retry_after_s) == ("overloaded", 1), "a second later there is room"
    await clock.pass_(PERIOD_S)
    assert len(await asyncio.gather(*askers)) == MAX_SHARED_NONCES, "the others are served"
    await shared.close()


async def test_a_failure_reaches_every_asker_and_the_next_second_begins_anew() -> None:
    clock, enclave = Clock(), Enclave()
    enclave.fail = TimeoutError()
    shared = SharedAttestations(enclave.attest, monotonic=clock.monotonic, sleep=clock.sleep)
    askers = [asyncio.create_task(shared.document(nonce(number))) for number in range(2)]
    got = await asyncio.gather(*askers, return_exceptions=True)
    assert [type(one) for one in got] == [TimeoutError, TimeoutError], "nobody waits for ever"
    enclave.fail = None
    again = asyncio.create_task(shared.document(nonce(3)))
    await clock.pass_(PERIOD_S)
    assert (await again).document == nonce(3), "and the next is served"
    await shared.close()


async def test_an_asker_who_leaves_takes_nothing_from_the_others() -> None:
    clock, enclave = Clock(), Enclave()
    shared = SharedAttestations(enclave.attest, monotonic=clock.monotonic, sleep=clock.sleep)
    await shared.document(nonce(99))
    leaver, stayer = (asyncio.create_task(shared.document(nonce(number))) for number in (1, 2))
    await settle()
    leaver.cancel()
    await clock.pass_(PERIOD_S)
    answer = await stayer
    assert expected_nonce(nonce(2), answer.nonces) == answer.document, "the stayer is served"
    await shared.close()


async def test_closing_lets_everybody_go() -> None:
    clock, enclave = Clock(), Enclave()
    enclave.hold = asyncio.Event()
    shared = SharedAttestations(enclave.attest, monotonic=clock.monotonic, sleep=clock.sleep)
    made = asyncio.create_task(shared.document(nonce(1)))
    await settle()
    waits = asyncio.create_task(shared.document(nonce(2)))
    await settle()
    await shared.close()
    for task in (made, waits):
        with pytest.raises(asyncio.CancelledError):
            await task

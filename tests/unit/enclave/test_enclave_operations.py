"""The parent's short operations, the worker's binding, limits and stopping."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.enclave.binding import (
    BindingError,
    assurance_level,
    judge_answer,
    read_host_measurements,
)
from dataplane.enclave.credentials import HostCredentials, RelayedCredentials
from dataplane.enclave.memory import ByteBudget, Reservation
from dataplane.mesh.address import connect
from dataplane.mesh.linkio import LinkStream
from dataplane.protocol import cbor
from dataplane.protocol.attestation.verify import SECURE_BOOT_OFF_PCR7, AttestationPolicy, verify
from dataplane.protocol.errors import AttestationError, LinkError, ProblemError, SettingsError
from dataplane.protocol.hop import worker_binding_digest
from dataplane.protocol.link import LinkType
from dataplane.protocol.wash import Wash
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import create_nsm_root
from tests.unit.enclave.harness import CONFIG_DIGEST, PCRS, Enclave, HopWorker, enclave

INSTANCE = "i-0aaaabbbbccccdddd"
CONFIGURATIONS = frozenset({CONFIG_DIGEST})
HOST = {4: b"\x44" * 48, 12: b"\x55" * 48}
TPM_PCRS = {0: b"\x01" * 48, 1: b"\x02" * 48, 2: b"\x03" * 48, **HOST}
CREDENTIALS = {
    "op": "credentials",
    "access_key_id": "ASIA",
    "secret_access_key": "hidden-secret",
    "session_token": "hidden-token",
}


class GenuineNsm(SoftwareNsm):
    """As if it were the device: level 1."""

    assurance = 1


async def test_health_says_what_is_missing_and_what_is_there(tmp_path: Path) -> None:
    async with enclave(tmp_path, bound=False) as running:
        before = (await running.call(op="health")).map()
        assert (before["ready"], before["worker"], before["worker_epoch"]) == (False, False, None), "no worker yet"
        await running.bind()
        await running.infer(running.seal())
        after = (await running.call(op="health")).map()
    assert after == {
        "ready": True,
        "credentials": True,
        "worker": True,
        "assurance": 0,
        "data_keys": 1,
        "replay_entries": 1,
        "pcr0": PCRS[0],
        "worker_epoch": running.worker.epoch,
        "binding_age_ms": after["binding_age_ms"],
        "clock_skew_ms": after["clock_skew_ms"],
        "kms_calls": 1,
        "requests": 1,
    }, "what the parent's page is made from"
    assert 0 <= after["binding_age_ms"] < 5_000, "it was bound just now"
    assert abs(after["clock_skew_ms"]) < 5_000, "one clock for both here"


async def test_attest_returns_a_fresh_document_over_the_nonce(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        reply = (await running.call(op="attest", nonce=b"n" * 32)).map()
        policy = AttestationPolicy(allowed_pcrs=[PCRS], nonce=b"n" * 32)
        document = verify(reply["document"], now_ms=running.now_ms(), policy=policy, roots=[running.root.certificate])
    assert document.instance_id == INSTANCE, "this enclave's"
    assert document.public_key is None, "no key that KMS would seal to travels in it"


@pytest.mark.parametrize("nonce", [b"", b"n" * 15, b"n" * 65, "text", None])
async def test_a_nonce_of_another_length_is_refused(tmp_path: Path, nonce: object) -> None:
    async with enclave(tmp_path) as running:
        reply = await running.call(op="attest", nonce=nonce)
    assert reply.type is LinkType.PROBLEM, "16 to 64 bytes"


async def test_credentials_are_taken_and_replaced(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        soon = running.now_ms() + 1000
        assert (await running.call(**CREDENTIALS, expires_ms=soon)).map() == {"ok": True}, "taken"
        assert (await running.call(op="health")).map()["credentials"] is False, "1 s is too near their end"
        await running.call(**CREDENTIALS, expires_ms=running.now_ms() + 60_000)
        assert (await running.call(op="health")).map()["ready"] is True, "renewed"


@pytest.mark.parametrize("name", ["access_key_id", "secret_access_key", "session_token", "expires_ms"])
async def test_incomplete_credentials_are_refused_without_repeating_them(tmp_path: Path, name: str) -> None:
    async with enclave(tmp_path) as running:
        fields = {**CREDENTIALS, "expires_ms": 2**41, name: None}
        reply = await running.call(**fields)
    assert reply.type is LinkType.PROBLEM, "all four are needed"
    assert name in reply.map()["detail"], "the sentence names the field"
    assert "hidden" not in reply.map()["detail"], "and repeats no value"


def test_credentials_hide_themselves() -> None:
    fields = {**CREDENTIALS, "expires_ms": 2**50}
    credentials = HostCredentials.from_map(fields)
    relayed = RelayedCredentials(clock_ms=lambda: 0)
    relayed.replace(credentials)
    assert "hidden" not in repr(credentials) + repr(relayed) + str(vars(relayed)), "no repr shows a secret"
    assert relayed.get_frozen_credentials().token == "hidden-token", "botocore gets them"


def test_without_credentials_the_host_has_failed() -> None:
    with pytest.raises(ProblemError) as caught:
        RelayedCredentials(clock_ms=lambda: 0).get_frozen_credentials()
    assert caught.value.code == "host-failed", "another host may have some"


async def test_an_unknown_operation_is_refused(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        assert (await running.call(op="dump")).map()["code"] == "not-found", "only what the host link names"
        assert (await running.call()).map()["code"] == "not-found", "or nothing"


# Binding.


async def test_a_car_wash_drops_every_data_key(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        session = running.session()
        await running.infer(running.seal(session=session))
        running.worker = HopWorker(wash=Wash(id=b"v" * 16, time_ms=1_800_000_000_000))
        await running.bind()
        assert (await running.call(op="health")).map()["data_keys"] == 0, "none survives a car wash"
        assert (await running.infer(running.seal(session=session))).head.status == 200, "the new worker serves"
        assert running.kms.calls == 2, "KMS was asked again"


async def test_a_binding_that_only_renews_the_last_one_keeps_data_keys(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        session = running.session()
        await running.infer(running.seal(session=session))
        running.worker = HopWorker()  # another key of the same host
        await running.bind()
        assert (await running.infer(running.seal(session=session))).head.status == 200, "under the new key"
        assert running.kms.calls == 1, "or every session would go to KMS at once, every ten minutes"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        cbor.encode({"public_key": b"x" * 32}),
        cbor.encode(
            {"public_key": b"x" * 31, "epoch": b"e" * 16, "wash": None, "config_digest": b"c" * 32, "document": None}
        ),
        cbor.encode(
            {
                "public_key": b"x" * 32,
                "epoch": b"e" * 16,
                "wash": {"id": "ab" * 16, "time": -1},
                "config_digest": b"c" * 32,
                "document": None,
            }
        ),
        cbor.encode(
            {"public_key": b"x" * 32, "epoch": b"e" * 16, "wash": None, "config_digest": b"c" * 32, "document": "x"}
        ),
    ],
)
async def test_a_worker_that_answers_otherwise_is_refused_and_none_is_bound(tmp_path: Path, answer: bytes) -> None:
    async with enclave(tmp_path) as running:
        reply = await running.bind(answer)
        assert reply.map()["code"] == "host-failed", "the host's worker is broken"
        assert (await running.call(op="health")).map()["worker"] is False, "and the old one is not trusted on"


async def test_a_worker_that_does_not_answer_the_challenge_is_told_so(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running, running.link() as link:
        await link.send(LinkType.OPEN, {"op": "bind"}, timeout_s=1)
        await link.receive(1)
        await link.receive(1)
        await link.send(LinkType.HOP_ABORT, {"reason": "host-failed"}, timeout_s=1)
        reply = await link.receive(2)
        assert reply is not None, "a binding is answered"
        assert reply.type is LinkType.PROBLEM, "the parent learns of it"


def tpm_document(
    challenge: bytes,
    worker: HopWorker,
    running: Enclave,
    *,
    pcrs: dict[int, bytes] | None = None,
    instance: str = INSTANCE,
    nonce: bytes | None = None,
    epoch: bytes | None = None,
    root: object = None,
) -> bytes:
    tpm = SoftwareNsm(
        root=running.root if root is None else root,  # type: ignore[arg-type] # another authority
        pcrs=pcrs or TPM_PCRS,
        instance_id=instance,
        clock_ms=running.now_ms,
        pcr_field="nitrotpm_pcrs",
    )
    digest = worker_binding_digest(worker.public_key, epoch or worker.epoch, CONFIG_DIGEST, worker.wash)
    return tpm.attest(nonce=nonce or challenge, user_data=digest, public_key=None)


@contextlib.asynccontextmanager
async def genuine(tmp_path: Path, **changes: object) -> AsyncIterator[Enclave]:
    """An enclave at level 1 whose worker shows a NitroTPM document with `changes`."""
    root = create_nsm_root()
    nsm = GenuineNsm(root=root, pcrs=PCRS, instance_id=INSTANCE, clock_ms=lambda: time.time_ns() // 10**6)
    async with enclave(
        tmp_path, bound=False, nsm=nsm, root=root, host_measurements=[HOST], configurations=CONFIGURATIONS
    ) as running:
        running.worker.document = lambda challenge, worker: tpm_document(challenge, worker, running, **changes)  # type: ignore[arg-type] # as named there
        yield running


async def test_a_worker_with_a_good_document_makes_level_2(tmp_path: Path) -> None:
    async with genuine(tmp_path) as running:
        reply = (await running.bind()).map()
        assert reply == {"assurance": 2, "epoch": running.worker.epoch}, "both halves are proven"
        outcome = await running.infer(running.seal(assurance=2))
        assert outcome.receipt.assurance == 2, "and the receipt says so"


async def test_a_genuine_enclave_without_a_document_is_level_1(tmp_path: Path) -> None:
    async with genuine(tmp_path) as running:
        running.worker.document = lambda _challenge, _worker: None
        assert (await running.bind()).map()["assurance"] == 1, "the enclave alone is proven"
        assert (await running.infer(running.seal(assurance=2))).problem == "assurance-too-low", "2 is more"
        assert (await running.infer(running.seal(assurance=1))).receipt.assurance == 1, "1 is had"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pcrs": {**TPM_PCRS, 12: b"\x66" * 48}}, "measurements are not among"),
        ({"pcrs": {4: TPM_PCRS[4], **dict.fromkeys(range(3), b"\x01" * 48)}}, "measurements are not among"),
        ({"instance": "i-0ffffffffffffffff"}, "another instance"),
        ({"nonce": b"an old challenge"}, "nonce"),
        ({"epoch": b"e" * 16}, "user data"),
        ({"root": create_nsm_root()}, ""),
    ],
)
async def test_a_bad_document_refuses_the_worker_and_is_no_lower_level(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    async with genuine(tmp_path, **changes) as running:
        reply = (await running.bind()).map()
        assert reply["code"] == "host-failed", "refused, not downgraded"
        assert reason in reply["detail"], "the failed check is named"
        assert (await running.infer(running.seal())).problem == "host-failed", "nothing is sealed to it"


@pytest.mark.parametrize(
    "raised",
    [OverflowError("date value out of range"), KeyError(99), RecursionError(), MemoryError(), UserWarning("x")],
)
async def test_whatever_the_judge_raises_the_old_worker_is_gone_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    def judge(*_: object, **__: object) -> NoReturn:
        raise raised

    async with genuine(tmp_path) as running:
        await running.bind()
        assert (await running.infer(running.seal(assurance=2))).receipt.assurance == 2, "the old worker, at level 2"
        monkeypatch.setattr("dataplane.enclave.binder.judge_answer", judge)
        reply = (await running.bind()).map()
        assert reply["code"] == "host-failed", "an answer, and no broken connection"
        assert "date value" not in reply["detail"], "what was raised stays inside"
        health = (await running.call(op="health")).map()
        assert (health["worker"], health["data_keys"]) == (False, 0), "no worker, and no key of its time"
        assert (await running.infer(running.seal(assurance=2))).problem == "host-failed", "nothing is sealed to it"


async def test_a_challenge_that_is_not_answered_leaves_no_worker(tmp_path: Path) -> None:
    async with genuine(tmp_path) as running:
        await running.bind()
        async with running.link() as link:
            await link.send(LinkType.OPEN, {"op": "bind"}, timeout_s=1)
            await link.receive(2)
            await link.send(LinkType.HOP_ABORT, {"reason": "host-failed"}, timeout_s=1)
            while (message := await link.receive(2)) is not None and message.type is not LinkType.PROBLEM:
                pass
        health = (await running.call(op="health")).map()
        assert not health["worker"], "who does not answer is not proven"


def test_the_level_is_the_least_of_what_is_proven() -> None:
    assert [assurance_level(nsm, host_attested=host) for nsm in (0, 1) for host in (False, True)] == [0, 0, 1, 2], (
        "a software NSM is 0 whatever the worker shows"
    )


@given(data=st.binary(max_size=200))
def test_no_answer_crashes_the_judge(data: bytes) -> None:
    with pytest.raises(BindingError):
        judge_answer(data, challenge=b"c" * 32, own_pcr4=b"4" * 48, allowed=[], now_ms=0)


def test_host_measurements_are_read_from_the_image(tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps({"allowed": [{str(index): value.hex() for index, value in HOST.items()}]}))
    assert read_host_measurements(path) == [HOST], "as written"


def test_an_untouched_image_is_pinned_with_a_zero_pcr12(tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps({"allowed": [{"4": "44" * 48, "12": "00" * 48}]}))
    assert read_host_measurements(path) == [{4: b"\x44" * 48, 12: bytes(48)}], "zero is a value, and is compared"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"allowed": [{}]}',
        '{"allowed": [{"4": "00"}]}',
        json.dumps({"allowed": [{"4": "44" * 48}]}),
        json.dumps({"allowed": [{"4": "00" * 48, "12": "00" * 48}]}),
        json.dumps({"allowed": [{"7": "77" * 48}]}),
        json.dumps({"allowed": [{"4": "44" * 48, "7": "00" * 48}]}),
        json.dumps({"allowed": [{"4": "44" * 48, "7": SECURE_BOOT_OFF_PCR7.hex()}]}),
        json.dumps({"allowed": [{"4": "44" * 48, "12": "00" * 48, "-1": "11" * 48}]}),
        json.dumps({"allowed": [{"4": "44" * 48, "12": "00" * 48, "04": "55" * 48}]}),
        json.dumps({"allowed": [{"4": "44" * 48, "12": "00" * 48, "5": "55" * 48}]}).replace('"5"', '"4"'),
        "[" * 100_000,
        json.dumps({"allowed": [{"four": "44" * 48}]}),
    ],
)
def test_host_measurements_that_allow_too_much_or_are_none_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(content)
    with pytest.raises(SettingsError, match="host measurements"):
        read_host_measurements(path)


def test_host_measurements_that_are_not_there_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't be read"):
        read_host_measurements(tmp_path / "none.json")


def test_a_document_without_measurements_to_compare_with_proves_nothing() -> None:
    worker = HopWorker(document=lambda _challenge, _worker: b"a document")
    binding = judge_answer(worker.answer_challenge(b""), challenge=b"c" * 32, own_pcr4=b"4" * 48, allowed=[], now_ms=0)
    assert not binding.host_attested, "an image with no allow-list can't reach level 2"
    with pytest.raises(AttestationError):
        judge_answer(worker.answer_challenge(b""), challenge=b"c" * 32, own_pcr4=b"4" * 48, allowed=[HOST], now_ms=0)


# Limits and stopping.


async def test_connections_over_the_limit_are_told_overloaded(tmp_path: Path) -> None:
    async with (
        enclave(tmp_path, bound=False, max_connections=2) as running,
        running.link(),
        running.link(),
    ):
        async with asyncio.timeout(2):
            while running.server.connections < 2:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)
        reply = await running.call(op="health")
        assert reply.map()["code"] == "overloaded", "the third is refused"


async def test_a_connection_that_says_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.enclave.server.OPEN_TIMEOUT_S", 0.05)
    async with enclave(tmp_path) as running, running.link() as link:
        assert await link.receive(2) is None, "its place is needed"


async def test_a_body_that_stops_midway_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.enclave.infer.BODY_STALL_S", 0.05)
    async with enclave(tmp_path) as running, running.link() as link:
        data, _, header = running.seal()
        await link.send(LinkType.OPEN, running.opening(header), timeout_s=1)
        await link.send(LinkType.DATA, data[:50], timeout_s=1)
        message = await link.receive(2)
        while message is not None and message.type is LinkType.SPANS:
            message = await link.receive(2)
        assert message is not None, "it is told so"
        assert message.map()["code"] == "deadline-exceeded", "a slow writer holds no place"
    assert running.server.state.memory.used == 0, "nor memory"


async def test_a_reader_that_stops_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.enclave.answer.WRITE_STALL_S", 0.1)
    async with enclave(tmp_path) as running:
        running.worker.chunks = tuple(b"x" * 60_000 for _ in range(40))
        data, _, header = running.seal()
        reader, writer = await connect(running.address, timeout_s=1, limit=1024)
        link = LinkStream(reader, writer)
        await link.send(LinkType.OPEN, running.opening(header), timeout_s=1)
        await link.send(LinkType.DATA, data, timeout_s=1)
        await link.send(LinkType.END, timeout_s=1)
        request = b""
        while (message := await link.receive(2)) is not None and message.type is LinkType.HOP_DATA:
            request += message.payload
        with contextlib.suppress(LinkError):
            async for piece in running.worker.generate(request):
                await link.send(LinkType.HOP_DATA, piece, timeout_s=1)
        async with asyncio.timeout(3):
            while running.server.connections:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)
        link.abort()
    assert running.server.connections == 0, "a slow reader is not waited for"


async def test_closing_drains_and_then_breaks_what_is_left(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        running.worker.pause = asyncio.Event()
        task = asyncio.create_task(running.infer(running.seal()))
        async with asyncio.timeout(3):
            while not running.worker.seen:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)
        await running.server.close(drain_s=0.05)
        with contextlib.suppress(LinkError):
            outcome = await task
            assert outcome.ended is not LinkType.END, "a broken stream never ends cleanly"
        assert running.server.connections == 0, "no handler is left"
        assert len(running.server.state.keyring) == 0, "no key is left"


async def test_a_second_enclave_at_one_address_is_refused(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        with pytest.raises(Exception, match="another process answers there"):
            await running.server.start()


def test_bytes_are_given_back_once() -> None:
    budget = ByteBudget(10)
    first = Reservation(budget)
    first.hold(7)
    with pytest.raises(ProblemError):
        Reservation(budget).hold(4)
    first.hold(5)
    second = Reservation(budget)
    second.hold(4)
    with pytest.raises(ProblemError):
        second.hold(6)
    assert budget.used == 9, "what could not grow stays as it was"
    second.close()
    first.close()
    first.close()
    assert budget.used == 0, "twice closed is once given back"


async def test_a_refused_worker_is_logged_by_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with enclave(tmp_path) as running:
        await running.bind(b"\xff")
    assert "the GPU worker was refused" in caplog.text, "an operator must see why"

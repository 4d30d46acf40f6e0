"""The tenant's attestation check, over HTTP and with documents of the genuine format."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from aiohttp import web

from dataplane.protocol.attestation.document import AttestationDocument, parse_cose, parse_payload
from dataplane.protocol.attestation.nonces import MAX_SHARED_NONCES, format_nonces, shared_nonce
from dataplane.protocol.errors import AttestationError, SettingsError
from dataplane.tenant.attest import attest, load_root, shown_registers
from dataplane.tenant.client import wall_clock_ms
from dataplane.tenant.errors import RequestError
from dataplane.tenant.retry import RetryPolicy
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import create_nsm_root
from tests.unit.tenant.fake_cluster import FakeCluster, running

PCRS = {index: bytes([index + 1]) * 48 for index in range(3)}
ROOT = create_nsm_root()
NSM = SoftwareNsm(root=ROOT, pcrs=PCRS, instance_id="i-0123456789abcdef0", clock_ms=wall_clock_ms)


def genuine(nonce: bytes) -> bytes:
    return NSM.attest(nonce=nonce, user_data=None, public_key=None)


async def ask(cluster: FakeCluster, **changes: Any) -> AttestationDocument:
    arguments: dict[str, Any] = {
        "endpoint": cluster.url,
        "tls": None,
        "api_key": None,
        "tenant": None,
        "measurements": [PCRS],
        "roots": [ROOT.certificate],
        "retry": RetryPolicy(max_attempts=2, base_s=0.001),
    }
    return await attest(**(arguments | changes))


async def test_a_fresh_document_of_the_allowed_image_is_verified() -> None:
    async with running(FakeCluster(attestation=genuine)) as cluster:
        document = await ask(cluster)
    assert document.instance_id == "i-0123456789abcdef0", "it says which instance answered"
    assert document.pcrs[0] == PCRS[0], "and what runs there"


async def test_an_old_document_does_not_answer_a_new_nonce() -> None:
    replayed = genuine(secrets.token_bytes(32))
    async with running(FakeCluster(attestation=lambda _: replayed)) as cluster:
        with pytest.raises(AttestationError, match="nonce") as caught:
            await ask(cluster)
    assert caught.value.reason == "nonce", "the failed check is named"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"roots": None}, "chain"),
        ({"measurements": [PCRS | {0: b"\x77" * 48}]}, "pcr"),
        ({"measurements": []}, "pcr"),
        ({"clock_ms": lambda: wall_clock_ms() + 600_000}, "age"),
    ],
    ids=["AWS's root", "another image", "no image", "ten minutes later"],
)
async def test_what_does_not_hold_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    async with running(FakeCluster(attestation=genuine)) as cluster:
        with pytest.raises(AttestationError) as caught:
            await ask(cluster, **changes)
    assert caught.value.reason == reason, "the failed check is named"


def test_the_registers_shown_are_those_that_decided() -> None:
    document = parse_payload(parse_cose(genuine(b"n" * 32)).payload)
    few = dataclasses.replace(document, pcrs=PCRS)
    other = PCRS | {8: b"\x88" * 48}
    assert shown_registers(few, [other, PCRS]) == {str(index): PCRS[index].hex() for index in PCRS}, "not the first's"
    assert shown_registers(few, [other]) == {}, "none, where no measurement is the document's"


@pytest.mark.parametrize("raised", [OverflowError("date value out of range"), KeyError(99), RecursionError()])
async def test_a_fault_of_the_verifier_is_a_refusal_in_a_sentence(
    raised: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise raised

    monkeypatch.setattr("dataplane.tenant.attest.verify", fail)
    async with running(FakeCluster(attestation=genuine)) as cluster:
        with pytest.raises(AttestationError, match="could not be judged"):
            await ask(cluster)


async def test_a_measurement_that_would_allow_too_much_is_refused() -> None:
    async with running(FakeCluster(attestation=genuine)) as cluster:
        with pytest.raises(AttestationError, match="PCR0"):
            await ask(cluster, measurements=[{3: b"\1" * 48}])


def test_a_root_that_is_none_is_refused_in_a_sentence(tmp_path: Path) -> None:
    pem = ROOT.certificate_pem()
    other = b"-----BEGIN CERTIFICATE-----\nMAMCAQU=\n-----END CERTIFICATE-----\n"
    for number, content in enumerate((b"", pem[:200], pem.replace(b"CERTIFICATE", b"PUBLIC KEY"), other)):
        path = tmp_path / f"{number}.pem"
        path.write_bytes(content)
        with pytest.raises(SettingsError, match="holds no PEM certificate"):
            load_root(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        load_root(tmp_path)


async def test_garbage_is_refused() -> None:
    async with running(FakeCluster(attestation=lambda _: b"garbage")) as cluster:
        with pytest.raises(AttestationError):
            await ask(cluster)


async def test_an_endpoint_that_floods_is_cut_off() -> None:
    async with running(FakeCluster(attestation=lambda _: bytes(2 << 20))) as cluster:
        with pytest.raises(RequestError, match="over 1048576 bytes"):
            await ask(cluster)


async def test_nobody_there_is_said_after_the_attempts() -> None:
    with pytest.raises(RequestError, match="cannot be connected to") as caught:
        await ask(FakeCluster(url="http://127.0.0.1:1"))
    assert caught.value.attempts == 2, "it was tried again"


@asynccontextmanager
async def sharing(*others: bytes, without_own: bool = False) -> AsyncIterator[str]:
    """An endpoint whose documents serve `others` as well; its URL."""

    async def answer(request: web.BaseRequest) -> web.Response:
        own = [] if without_own else [bytes.fromhex(request.query["nonce"])]
        nonces = [*others, *own]
        listed = format_nonces(nonces)
        headers = {} if listed is None else {"X-MRGC-Nonces": listed}
        return web.Response(body=genuine(shared_nonce(nonces)), content_type="application/cbor", headers=headers)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("others", [0, 1, MAX_SHARED_NONCES - 1])
async def test_a_document_that_serves_others_too_is_verified(others: int) -> None:
    async with sharing(*(secrets.token_bytes(64) for _ in range(others))) as url:
        document = await ask(FakeCluster(url=url))
    assert document.pcrs[0] == PCRS[0], "our own nonce is in what it was made over"


async def test_a_document_that_serves_only_others_is_refused() -> None:
    async with sharing(secrets.token_bytes(32), secrets.token_bytes(32), without_own=True) as url:
        with pytest.raises(AttestationError, match="made for others") as caught:
            await ask(FakeCluster(url=url))
    assert caught.value.reason == "nonce", "it may be older than our question"

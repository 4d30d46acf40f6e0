"""A receipt through router, parent, enclave and worker, all listening: signed, kept, and judged without any of them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dataplane.protocol.errors import MrgcError
from dataplane.protocol.receipt import Receipt
from dataplane.tenant.bundle import read_bundle, write_bundle
from dataplane.tenant.client import TenantClient, wall_clock_ms
from dataplane.tenant.documents import DocumentSource
from dataplane.tenant.errors import ReceiptError
from dataplane.tenant.judge import Wanted, judge
from dataplane.tenant.pins import Pins, parse_pins, pcr0s_of
from dataplane.tenant.session import KmsSession
from observability.tracing import Telemetry
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import create_nsm_root
from tests.support.whole_path import INSTANCE, Options, WholePath, whole_path
from tests.unit.enclave.harness import PCRS
from tests.unit.router.harness import API_KEY, KMS_KEY, POOL

PATH = "/v1/chat/completions"
BODY = json.dumps(
    {"model": POOL, "messages": [{"role": "user", "content": "sesame"}], "max_tokens": 4, "stream": True}
).encode()
TENANT = "tenant-a"


class KmsOf:
    """GenerateDataKey of the KMS that this path's enclave asks."""

    def __init__(self, path: WholePath) -> None:
        self._path = path

    def generate_data_key(self, **asked: Any) -> Any:
        cek, wrapped = self._path.enclave.kms.wrap(asked["EncryptionContext"], asked["KeyId"])
        return {"Plaintext": cek, "CiphertextBlob": wrapped}


def tenant_of(path: WholePath, *, pins: Pins | None = None) -> TenantClient:
    telemetry = Telemetry.from_environment("tenant", environ={})
    session = KmsSession(
        tenant=TENANT,
        key_arn=KMS_KEY,
        kms=KmsOf(path),
        clock_ms=wall_clock_ms,
        monotonic=time.monotonic,
        telemetry=telemetry,
    )
    return TenantClient(
        endpoint=f"http://127.0.0.1:{path.router.router.port}",
        tls=None,
        api_key=API_KEY,
        session=session,
        telemetry=telemetry,
        assurance=0,
        disclose=True,
        pins=pins or Pins(),
    )


def options() -> Options:
    """An enclave on the host that the registry names, as its own document then says."""
    root = create_nsm_root()
    nsm = SoftwareNsm(root=root, pcrs=PCRS, instance_id=INSTANCE, clock_ms=wall_clock_ms)
    return Options(enclave={"root": root, "nsm": nsm})


async def test_a_kept_receipt_shows_offline_what_was_asked_and_answered(tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    async with whole_path(tmp_path, options()) as path:
        pins = parse_pins(pcr0s=[value.hex() for value in pcr0s_of([PCRS])])
        async with tenant_of(path, pins=pins) as client:
            done = await client.complete(PATH, BODY, model=POOL)
        source = DocumentSource(
            endpoint=f"http://127.0.0.1:{path.router.router.port}",
            tls=None,
            credentials={"Authorization": f"Bearer {API_KEY}", "X-Tenant-ID": TENANT},
            roots=[path.enclave.root.certificate],
        )
        write_bundle(file, done.bundle.attested(await source.fetch(done.receipt)))
        root = path.enclave.root.certificate
    wanted = Wanted(roots=[root], measurements=[PCRS], request=BODY, response=done.body)
    verdict = judge(read_bundle(file), wanted)
    assert verdict.exchange is not None, "it was disclosed"
    assert verdict.exchange.message.body == BODY, "what was asked"
    assert verdict.exchange.body == done.body, "what was answered"
    assert verdict.receipt.config_digest is not None, "the worker's configuration, from its binding"
    assert verdict.receipt.usage, "the worker's figures came sealed"
    assert [name for name, _, _ in verdict.receipt.spans or ()][:3] == [
        "kms.decrypt",
        "enclave.open",
        "enclave.first_byte",
    ], "and the enclave's times"
    with pytest.raises(MrgcError, match="response's file"):
        judge(read_bundle(file), replace(wanted, response=done.body + b"\n"))


async def test_an_answer_pinned_to_what_answered_is_given_and_to_another_is_refused(tmp_path: Path) -> None:
    async with whole_path(tmp_path, options()) as path:
        async with tenant_of(path) as client:
            receipt = (await client.complete(PATH, BODY, model=POOL)).receipt
        assert receipt.config_digest is not None, "a signed receipt names it"
        pins = parse_pins(
            models=[receipt.model_digest], pcr0s=[receipt.pcr0.hex()], configs=[receipt.config_digest.hex()]
        )
        async with tenant_of(path, pins=pins) as client:
            assert (await client.complete(PATH, BODY, model=POOL)).status == 200, "the same model answers again"
        other = parse_pins(models=[os.urandom(32).hex()])
        async with tenant_of(path, pins=other) as client:
            with pytest.raises(ReceiptError, match="Another model"):
                await client.complete(PATH, BODY, model=POOL)


async def test_a_receipt_is_no_evidence_with_the_document_of_another_start(tmp_path: Path) -> None:
    bundles = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        async with whole_path(tmp_path / name, options()) as path:
            async with tenant_of(path) as client:
                done = await client.complete(PATH, BODY, model=POOL)
            root = path.enclave.root.certificate
            source = DocumentSource(
                endpoint=f"http://127.0.0.1:{path.router.router.port}", tls=None, credentials={}, roots=[root]
            )
            bundles.append((done.bundle.attested(await source.fetch(done.receipt)), root))
    (first, _), (second, root) = bundles
    assert Receipt.decode(first.receipt).key != Receipt.decode(second.receipt).key, "a start makes a key"
    with pytest.raises(ReceiptError, match="does not name the key"):
        judge(replace(first, attestation=second.attestation), Wanted(roots=[root]))

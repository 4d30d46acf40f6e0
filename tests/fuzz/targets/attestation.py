"""Fuzz target: whatever bytes come as an attestation document, the verifier refuses them in time or they hold.

`target(data)` returns for every input unless there is a bug: an exception outside the verifier's family, a document
that passes though nobody signed it, or a call that takes too long for the enclave's loop. `SEEDS` are genuine
documents, one made under the test's root, what of it is read before any signature is checked, and each known deviation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dataplane.protocol.attestation.certificate import read_certificate
from dataplane.protocol.attestation.der import DerError
from dataplane.protocol.attestation.document import AttestationDocument, parse_cose, parse_payload
from dataplane.protocol.attestation.verify import AttestationPolicy, aws_nitro_root_g1, verify, verify_kept
from dataplane.protocol.errors import AttestationError
from tests.fuzz.harness import step
from tests.support import nitro_documents as made
from tests.support.certificate_deviations import DEVIATIONS

MEASURES_ITSELF = True
"""Judging one document is a step; a run judges five. The dearest document, seven CAs deep, takes about 5 ms."""

REASONS = frozenset({"size", "cose", "field", "chain", "signature", "age", "debug", "pcr"})
ROOTS = (aws_nitro_root_g1(), made.root().certificate)
DATA = Path(__file__).parents[2] / "data" / "attestation"
GENUINE = {path.name: path.read_bytes() for path in sorted(DATA.glob("*.bin"))}
MADE = made.make_document()


def _said(document: bytes) -> AttestationDocument:
    return parse_payload(parse_cose(document).payload)


SEEDS: list[bytes] = [
    *GENUINE.values(),
    MADE,
    b"\xd2" + MADE,
    made.encode(made.plain_fields(made.make_chain())),
    *made.make_chain(),
    *(made.make_document({where: change}) for where, change, _ in DEVIATIONS.values()),
]

ENCLAVES = AttestationPolicy(
    allowed_pcrs=[{0: made.PCRS[0]}, *({0: one.pcrs[0]} for one in map(_said, GENUINE.values()) if any(one.pcrs[0]))]
)
HOSTS = AttestationPolicy(allowed_pcrs=[{4: _said(GENUINE["nitrotpm.bin"]).pcrs[4], 12: bytes(48)}], tpm=True)
"""Both allow the seeds, so that only the signatures keep out what was altered."""

SIGNED = frozenset(parse_cose(document).payload for document in (*GENUINE.values(), MADE))


def target(data: bytes) -> None:
    """Judge `data` as a document, as a signed payload and as a certificate; raises only for a bug."""
    for judge in (_enclave, _host, _now):
        step(partial(_judge, judge, data))
    step(partial(_read, data))
    step(partial(_judge_signed, made.sign(data)))


def _enclave(document: bytes) -> AttestationDocument:
    return verify_kept(document, policy=ENCLAVES, roots=ROOTS)


def _host(document: bytes) -> AttestationDocument:
    return verify_kept(document, policy=HOSTS, roots=ROOTS)


def _now(document: bytes) -> AttestationDocument:
    return verify(document, now_ms=made.NOW_MS, policy=ENCLAVES, roots=ROOTS)


def _judge_signed(document: bytes) -> None:
    """Judge what the test's leaf signed: it may hold, if its certificates and its form do."""
    with contextlib.suppress(AttestationError):
        verify(document, now_ms=made.NOW_MS, policy=ENCLAVES, roots=ROOTS)


def _judge(call: Callable[[bytes], AttestationDocument], data: bytes) -> None:
    """Judge what came from outside: it holds only with the payload of a document that somebody signed."""
    reason: str | None = None
    try:
        call(data)
    except AttestationError as refused:
        reason = refused.reason
    assert reason is None or reason in REASONS, f"{reason!r} is no check's name"
    assert reason or parse_cose(data).payload in SIGNED, "a document holds that nobody signed"


def _read(data: bytes) -> None:
    try:
        read_certificate(data)
    except DerError:
        return

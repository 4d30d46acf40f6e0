"""A software NSM: documents of the genuine format, under a root of our own, worth nothing as proof (assurance 0).

As Nitro writes them since 2025: untagged COSE_Sign1, ES384, a payload map of indefinite length, nulls for absent
fields, 16 registers (24 for NitroTPM), `cabundle` root first with regional, zonal and instance CA, times in ms.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from dataplane.enclave.nsm import NsmError, check_fields
from dataplane.protocol.attestation.document import (
    ES384_HEADER,
    PCR_BYTES,
    SIGNATURE_BYTES,
    CoseSign1,
    PcrField,
    instance_pcr4,
)
from stacks.local.pki import Authority, issue_nsm_ca, issue_nsm_leaf

REGIONAL_LIFETIME = timedelta(days=20)
ZONAL_LIFETIME = timedelta(days=6)
INSTANCE_LIFETIME = timedelta(days=1)
LEAF_LIFETIME = timedelta(hours=3)
"""As in genuine documents."""

RENEW_BEFORE = timedelta(minutes=10)
"""The chain is made anew this long before its leaf ends, so that a document outlives its age limit."""

_REGISTERS: Mapping[PcrField, int] = {"pcrs": 16, "nitrotpm_pcrs": 24}


class SoftwareNsm:
    """Signs what it is told to measure. Safe for threads: a chain is replaced whole."""

    assurance = 0

    def __init__(
        self,
        *,
        root: Authority,
        pcrs: Mapping[int, bytes],
        instance_id: str,
        clock_ms: Callable[[], int],
        region: str = "us-east-1",
        pcr_field: PcrField = "pcrs",
    ) -> None:
        """Take the registers' values (48 bytes each); those not given are zero, and PCR4 is the instance's."""
        if any(len(value) != PCR_BYTES for value in pcrs.values()):
            raise NsmError(f"A register of the software NSM is not {PCR_BYTES} bytes.")
        self._root = root
        self._clock_ms = clock_ms
        self._region = region
        self._instance_id = instance_id
        self._pcr_field = pcr_field
        self._pcrs = dict.fromkeys(range(_REGISTERS[pcr_field]), bytes(PCR_BYTES))
        if pcr_field == "pcrs":
            self._pcrs[4] = instance_pcr4(instance_id)
        self._pcrs |= pcrs
        suffix = f"enc{secrets.token_hex(8)}" if pcr_field == "pcrs" else "tpm0000000000000000"
        self.module_id = f"{instance_id}-{suffix}"
        self._chain = self._issue()

    def attest(self, *, nonce: bytes | None, user_data: bytes | None, public_key: bytes | None) -> bytes:
        """Return a fresh document over these fields."""
        check_fields(nonce=nonce, user_data=user_data, public_key=public_key)
        now_ms = self._clock_ms()
        *authorities, leaf = self._fresh_chain(now_ms)
        fields: dict[str, object] = {
            "module_id": self.module_id,
            "digest": "SHA384",
            "timestamp": now_ms,
            self._pcr_field: self._pcrs,
            "certificate": leaf.certificate.public_bytes(Encoding.DER),
            "cabundle": [entry.certificate.public_bytes(Encoding.DER) for entry in authorities],
            "public_key": public_key,
            "user_data": user_data,
            "nonce": nonce,
        }
        return sign_document(indefinite_map(fields), leaf.key)

    def random(self, size: int) -> bytes:
        """Return `size` bytes from the operating system."""
        return secrets.token_bytes(size)

    def _fresh_chain(self, now_ms: int) -> tuple[Authority, ...]:
        chain = self._chain
        moment = datetime.fromtimestamp(now_ms / 1000, UTC)
        if (
            not chain[-1].certificate.not_valid_before_utc
            <= moment
            < (chain[-1].certificate.not_valid_after_utc - RENEW_BEFORE)
        ):
            chain = self._chain = self._issue()
        return chain

    def _issue(self) -> tuple[Authority, ...]:
        """Make regional, zonal and instance CA and the leaf; return them after the root."""
        now = datetime.fromtimestamp(self._clock_ms() / 1000, UTC)
        domain = f"{self._region}.nitro-enclaves.invalid"
        regional = issue_nsm_ca(
            self._root, f"{secrets.token_hex(8)}.{domain}", path_length=2, lifetime=REGIONAL_LIFETIME, now=now
        )
        zonal = issue_nsm_ca(
            regional, f"{secrets.token_hex(8)}.zonal.{domain}", path_length=1, lifetime=ZONAL_LIFETIME, now=now
        )
        instance = issue_nsm_ca(
            zonal, f"{self._instance_id}.{domain}", path_length=0, lifetime=INSTANCE_LIFETIME, now=now
        )
        leaf = issue_nsm_leaf(instance, f"{self.module_id}.{self._region}", lifetime=LEAF_LIFETIME, now=now)
        return self._root, regional, zonal, instance, leaf


def sign_document(payload: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the untagged COSE_Sign1 message over `payload`, signed with ES384."""
    protected = cbor2.dumps(dict(ES384_HEADER))
    unsigned = CoseSign1(protected=protected, payload=payload, signature=b"")
    r, s = decode_dss_signature(key.sign(unsigned.signed_bytes(), ec.ECDSA(SHA384())))
    half = SIGNATURE_BYTES // 2
    return cbor2.dumps([protected, {}, payload, r.to_bytes(half) + s.to_bytes(half)])


def indefinite_map(fields: Mapping[str, object]) -> bytes:
    """Return the CBOR map of `fields` with indefinite length, in their order."""
    return b"\xbf" + b"".join(cbor2.dumps(key) + cbor2.dumps(value) for key, value in fields.items()) + b"\xff"

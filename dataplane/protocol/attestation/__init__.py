"""Nitro attestation documents: their form, their verification, and the key policy that relies on them."""

from __future__ import annotations

from dataplane.protocol.attestation.document import AttestationDocument, instance_pcr4
from dataplane.protocol.attestation.verify import AttestationPolicy, aws_nitro_root_g1, verify, verify_kept

__all__ = [
    "AttestationDocument",
    "AttestationPolicy",
    "aws_nitro_root_g1",
    "instance_pcr4",
    "verify",
    "verify_kept",
]

"""What the embedded KMS checked, asked from its audit page."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

AUDIT_PATH = "/_mrgc/kms-audit"
TIMEOUT_S = 5.0
REQUIRED = ("0", "1", "2")


def read_audit(aws_url: str) -> list[dict[str, Any]]:
    """Return KMS's records, oldest first."""
    with urllib.request.urlopen(aws_url + AUDIT_PATH, timeout=TIMEOUT_S) as answer:  # noqa: S310 - our own loopback URL
        records: list[dict[str, Any]] = json.load(answer)["records"]
    return records


def decrypts_of(records: Sequence[Mapping[str, Any]], instance: str) -> list[Mapping[str, Any]]:
    """Return the Decrypt calls whose attestation document came from this instance's enclave."""
    return [
        record
        for record in records
        if record["operation"] == "Decrypt" and str(record["module_id"] or "").startswith(f"{instance}-enc")
    ]


def differing(attested: Mapping[str, str], published: Mapping[str, str]) -> list[str]:
    """Return which of PCR0 to PCR2 are attested otherwise than published."""
    return [number for number in REQUIRED if attested.get(number, "").lower() != published[number].lower()]

"""An attestation document's form: COSE_Sign1 around a CBOR map. Reading only; nothing here is verified.

Sources: AWS Nitro Enclaves, "Validating attestation documents" (attestation_process.md of aws-nitro-enclaves-nsm-api);
EC2, "NitroTPM Attestation Document contents". Where genuine documents differ from those pages, docs/attestation.md
says how.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import cbor2

from dataplane.protocol.attestation.structure import MAX_DEPTH, StructureError, check_single_item
from dataplane.protocol.errors import AttestationError

MAX_DOCUMENT_BYTES = 16_384
"""Largest document that the NSM makes (its response buffer is 12 KiB, the specification says 16 KiB)."""

MAX_CERTIFICATE_BYTES = 1_024
MAX_BUNDLE = 8
"""Certificates in `cabundle`; genuine documents have 4. Each costs one ECDSA verification."""

MAX_PUBLIC_KEY_BYTES = 1_024
MAX_NONCE_BYTES = 1_024
"""`nonce` and `user_data`: 512 on one AWS page, 1,024 on another; read the larger, send the smaller."""

MAX_SENT_NONCE_BYTES = 512
MAX_PCRS = 32
PCR_BYTES = 48
"""Length of a SHA-384 register, the only digest that Nitro uses."""

MAX_TIMESTAMP_MS = 253_402_300_799_999
"""31 December 9999. No certificate is valid then (a UTCTime ends with 2049), so it is refused by its chain."""

SIGNATURE_BYTES = 96
"""ES384: r and s, 48 bytes each (RFC 9053, section 2.1)."""

ES384_HEADER: Mapping[int, int] = MappingProxyType({1: -35})
"""The protected header: algorithm (1) is ES384 (-35), and nothing else (a `crit` header would go unheeded)."""

_ES384_HEADER_BYTES = bytes.fromhex("a1013822")
"""The same as every genuine document writes it."""

_FIELDS = frozenset(
    {
        "module_id",
        "digest",
        "timestamp",
        "pcrs",
        "nitrotpm_pcrs",
        "certificate",
        "cabundle",
        "public_key",
        "user_data",
        "nonce",
    }
)
"""All that a document says. A field that is not known could change what the others mean, so it is refused."""

_MODULE_ID = re.compile(r"i-([0-9a-f]{8}|[0-9a-f]{17})-(enc|tpm)[0-9a-f]{16}", re.ASCII)

_COSE_SIGN1_TAG = 0xD2
_DIGEST = "SHA384"

PcrField = Literal["pcrs", "nitrotpm_pcrs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoseSign1:
    """The four parts of a COSE_Sign1 message (RFC 9052, section 4.2), the empty unprotected header left out."""

    protected: bytes
    payload: bytes
    signature: bytes

    def signed_bytes(self) -> bytes:
        """Return the Sig_structure that the signature covers (RFC 9052, section 4.4)."""
        return cbor2.dumps(["Signature1", self.protected, b"", self.payload])


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationDocument:
    """What a document says: times in ms since 1970, PCRs by index, certificates in DER, absent fields None."""

    module_id: str
    timestamp_ms: int
    digest: str
    pcr_field: PcrField
    pcrs: Mapping[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None

    @property
    def instance_id(self) -> str:
        """EC2 instance that the module belongs to: `i-…` of `i-…-enc…` or `i-…-tpm…`."""
        return self.module_id.rsplit("-", 1)[0]


def instance_pcr4(instance_id: str) -> bytes:
    """Return PCR4 of an enclave on that instance: SHA-384 of 48 zero bytes and the id (the TPM-style extension)."""
    return hashlib.sha384(bytes(PCR_BYTES) + instance_id.encode()).digest()


def parse_cose(document: bytes) -> CoseSign1:
    """Take the COSE_Sign1 message apart, tagged (18) or untagged.

    Raises `AttestationError` with reason `size` or `cose`.
    """
    if len(document) > MAX_DOCUMENT_BYTES:
        raise AttestationError(
            f"The attestation document has {len(document)} bytes; at most {MAX_DOCUMENT_BYTES} are read.", reason="size"
        )
    body = document[1:] if document[:1] == bytes([_COSE_SIGN1_TAG]) else document
    message = _load(body, "cose", "The attestation document")
    # The array's head must be definite (0x84): CBOR allows the other form too, and no NSM writes it.
    if not isinstance(message, list) or len(message) != 4 or body[0] != 0x84:  # noqa: PLR2004 - RFC 9052's array of four
        raise _cose("is not a COSE_Sign1 array of four")
    protected, unprotected, payload, signature = message
    if not (isinstance(protected, bytes) and isinstance(payload, bytes) and isinstance(signature, bytes)):
        raise _cose("has a part of the wrong type")
    if unprotected != {} or not isinstance(unprotected, dict):
        raise _cose("has an unprotected header that is not an empty map")
    if protected != _ES384_HEADER_BYTES:
        raise _cose("is not signed with ES384 alone")
    if len(signature) != SIGNATURE_BYTES:
        raise _cose(f"has a signature of {len(signature)} bytes instead of {SIGNATURE_BYTES}")
    return CoseSign1(protected=protected, payload=payload, signature=signature)


def parse_payload(payload: bytes) -> AttestationDocument:
    """Read the payload map, definite or indefinite; a field that no document has is refused.

    Raises `AttestationError` with reason `field`.
    """
    fields = _load(payload, "field", "The attestation document's payload")
    if not isinstance(fields, dict):
        raise _field("payload", "is not a map")
    unknown = fields.keys() - _FIELDS
    if unknown:
        names = sorted(ascii(name)[:40] for name in unknown)
        raise _field("payload", f"has the unknown field {names[0]}")
    module_id = fields.get("module_id")
    if not isinstance(module_id, str) or not _MODULE_ID.fullmatch(module_id):
        raise _field("module_id", "is not an instance's id with that of its enclave or TPM")
    timestamp = fields.get("timestamp")
    if type(timestamp) is not int or not 0 < timestamp <= MAX_TIMESTAMP_MS:
        raise _field("timestamp", "is not a time in ms since 1970")
    if fields.get("digest") != _DIGEST:
        raise _field("digest", f'is not "{_DIGEST}"')
    pcr_field, pcrs = _pcrs(fields)
    cabundle = fields.get("cabundle")
    if not isinstance(cabundle, list) or not 0 < len(cabundle) <= MAX_BUNDLE:
        raise _field("cabundle", f"is not a list of 1 to {MAX_BUNDLE} certificates")
    certificate = _bytes(fields, "certificate", least=1, most=MAX_CERTIFICATE_BYTES)
    if certificate is None:
        raise _field("certificate", "is missing")
    for entry in cabundle:
        if not isinstance(entry, bytes) or not 0 < len(entry) <= MAX_CERTIFICATE_BYTES:
            raise _field("cabundle", f"holds an entry that is not 1 to {MAX_CERTIFICATE_BYTES} bytes")
    return AttestationDocument(
        module_id=module_id,
        timestamp_ms=timestamp,
        digest=_DIGEST,
        pcr_field=pcr_field,
        pcrs=MappingProxyType(pcrs),
        certificate=certificate,
        cabundle=tuple(cabundle),
        public_key=_bytes(fields, "public_key", least=1, most=MAX_PUBLIC_KEY_BYTES),
        user_data=_bytes(fields, "user_data", least=0, most=MAX_NONCE_BYTES),
        nonce=_bytes(fields, "nonce", least=0, most=MAX_NONCE_BYTES),
    )


def _pcrs(fields: Mapping[Any, Any]) -> tuple[PcrField, dict[int, bytes]]:
    """Return which PCR field the document has, and its registers; exactly one of the two must be there."""
    names: list[PcrField] = [name for name in ("pcrs", "nitrotpm_pcrs") if fields.get(name) is not None]
    if len(names) != 1:
        raise _field("pcrs", "and nitrotpm_pcrs are both there or both missing")
    name = names[0]
    registers = fields[name]
    if not isinstance(registers, dict) or not 0 < len(registers) <= MAX_PCRS:
        raise _field(name, f"is not a map of 1 to {MAX_PCRS} registers")
    for index, value in registers.items():
        if type(index) is not int or not 0 <= index < MAX_PCRS:
            raise _field(name, f"has an index that is not 0 to {MAX_PCRS - 1}")
        if not isinstance(value, bytes) or len(value) != PCR_BYTES:
            raise _field(name, f"has a register that is not {PCR_BYTES} bytes")
    return name, registers


def _bytes(fields: Mapping[Any, Any], name: str, *, least: int, most: int) -> bytes | None:
    """Return an optional byte field; missing and null are the same."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        raise _field(name, f"is not {least} to {most} bytes")
    return value


def _load(data: bytes, reason: str, what: str) -> Any:
    """Decode one CBOR item of the profile (`structure.py`), without duplicate keys and with texts in UTF-8."""
    try:
        check_single_item(data)
        return cbor2.loads(data, max_depth=MAX_DEPTH + 1, allow_duplicate_keys=False)
    except StructureError as error:
        raise AttestationError(f"{what} {error}.", reason=reason) from None
    except Exception:  # noqa: BLE001 - whatever the library raises, there is no document
        raise AttestationError(f"{what} is not CBOR of the expected form.", reason=reason) from None


def _cose(detail: str) -> AttestationError:
    return AttestationError(f"The attestation document {detail}.", reason="cose")


def _field(name: str, detail: str) -> AttestationError:
    return AttestationError(f"The attestation document's {name} {detail}.", reason="field")

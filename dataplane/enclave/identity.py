"""Who this enclave is, read from its own attestation document: nothing that the host could have told it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from dataplane.enclave.nsm import Nsm
from dataplane.protocol.attestation.document import AttestationDocument, parse_cose, parse_payload
from dataplane.protocol.errors import AttestationError, SettingsError

REGION_PATTERN = r"[a-z]{2}(?:-[a-z]+)+-[0-9]"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveIdentity:
    """What every receipt and binding names: PCR0 and PCR4 (48 bytes each), instance id and region."""

    pcr0: bytes
    pcr4: bytes
    instance_id: str
    region: str


def read_identity(nsm: Nsm, *, region: str = "") -> EnclaveIdentity:
    """Ask the NSM for a document and read it; it is trusted because it comes from our own device.

    One image serves every region, so the region comes from the document's certificate, whose common name is
    `<module id>.<region>.aws`. `region` states it where the certificate does not; raises `SettingsError` when both say
    something else or neither says anything, `NsmError` and `AttestationError` when there is no usable document.
    """
    document = parse_payload(parse_cose(nsm.attest(nonce=None, user_data=None, public_key=None)).payload)
    missing = [index for index in (0, 4) if index not in document.pcrs]
    if missing:
        raise AttestationError(f"This enclave's own document has no PCR{missing[0]}.", reason="pcr")
    attested = attested_region(document)
    if attested and region and attested != region:
        raise SettingsError(
            f"MRGC_REGION is {region!r}, and the attestation document says {attested!r}; leave MRGC_REGION out."
        )
    if not attested and not region:
        raise SettingsError("The attestation document names no region; set MRGC_REGION to this host's.")
    return EnclaveIdentity(
        pcr0=document.pcrs[0],
        pcr4=document.pcrs[4],
        instance_id=document.instance_id,
        region=attested or region,
    )


def attested_region(document: AttestationDocument) -> str | None:
    """Return the region in a document's certificate, or None when its common name has another form.

    Raises `AttestationError` for what is no certificate.
    """
    try:
        certificate = x509.load_der_x509_certificate(document.certificate)
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except Exception:  # noqa: BLE001 - the library's exceptions have no common base
        raise AttestationError(
            "This enclave's own document has a certificate that can't be read.", reason="chain"
        ) from None
    if len(names) != 1:
        return None
    prefix = re.escape(document.module_id)
    match = re.fullmatch(rf"{prefix}\.({REGION_PATTERN})(?:\.aws)?", str(names[0].value))
    return match[1] if match else None

"""Documents made here, each wrong in one way, are refused by that way's name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from dataplane.protocol.attestation.structure import MAX_DEPTH, MAX_ITEMS, check_single_item
from dataplane.protocol.attestation.verify import AttestationPolicy, verify
from dataplane.protocol.errors import AttestationError
from stacks.local.nsm import SoftwareNsm, indefinite_map, sign_document
from stacks.local.pki import Authority, create_nsm_root, issue_nsm_ca, issue_nsm_leaf, key_usage

NOW_MS = 1_790_000_000_000
NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)
PCRS = {index: bytes([index + 1]) * 48 for index in range(3)}
DAY = timedelta(days=1)

Fields = dict[str, Any]
Change = Callable[[Fields], None]


@pytest.fixture(scope="module")
def root() -> Authority:
    return create_nsm_root(now=NOW)


@pytest.fixture(scope="module")
def chain(root: Authority) -> tuple[Authority, Authority]:
    instance = issue_nsm_ca(root, "instance", path_length=0, lifetime=DAY, now=NOW)
    return instance, issue_nsm_leaf(instance, "leaf", lifetime=DAY, now=NOW)


def fields_of(root: Authority, chain: tuple[Authority, ...]) -> Fields:
    *authorities, leaf = (entry.certificate.public_bytes(Encoding.DER) for entry in (root, *chain))
    return {
        "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
        "digest": "SHA384",
        "timestamp": NOW_MS,
        "pcrs": dict(PCRS),
        "certificate": leaf,
        "cabundle": authorities,
        "public_key": None,
        "user_data": None,
        "nonce": None,
    }


def judge(document: bytes, root: Authority) -> str:
    """Return "accepted" or the reason of the refusal."""
    try:
        verify(document, now_ms=NOW_MS, policy=AttestationPolicy(allowed_pcrs=[PCRS]), roots=[root.certificate])
    except AttestationError as error:
        return error.reason
    return "accepted"


def signed(root: Authority, chain: tuple[Authority, ...], change: Change = lambda _: None) -> bytes:
    fields = fields_of(root, chain)
    change(fields)
    return sign_document(indefinite_map(fields), chain[-1].key)


def test_the_plain_document_is_accepted(root: Authority, chain: tuple[Authority, Authority]) -> None:
    assert judge(signed(root, chain), root) == "accepted", "or the refusals below would prove nothing"


def setter(name: str, value: Any) -> Change:
    def change(fields: Fields) -> None:
        fields[name] = value

    return change


def without(name: str) -> Change:
    def change(fields: Fields) -> None:
        del fields[name]

    return change


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (setter("module_id", ""), "field"),
        (setter("module_id", b"i-0"), "field"),
        (setter("digest", "SHA256"), "field"),
        (setter("timestamp", 0), "field"),
        (setter("timestamp", -1), "field"),
        (setter("timestamp", float(NOW_MS)), "field"),
        (setter("timestamp", 2**63), "field"),
        (setter("timestamp", True), "field"),  # noqa: FBT003 - a value of the wrong type
        (setter("pcrs", {}), "field"),
        (setter("pcrs", {0: b"short"}), "field"),
        (setter("pcrs", {32: bytes(48)}), "field"),
        (setter("pcrs", {-1: bytes(48)}), "field"),
        (setter("pcrs", {"0": bytes(48)}), "field"),
        (setter("pcrs", None), "field"),
        (setter("nitrotpm_pcrs", {0: bytes(48)}), "field"),
        (setter("certificate", None), "field"),
        (setter("certificate", bytes(1025)), "field"),
        (setter("certificate", b"not X.509"), "chain"),
        (setter("cabundle", []), "field"),
        (setter("cabundle", [b"x"] * 9), "field"),
        (setter("cabundle", [b""]), "field"),
        (setter("public_key", b""), "field"),
        (setter("public_key", bytes(1025)), "field"),
        (setter("user_data", bytes(1025)), "field"),
        (setter("nonce", bytes(1025)), "field"),
        (setter("nonce", "text"), "field"),
        (without("module_id"), "field"),
        (without("timestamp"), "field"),
        (without("cabundle"), "field"),
        (setter("nonce", bytes(1024)), "accepted"),
        (setter("user_data", b""), "accepted"),
        (without("public_key"), "accepted"),
        (setter("a field of tomorrow", [1, 2]), "field"),
        (setter("a field of tomorrow", [[[[1]]]]), "field"),
        (setter("a field of tomorrow", cbor2.CBORTag(35, "(a+)+")), "field"),
        (setter("timestamp", NOW_MS - 300_001), "age"),
        (setter("timestamp", NOW_MS + 60_001), "age"),
        (setter("timestamp", NOW_MS - 600_000), "chain"),
        (setter("timestamp", NOW_MS + 172_800_000), "chain"),
        (setter("pcrs", {**PCRS, 1: bytes(48)}), "debug"),
        (setter("pcrs", {0: PCRS[0], 1: PCRS[1]}), "pcr"),
        (setter("pcrs", {**PCRS, 2: bytes([9]) * 48}), "pcr"),
    ],
)
def test_one_wrong_field_is_named(
    change: Change, verdict: str, root: Authority, chain: tuple[Authority, Authority]
) -> None:
    assert judge(signed(root, chain, change), root) == verdict


def test_two_equal_keys_are_refused(root: Authority, chain: tuple[Authority, Authority]) -> None:
    payload = indefinite_map(fields_of(root, chain))
    twice = payload[:-1] + cbor2.dumps("timestamp") + cbor2.dumps(NOW_MS) + b"\xff"
    assert judge(sign_document(twice, chain[-1].key), root) == "field"


@pytest.mark.parametrize(
    "part",
    [
        {0: cbor2.dumps({1: -7})},
        {0: cbor2.dumps({1: -35, 2: [4]})},
        {0: cbor2.dumps({1: -35.0})},
        {0: b""},
        {1: {4: b"kid"}},
        {1: []},
        {2: None},
        {3: bytes(95)},
        {3: "text"},
    ],
)
def test_one_wrong_part_of_the_cose_message_is_named(
    part: dict[int, Any], root: Authority, chain: tuple[Authority, Authority]
) -> None:
    message = cbor2.loads(signed(root, chain))
    for index, value in part.items():
        message[index] = value
    assert judge(cbor2.dumps(message), root) == "cose"


def test_a_signature_of_another_key_is_named(root: Authority, chain: tuple[Authority, Authority]) -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())
    assert judge(sign_document(indefinite_map(fields_of(root, chain)), stranger), root) == "signature"
    zero = signed(root, chain)[:-96] + bytes(96)
    assert judge(zero, root) == "signature"


def test_the_root_that_a_document_brings_counts_for_nothing(
    root: Authority, chain: tuple[Authority, Authority]
) -> None:
    def swap(fields: Fields) -> None:
        fields["cabundle"][0] = b"anything at all"

    assert judge(signed(root, chain, swap), root) == "accepted", "entry 0 is ignored"
    assert judge(signed(root, chain), create_nsm_root(now=NOW)) == "chain", "a root of the same name is not the root"


def test_no_roots_means_no_document(root: Authority, chain: tuple[Authority, Authority]) -> None:
    with pytest.raises(AttestationError) as caught:
        verify(signed(root, chain), now_ms=NOW_MS, policy=AttestationPolicy(allowed_pcrs=[PCRS]), roots=[])
    assert caught.value.reason == "chain"


Build = Callable[[x509.CertificateBuilder], x509.CertificateBuilder]


def issue(
    issuer: Authority,
    build: Build,
    *,
    curve: ec.EllipticCurve | None = None,
    digest: SHA256 | SHA384 | None = None,
) -> Authority:
    """Issue a certificate whose dates and extensions are the test's."""
    key = ec.generate_private_key(curve or ec.SECP384R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "made")]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
    )
    return Authority(certificate=build(builder).sign(issuer.key, digest or SHA384()), key=key)


def dated(
    builder: x509.CertificateBuilder, start: datetime = NOW - DAY, end: datetime = NOW + DAY
) -> x509.CertificateBuilder:
    return builder.not_valid_before(start).not_valid_after(end)


def no_ca(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
    return builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)


def leaf_like(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
    return no_ca(builder).add_extension(key_usage(sign=True, commit=True), critical=False)


def ca_like(builder: x509.CertificateBuilder, *, path_length: int | None = 0) -> x509.CertificateBuilder:
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    return builder.add_extension(constraints, critical=True).add_extension(key_usage(issue=True), critical=True)


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\5\0")


@pytest.mark.parametrize(
    ("build", "verdict"),
    [
        pytest.param(lambda b: leaf_like(dated(b)), "accepted", id="plain"),
        pytest.param(
            lambda b: leaf_like(dated(b, start=NOW + timedelta(seconds=59))), "accepted", id="within the skew"
        ),
        pytest.param(lambda b: leaf_like(dated(b, start=NOW + timedelta(seconds=61))), "chain", id="begins later"),
        pytest.param(lambda b: leaf_like(dated(b, end=NOW - timedelta(seconds=1))), "chain", id="ended"),
        pytest.param(lambda b: no_ca(dated(b)), "chain", id="no key usage"),
        pytest.param(
            lambda b: no_ca(dated(b)).add_extension(key_usage(issue=True), critical=False), "chain", id="no signatures"
        ),
        pytest.param(lambda b: ca_like(dated(b)), "chain", id="a CA"),
        pytest.param(
            lambda b: leaf_like(dated(b)).add_extension(UNKNOWN, critical=True), "chain", id="critical unknown"
        ),
        pytest.param(lambda b: leaf_like(dated(b)).add_extension(UNKNOWN, critical=False), "chain", id="unknown"),
    ],
)
def test_a_leaf_is_held_to_its_dates_and_rights(build: Build, verdict: str, root: Authority) -> None:
    assert judge(signed(root, (issue(root, build),)), root) == verdict


@pytest.mark.parametrize(
    ("build", "verdict"),
    [
        pytest.param(lambda b: ca_like(dated(b)), "accepted", id="plain"),
        pytest.param(lambda b: ca_like(dated(b), path_length=None), "chain", id="any number of CAs"),
        pytest.param(lambda b: ca_like(dated(b), path_length=1), "chain", id="one CA more"),
        pytest.param(lambda b: leaf_like(dated(b)), "chain", id="not a CA"),
        pytest.param(lambda b: ca_like(dated(b, end=NOW - timedelta(seconds=1))), "chain", id="ended"),
        pytest.param(
            lambda b: (
                dated(b)
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(key_usage(sign=True), critical=True)
            ),
            "chain",
            id="may not issue",
        ),
    ],
)
def test_an_authority_is_held_to_its_dates_and_rights(build: Build, verdict: str, root: Authority) -> None:
    authority = issue(root, build)
    leaf = issue_nsm_leaf(authority, "leaf", lifetime=DAY, now=NOW)
    assert judge(signed(root, (authority, leaf)), root) == verdict


def test_a_path_length_is_kept(root: Authority) -> None:
    short = issue_nsm_ca(root, "short", path_length=0, lifetime=DAY, now=NOW)
    below = issue_nsm_ca(short, "below", path_length=0, lifetime=DAY, now=NOW)
    leaf = issue_nsm_leaf(below, "leaf", lifetime=DAY, now=NOW)
    assert judge(signed(root, (short, below, leaf)), root) == "chain"


def test_links_must_be_in_order_and_complete(root: Authority) -> None:
    first = issue_nsm_ca(root, "first", path_length=1, lifetime=DAY, now=NOW)
    second = issue_nsm_ca(first, "second", path_length=0, lifetime=DAY, now=NOW)
    leaf = issue_nsm_leaf(second, "leaf", lifetime=DAY, now=NOW)
    assert judge(signed(root, (first, second, leaf)), root) == "accepted"
    assert judge(signed(root, (second, first, leaf)), root) == "chain", "out of order"
    assert judge(signed(root, (second, leaf)), root) == "chain", "a link is missing"
    assert judge(signed(root, (first, leaf)), root) == "chain", "the last link is missing"


def test_weaker_curves_and_hashes_are_refused(root: Authority) -> None:
    def plain(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        return leaf_like(dated(builder))

    assert judge(signed(root, (issue(root, plain, curve=ec.SECP256R1()),)), root) == "chain"
    assert judge(signed(root, (issue(root, plain, digest=SHA256()),)), root) == "chain"


@pytest.mark.parametrize("pcr_field", ["pcrs", "nitrotpm_pcrs"])
def test_the_software_nsm_makes_documents_of_the_genuine_form(root: Authority, pcr_field: Any) -> None:
    tpm = pcr_field == "nitrotpm_pcrs"
    nsm = SoftwareNsm(
        root=root,
        pcrs=PCRS | ({4: b"\4" * 48} if tpm else {}),
        instance_id="i-0123456789abcdef0",
        clock_ms=lambda: NOW_MS,
        pcr_field=pcr_field,
    )
    assert nsm.assurance == 0, "software proves nothing"
    document = nsm.attest(nonce=b"n" * 32, user_data=b"u", public_key=b"k")
    assert document[:1] == b"\x84", "untagged, as genuine ones are"
    policy = AttestationPolicy(
        allowed_pcrs=[{4: b"\4" * 48, 12: bytes(48)} if tpm else PCRS],
        nonce=b"n" * 32,
        user_data=b"u",
        public_key=b"k",
        tpm=tpm,
    )
    parsed = verify(document, now_ms=NOW_MS, policy=policy, roots=[root.certificate])
    assert parsed.instance_id == "i-0123456789abcdef0"
    assert len(parsed.cabundle) == 4, "root, regional, zonal, instance"
    assert len(parsed.pcrs) == (24 if tpm else 16)
    with pytest.raises(AttestationError) as caught:
        verify(document, now_ms=NOW_MS, policy=policy)
    assert caught.value.reason == "chain", "AWS's root must not vouch for it"


def test_the_software_nsm_renews_its_chain_before_the_leaf_ends(root: Authority) -> None:
    now = NOW_MS
    nsm = SoftwareNsm(root=root, pcrs=PCRS, instance_id="i-0123456789abcdef0", clock_ms=lambda: now)
    policy = AttestationPolicy(allowed_pcrs=[PCRS])
    for _ in range(4):
        document = nsm.attest(nonce=None, user_data=None, public_key=None)
        verify(document, now_ms=now, policy=policy, roots=[root.certificate])
        now += 2 * 3_600_000


def test_the_walk_over_cbor_refuses_what_documents_never_hold() -> None:
    for data, fault in (
        (b"", "ends"),
        (b"\x18", "ends"),
        (b"\xc0\x00", "no natural number"),
        (b"\x20", "no natural number"),
        (b"\xf9\x7e\x00", "no natural number"),
        (b"\xf7", "no natural number"),
        (b"\x18\x17", "shortest"),
        (b"\x59\x00\x18" + bytes(24), "shortest"),
        (b"\x1b" + (2**32 - 1).to_bytes(8), "shortest"),
        (b"\x9f\xff", "indefinite"),
        (b"\x00\x00", "after its end"),
        (b"\x5f\x41\x00\xff", "indefinite"),
        (b"\x9b" + b"\xff" * 8, "ends"),
        (b"\x5b" + b"\xff" * 8, "string"),
        (b"\xff", "break"),
        (b"\x81\xff", "break"),
        (b"\x1c", "reserved"),
        (b"\x81" * (MAX_DEPTH + 1) + b"\0", "deep"),
        (b"\x98" + bytes([MAX_ITEMS]) + bytes(MAX_ITEMS), "more than 128 items"),
        (b"\xbf" + bytes(MAX_ITEMS) + b"\xff", "more than 128 items"),
    ):
        with pytest.raises(ValueError, match=fault):
            check_single_item(data)
    for data in (
        b"\x00",
        b"\x80",
        b"\xbf\xff",
        b"\xa1\x00\x81\x01",
        b"\xf6",
        b"\x81" * MAX_DEPTH + b"\0",
        b"\x98" + bytes([MAX_ITEMS - 1]) + bytes(MAX_ITEMS - 1),
    ):
        check_single_item(data)

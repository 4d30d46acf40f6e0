"""Each deviation from the profile of AWS's certificates is refused, though the test's root signed it."""

from __future__ import annotations

import threading
import warnings

import pytest

from dataplane.protocol.attestation.verify import AttestationPolicy, verify, verify_kept
from dataplane.protocol.errors import AttestationError
from tests.support import nitro_documents as made
from tests.support.certificate_deviations import DEVIATIONS, put
from tests.support.nitro_documents import AKI, SKI, Change, Parts

POLICY = AttestationPolicy(allowed_pcrs=[{0: made.PCRS[0]}])


def judge(document: bytes, *, now_ms: int = made.NOW_MS) -> AttestationError | None:
    try:
        verify(document, now_ms=now_ms, policy=POLICY, roots=[made.root().certificate])
    except AttestationError as error:
        return error
    return None


def test_the_plain_document_is_accepted() -> None:
    error = judge(made.make_document())
    assert error is None, f"or the refusals below would prove nothing: {error}"


@pytest.mark.parametrize(("where", "change", "said"), DEVIATIONS.values(), ids=DEVIATIONS.keys())
def test_a_certificate_that_deviates_is_refused_and_says_how(where: str, change: Change, said: str) -> None:
    document = made.make_document({where: change})
    error = judge(document)
    assert error is not None, "signed by the pinned root, and not as AWS's are"
    assert error.reason == "chain", error
    assert said in str(error), "the refusal names the deviation"
    with pytest.raises(AttestationError):
        verify_kept(document, policy=POLICY, roots=[made.root().certificate])


@pytest.mark.parametrize("where", made.CHAIN)
def test_what_varies_among_genuine_certificates_may_vary(where: str) -> None:
    for change in (
        put(serial=made.tlv(2, b"\0\xff" + bytes(19))),
        put(serial=made.tlv(2, b"\x69\x81\xc9\xf2")),
        put(serial=made.number(1)),
    ):
        assert judge(made.make_document({where: change})) is None, "20 bytes of serial number, the sign's byte beside"


def test_the_instances_ca_may_lack_both_key_identifiers_as_until_2024() -> None:
    def old(parts: Parts) -> None:
        del parts.extensions[SKI], parts.extensions[AKI]

    assert judge(made.make_document({"instance": old})) is None, "genuine documents of 2021 to early 2024 have none"


def between(start_ms: int, end_ms: int) -> Change:
    return put(not_before=made.utc_time(made.NOW_MS + start_ms), not_after=made.utc_time(made.NOW_MS + end_ms))


@pytest.mark.parametrize("where", made.CHAIN)
@pytest.mark.parametrize(
    ("start_ms", "end_ms", "at_ms", "accepted"),
    [
        pytest.param(-10_000, 10_000, 0, True, id="valid at both"),
        pytest.param(-10_000, 10_000, 10_000, True, id="to the last second"),
        pytest.param(-10_000, 10_000, 10_001, False, id="ended since"),
        pytest.param(60_000, 600_000, 0, True, id="within the skew at the start"),
        pytest.param(61_000, 600_000, 5_000, False, id="not yet valid at the document's time"),
        pytest.param(30_000, 600_000, -30_001, False, id="not yet valid by this clock"),
        pytest.param(-10_000, -1_000, 0, False, id="ended before the document"),
    ],
)
def test_a_certificate_is_valid_at_the_documents_time_and_at_the_verifiers(
    where: str, start_ms: int, end_ms: int, at_ms: int, *, accepted: bool
) -> None:
    document = made.make_document({where: between(start_ms, end_ms)})
    error = judge(document, now_ms=made.NOW_MS + at_ms)
    assert (error is None) is accepted, f"a certificate outside of its dates vouches for nothing: {error}"
    assert error is None or error.reason == "chain", "it is the certificate that is not valid"


def test_a_kept_document_needs_its_certificates_at_its_own_time_alone() -> None:
    document = made.make_document({"leaf": between(-10_000, 10_000)})
    parsed = verify_kept(document, policy=POLICY, roots=[made.root().certificate])
    assert parsed.timestamp_ms == made.NOW_MS, "years later it still says when it was made"


def test_no_certificate_of_a_document_makes_the_verifier_touch_warnings() -> None:
    """`warnings` is state of the whole process: another thread's filters must stay as they are while documents are
    judged, and none may leak."""
    document = made.make_document({"leaf": put(serial=made.number(0))})
    stop = threading.Event()
    seen: set[int] = set()

    def judge_on() -> None:
        while not stop.is_set():
            judge(document)

    before = list(warnings.filters)
    threads = [threading.Thread(target=judge_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2_000):
        seen.add(len(warnings.filters))
    stop.set()
    for thread in threads:
        thread.join(10)
    assert list(warnings.filters) == before, "the filters are whose they were"
    assert seen == {len(before)}, "and were at every look in between"

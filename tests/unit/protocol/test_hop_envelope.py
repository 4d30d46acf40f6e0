"""The worker hop: bound to the worker's key, epoch, configuration and the request."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol import cbor
from dataplane.protocol.envelope import RequestOpener
from dataplane.protocol.errors import OpenError, ProblemError
from dataplane.protocol.hop import HopHeader, HopRequestOpener, HopRequestSealer, seal_hop, worker_binding_digest
from dataplane.protocol.suite import HOP_SUITE, MAX_HOP_HEADER_BYTES, MAX_HOP_MESSAGE_BYTES
from dataplane.protocol.wash import Wash

KEY = X25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
EPOCH, CONFIG, RID = b"e" * 16, b"c" * 32, b"r" * 16


def sealed(message: bytes, *, pad: int = 0) -> tuple[HopRequestSealer, bytes]:
    header, sealer = seal_hop(PUBLIC, EPOCH, CONFIG, RID, pad=pad)
    body = sealer.prefix() + b"".join(sealer.seal_message(message))
    assert header.encode() in body, "the header that seal_hop returns is the one that is sent"
    return sealer, body


def opened(body: bytes, opener: HopRequestOpener | None = None) -> bytes:
    opener = opener or HopRequestOpener({EPOCH: KEY}.get, CONFIG)
    opener.feed(body)
    opener.finish()
    message = opener.message()
    assert message is not None, "finish() promised a whole message"
    return message


@given(message=st.binary(max_size=2000), pad=st.sampled_from([0, 256]), step=st.integers(1, 500))
def test_a_message_goes_to_the_worker_and_the_answer_comes_back(message: bytes, pad: int, step: int) -> None:
    sealer, body = sealed(message, pad=pad)
    worker = HopRequestOpener({EPOCH: KEY}.get, CONFIG)
    for start in range(0, len(body), step):
        worker.feed(body[start : start + step])
    worker.finish()
    assert worker.message() == message, "the worker reads what the enclave sealed"
    response = worker.response_sealer(b"s" * 32)
    answer = response.prefix() + response.seal(b"head") + response.seal(message) + response.seal(b"tail", final=True)
    enclave = sealer.response_opener()
    frames = [frame for i in range(0, len(answer), step) for frame in enclave.feed(answer[i : i + step])]
    enclave.finish()
    assert [frame.data for frame in frames] == [b"head", message, b"tail"], "the enclave reads what the worker sealed"


def test_the_hop_hides_lengths_as_the_tenant_asked() -> None:
    _, short = sealed(b"a", pad=256)
    _, longer = sealed(b"a" * 200, pad=256)
    assert len(short) == len(longer), "the parent sees buckets, as it does on the tenant's side"


def test_two_requests_share_no_secret() -> None:
    (first, _), (second, _) = (seal_hop(PUBLIC, EPOCH, CONFIG, RID) for _ in range(2))
    assert first.enc != second.enc, "HPKE makes a fresh key each time"
    assert first.wrapped != second.wrapped, "and carries a fresh secret"


@pytest.mark.parametrize(
    ("opener", "why"),
    [
        (HopRequestOpener({b"f" * 16: KEY}.get, CONFIG), "another epoch"),
        (HopRequestOpener({EPOCH: X25519PrivateKey.generate()}.get, CONFIG), "not sealed to this GPU worker's key"),
        (HopRequestOpener({EPOCH: KEY}.get, b"d" * 32), "not sealed to this GPU worker's key"),
    ],
    ids=["epoch", "key", "configuration"],
)
def test_another_epoch_key_or_configuration_is_refused(opener: HopRequestOpener, why: str) -> None:
    _, body = sealed(b"prompt")
    with pytest.raises(ProblemError, match=why) as caught:
        opened(body, opener)
    assert caught.value.code == "host-failed", "another host may do better"
    with pytest.raises(ProblemError, match=why):
        opener.feed(b"")


def test_the_secret_of_one_request_does_not_open_as_another() -> None:
    header, _ = seal_hop(PUBLIC, EPOCH, CONFIG, RID)
    moved = HopHeader(rid=b"q" * 16, epoch=EPOCH, enc=header.enc, wrapped=header.wrapped)
    body = HopRequestSealer(moved, bytes(32)).prefix()
    with pytest.raises(ProblemError, match="not sealed to this GPU worker's key"):
        HopRequestOpener({EPOCH: KEY}.get, CONFIG).feed(body)


def test_every_single_bit_of_a_hop_request_counts() -> None:
    _, body = sealed(b"prompt")
    for bit in range(len(body) * 8):
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(ProblemError) as caught:
            opened(bytes(changed))
        assert caught.value.code == "host-failed", "a broken hop is the host's fault"


def test_a_cut_hop_answer_never_finishes() -> None:
    sealer, body = sealed(b"prompt")
    worker = HopRequestOpener({EPOCH: KEY}.get, CONFIG)
    worker.feed(body)
    response = worker.response_sealer(b"s" * 32)
    answer = response.prefix() + response.seal(b"head") + response.seal(b"tail", final=True)
    for cut in range(len(answer)):
        enclave = sealer.response_opener()
        enclave.feed(answer[:cut])
        with pytest.raises(OpenError, match="truncated"):
            enclave.finish()


def test_a_hop_body_is_no_tenant_body() -> None:
    _, body = sealed(b"prompt")
    with pytest.raises(ProblemError, match="does not start with MRGC"):
        RequestOpener().feed(body)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"rid": b"r"},
        {"epoch": b"e" * 17},
        {"enc": b""},
        {"wrapped": b"w" * 47},
        {"pad": 3},
        {"pad": False},
        {"extra": 1},
    ],
)
def test_a_hop_header_of_the_wrong_form_is_refused(change: dict[str, object]) -> None:
    fields: dict[str, object] = {
        "v": 1,
        "rid": RID,
        "epoch": EPOCH,
        "enc": bytes(32),
        "wrapped": bytes(48),
        "pad": 0,
    }
    assert HopHeader.decode(cbor.encode(fields)).rid == RID, "unchanged, it is read"
    with pytest.raises(ProblemError) as caught:
        HopHeader.decode(cbor.encode(fields | change))
    assert caught.value.code == "host-failed", "the enclave made it wrongly"


def test_a_hop_header_fits_its_limit_and_a_message_has_room_beside_the_body() -> None:
    header, _ = seal_hop(PUBLIC, EPOCH, CONFIG, RID, pad=4096)
    assert len(header.encode()) == 151, "what the limit's arithmetic says"
    assert len(header.encode()) < MAX_HOP_HEADER_BYTES, "and it fits"
    assert MAX_HOP_MESSAGE_BYTES - 2**20 == 8192 == HOP_SUITE.max_message_bytes - 2**20, "room for the other fields"


def test_the_binding_digest_is_what_the_protocol_says() -> None:
    expected = hashlib.sha256(b"mrgc/1 worker" + PUBLIC + EPOCH + CONFIG + bytes(24)).digest()
    assert worker_binding_digest(PUBLIC, EPOCH, CONFIG, None) == expected, "zeros where the host was never washed"
    wash = Wash(id=b"w" * 16, time_ms=1_800_000_000_000)
    told = b"w" * 16 + (1_800_000_000_000).to_bytes(8)
    expected = hashlib.sha256(b"mrgc/1 worker" + PUBLIC + EPOCH + CONFIG + told).digest()
    assert worker_binding_digest(PUBLIC, EPOCH, CONFIG, wash) == expected, "the wash's id and time are in it"
    for wrong in ((PUBLIC[1:], EPOCH, CONFIG), (PUBLIC, EPOCH + b"x", CONFIG), (PUBLIC, EPOCH, b"")):
        with pytest.raises(ProblemError, match="must have"):
            worker_binding_digest(*wrong, None)


def test_a_wash_time_that_was_changed_on_its_way_no_longer_fits_the_digest() -> None:
    true, told = (Wash(id=b"w" * 16, time_ms=time_ms) for time_ms in (1_700_000_000_000, 1_800_000_000_000))
    digests = {worker_binding_digest(PUBLIC, EPOCH, CONFIG, wash) for wash in (true, told, None)}
    assert len(digests) == 3, "a host that was washed long ago can't be shown as one washed just now"


@given(id=st.binary(min_size=16, max_size=16).filter(any), time_ms=st.integers(1, 2**53 - 1))
def test_a_wash_reads_back_as_it_was_written(id: bytes, time_ms: int) -> None:  # noqa: A002 - the field's own name
    wash = Wash(id=id, time_ms=time_ms)
    assert Wash.from_map(wash.as_map(), "binding") == wash, "one form on every wire"


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {},
        {"id": "ab" * 16},
        {"id": "ab" * 16, "time": 0},
        {"id": "ab" * 16, "time": -1},
        {"id": "ab" * 16, "time": True},
        {"id": "00" * 16, "time": 1},
        {"id": "AB" * 16, "time": 1},
        {"id": " " + "ab" * 16, "time": 1},
        {"id": "ab" * 15, "time": 1},
        {"id": b"a" * 16, "time": 1},
        {"id": "ab" * 16, "time": 2**53},
    ],
)
def test_what_is_no_wash_is_not_read_as_one(wrong: object) -> None:
    with pytest.raises(OpenError, match="wash"):
        Wash.from_map(wrong, "binding")


@pytest.mark.parametrize("public", [bytes(32), b"short", b"\x01" + bytes(31)])
def test_a_public_key_that_hides_nothing_is_refused(public: bytes) -> None:
    with pytest.raises(ProblemError, match="bind the worker again"):
        seal_hop(public, EPOCH, CONFIG, RID)

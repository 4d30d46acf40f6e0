"""Entries: one way to write each, and nonsense refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.attestation.verify import SECURE_BOOT_OFF_PCR7
from dataplane.protocol.transparency.entry import MAX_TIME_MS, Entry
from dataplane.protocol.transparency.errors import REASONS, TransparencyError

PCRS = {index: bytes([index + 1]) * 48 for index in range(3)}
IMAGE: dict[str, Any] = {"kind": "enclave", "name": "mrgc-enclave", "version": "1.4.0", "time_ms": 5, "registers": PCRS}
HOST: dict[str, Any] = IMAGE | {"kind": "host", "registers": {4: b"\x04" * 48, 12: bytes(48)}}
MODEL: dict[str, Any] = {"kind": "model", "name": "tiny", "version": "3", "time_ms": 5, "digest": b"\xab" * 32}


def entries() -> st.SearchStrategy[Entry]:
    names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,40}", fullmatch=True)
    common = {"name": names, "version": names, "time_ms": st.integers(0, MAX_TIME_MS)}
    common["source"] = st.none() | st.from_regex(r"[!-~]{1,60}", fullmatch=True)
    register = st.binary(min_size=48, max_size=48).filter(any)
    image = st.fixed_dictionaries({0: register, 1: register, 2: register}, optional={8: register})
    return st.one_of(
        st.builds(Entry, kind=st.just("enclave"), registers=image, **common),
        st.builds(Entry, kind=st.just("host"), registers=st.fixed_dictionaries({4: register, 7: register}), **common),
        st.builds(Entry, kind=st.just("model"), digest=st.binary(min_size=32, max_size=32).filter(any), **common),
    )


@given(entries())
def test_an_entry_is_read_as_it_was_written(entry: Entry) -> None:
    assert Entry.parse(entry.encode()) == entry, "nothing is lost"


def test_an_entry_is_written_as_the_page_says() -> None:
    assert Entry(**MODEL).encode() == (
        b'{"digest":"sha256:' + b"ab" * 32 + b'","format":"mrgc-measurement/1","kind":"model","name":"tiny",'
        b'"time_ms":5,"version":"3"}'
    ), "docs/measurement-log.md: other programs hash these bytes"


@pytest.mark.parametrize("given_fields", [IMAGE, HOST, MODEL], ids=["enclave", "host", "model"])
def test_another_way_to_write_the_same_is_refused(given_fields: dict[str, Any]) -> None:
    data = Entry(**given_fields).encode()
    document = json.loads(data)
    for other in (
        json.dumps(document).encode(),
        data + b"\n",
        b" " + data,
        data.replace(b"sha256:ab", b"sha256:AB").replace(b"0101", b"0x01", 1).replace(b"0404", b"04 04", 1),
        data[:-1] + b',"more":1}',
        data[:-1] + b',"version":"1.4.0"}',
        data.replace(b'"mrgc-measurement/1"', b'"mrgc-measurement/2"'),
        data.replace(b'"time_ms":5', b'"time_ms":5.0'),
        data.replace(b'"time_ms":5', b'"time_ms":true'),
        data.replace(b'"time_ms":5', b'"time_ms":1e999'),
    ):
        with pytest.raises(TransparencyError) as caught:
            Entry.parse(other)
        assert caught.value.reason == "entry", "one form, one hash"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (IMAGE | {"registers": PCRS | {0: bytes(48)}}, "zero register"),
        (IMAGE | {"registers": PCRS | {8: bytes(48)}}, "zero register"),
        (IMAGE | {"registers": {0: PCRS[0], 1: PCRS[1]}}, "PCR0, PCR1, PCR2"),
        (IMAGE | {"registers": PCRS | {3: b"\x03" * 48}}, "PCR0, PCR1, PCR2"),
        (IMAGE | {"registers": PCRS | {0: b"\x01" * 32}}, "48 bytes"),
        (IMAGE | {"digest": b"\xab" * 32}, "no digest"),
        (IMAGE | {"registers": None}, "has registers"),
        (HOST | {"registers": {4: b"\x04" * 48}}, "PCR4 with PCR12"),
        (HOST | {"registers": {7: b"\x04" * 48, 12: bytes(48)}}, "PCR4 with PCR12"),
        (HOST | {"registers": {4: bytes(48), 12: bytes(48)}}, "only PCR12"),
        (HOST | {"registers": {4: b"\x04" * 48, 7: bytes(48)}}, "only PCR12"),
        (HOST | {"registers": {4: b"\x04" * 48, 7: SECURE_BOOT_OFF_PCR7}}, "Secure Boot off"),
        (HOST | {"registers": {4: b"\x04" * 48, 7: SECURE_BOOT_OFF_PCR7, 12: bytes(48)}}, "Secure Boot off"),
        (HOST | {"registers": {4: b"\x04" * 48, 12: bytes(48), 24: b"\x04" * 48}}, "PCR23"),
        (MODEL | {"digest": bytes(32)}, "digest is zero"),
        (MODEL | {"digest": b"\xab" * 31}, "SHA-256"),
        (MODEL | {"registers": PCRS}, "no registers"),
        (MODEL | {"kind": "image"}, "kind"),
        (MODEL | {"name": ""}, "name"),
        (MODEL | {"name": "a b"}, "name"),
        (MODEL | {"version": "x" * 129}, "version"),
        (MODEL | {"source": "two words"}, "source"),
        (MODEL | {"time_ms": -1}, "time"),
        (MODEL | {"time_ms": MAX_TIME_MS + 1}, "time"),
    ],
)
def test_nonsense_is_no_entry(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TransparencyError, match=sentence) as caught:
        Entry(**fields)
    assert caught.value.reason == "entry", "and it is named"


@given(st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
def test_no_bytes_make_the_entry_reader_fail_otherwise(data: bytes) -> None:
    with pytest.raises(TransparencyError):
        Entry.parse(data)


@pytest.mark.parametrize("value", [None, 5, "x", [], {}, {"PCR0": 5}, {"PCR99": "00"}, {"PCR00": "00"}, {"PCR0": "zz"}])
def test_registers_that_are_none_are_refused(value: object) -> None:
    document = json.loads(Entry(**IMAGE).encode()) | {"registers": value}
    with pytest.raises(TransparencyError):
        Entry.parse(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def test_an_entry_covers_the_image_that_it_measures_and_no_other() -> None:
    entry = Entry(**IMAGE)
    attested = PCRS | {index: bytes(48) for index in range(3, 16)}
    assert entry.covers(attested), "an unsigned image has a zero PCR8"
    for index in range(3):
        assert not entry.covers(attested | {index: b"\x77" * 48}), f"PCR{index} counts"
    assert not entry.covers({0: PCRS[0], 1: PCRS[1]}), "a register that was not given is not equal"
    assert not entry.covers(attested | {8: b"\x08" * 48}), "a signed image is not the unsigned one"
    assert not Entry(**HOST).covers(attested), "a host's entry is no image's"


def test_a_signed_images_entry_covers_only_its_signer() -> None:
    entry = Entry(**(IMAGE | {"registers": PCRS | {8: b"\x08" * 48}}))
    assert entry.covers(PCRS | {8: b"\x08" * 48}), "signed by that certificate"
    assert not entry.covers(PCRS | {8: b"\x09" * 48}), "not by another"
    assert not entry.covers(PCRS | {8: bytes(48)}), "nor by none"
    assert entry.covers(PCRS), "an expectation that leaves the signer open is met"


def test_a_reason_that_no_page_explains_is_a_bug() -> None:
    with pytest.raises(ValueError, match="because"):
        TransparencyError("Something.", reason="because")
    assert "fork" in REASONS, "the table is what docs/measurement-log.md lists"

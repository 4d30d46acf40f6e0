"""The request header: each field's limits, each refusal's code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.errors import ProblemError
from dataplane.protocol.header import RequestHeader, check_http, check_time, encryption_context

MakeHeader = Callable[..., RequestHeader]
IAT = 1_767_225_600_000
EXPIRES = 1_767_225_900


def fields_of(header: RequestHeader) -> dict[str, Any]:
    fields: dict[str, Any] = cbor2.loads(header.encode())
    return fields


def refused(fields: object) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        RequestHeader.decode(cbor2.dumps(fields, canonical=True))
    return caught.value


@given(
    rid=st.binary(min_size=16, max_size=16),
    iat=st.integers(0, 2**64 - 1),
    tenant=st.text(min_size=1, max_size=128),
    model=st.text(min_size=1, max_size=128),
    wrapped=st.binary(min_size=1, max_size=6144),
    assurance=st.integers(0, 2),
    pad=st.sampled_from([0, 16, 256, 4096]),
    expires=st.integers(0, 10**12 - 1),
    session=st.text("0123456789abcdefABCDEF", min_size=32, max_size=32),
)
def test_any_valid_header_survives_the_wire(
    make_header: MakeHeader, tenant: str, expires: int, session: str, **fields: object
) -> None:
    header = make_header(tenant=tenant, ctx=encryption_context(tenant, session, expires), **fields)
    again = RequestHeader.decode(header.encode())
    assert again == header, "the same header"
    assert (again.expires_s, again.session) == (expires, session), "with its session readable"
    assert again.context == {"mrgc:tenant": tenant, "mrgc:session": session, "mrgc:expires": str(expires)}, "for KMS"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rid", b"short"),
        ("rid", b"x" * 17),
        ("rid", "x" * 16),
        ("iat", -1),
        ("iat", "1767225600000"),
        ("iat", 1.5),
        ("iat", True),
        ("tenant", ""),
        ("tenant", "t" * 129),
        ("tenant", b"tenant-a"),
        ("model", ""),
        ("model", "m" * 129),
        ("kms", ""),
        ("kms", "k" * 2049),
        ("wrapped", b""),
        ("wrapped", b"w" * 6145),
        ("wrapped", "text"),
        ("assurance", 3),
        ("assurance", -1),
        ("assurance", True),
        ("assurance", None),
        ("pad", 1),
        ("pad", 8),
        ("pad", 24),
        ("pad", 8192),
        ("pad", False),
        ("suite", 1),
        ("v", "1"),
        ("v", True),
        ("v", None),
        ("ctx", {}),
        ("ctx", []),
        ("ctx", "text"),
    ],
)
def test_a_field_out_of_range_is_malformed(make_header: MakeHeader, name: str, value: object) -> None:
    error = refused(fields_of(make_header()) | {name: value})
    assert error.code == "malformed-envelope", error.detail
    assert name in error.detail, "the sentence names the field"


@pytest.mark.parametrize(
    "change",
    [
        {"mrgc:session": "0f" * 15},
        {"mrgc:session": "0g" * 16},
        {"mrgc:session": 1},
        {"mrgc:expires": "soon"},
        {"mrgc:expires": ""},
        {"mrgc:expires": "-5"},
        {"mrgc:expires": "007"},
        {"mrgc:expires": "٣"},
        {"mrgc:expires": "9" * 13},
        {"mrgc:expires": 5},
        {"extra": "x"},
    ],
)
def test_a_context_of_the_wrong_form_is_malformed(make_header: MakeHeader, change: dict[str, Any]) -> None:
    fields = fields_of(make_header())
    error = refused(fields | {"ctx": fields["ctx"] | change})
    assert error.code == "malformed-envelope", error.detail


def test_a_context_of_another_tenant_is_a_mismatch(make_header: MakeHeader) -> None:
    fields = fields_of(make_header())
    error = refused(fields | {"ctx": fields["ctx"] | {"mrgc:tenant": "tenant-b"}})
    assert error.code == "header-mismatch", "the two must be equal"


@pytest.mark.parametrize("change", [{"v": 0}, {"v": 2}, {"suite": "HKDF-SHA256/CHACHA"}, {"v": 2, "new": 1}])
def test_another_version_or_suite_is_unsupported(make_header: MakeHeader, change: dict[str, Any]) -> None:
    assert refused(fields_of(make_header()) | change).code == "unsupported-version", "not malformed: another version"


def test_missing_and_additional_keys_are_malformed(make_header: MakeHeader) -> None:
    fields = fields_of(make_header())
    for name in fields:
        assert refused({k: v for k, v in fields.items() if k != name}).code == "malformed-envelope", name
    assert refused(fields | {"extra": 1}).code == "malformed-envelope", "exactly these keys"
    no_maps: list[object] = [[], 1, "text", {1: 2}]
    for other in no_maps:
        assert refused(other).code == "malformed-envelope", "a header is a map"


def test_an_encoding_that_is_not_deterministic_is_malformed(make_header: MakeHeader) -> None:
    header = make_header()
    encoded = header.encode()
    fields = fields_of(header)
    others = [
        cbor2.dumps(dict(reversed(fields.items()))),
        cbor2.dumps(fields, canonical=True, indefinite_containers=True),
        encoded.replace(b"\x61v\x01", b"\x61v\x18\x01"),
        b"\xb8\x0b" + encoded[1:],
        encoded + b"\0",
        b"\xac" + encoded[1:] + b"\x61v\x01",
    ]
    for other in others:
        assert other != encoded, "the test must change something"
        with pytest.raises(ProblemError) as caught:
            RequestHeader.decode(other)
        assert caught.value.code == "malformed-envelope", "one header has one form"


def test_a_header_over_8_kib_can_be_neither_read_nor_made(make_header: MakeHeader) -> None:
    large = make_header(wrapped=b"w" * 6144, kms="k" * 2048)
    with pytest.raises(ProblemError, match="at most 8192"):
        large.encode()
    with pytest.raises(ProblemError, match="at most 8192"):
        RequestHeader.decode(bytes(8193))


def test_the_wrapped_key_does_not_show_in_repr(make_header: MakeHeader) -> None:
    assert "wrapped" not in repr(make_header(wrapped=b"blob")), "a repr may reach a log"


def test_a_header_cannot_be_changed_after_its_check(make_header: MakeHeader) -> None:
    ctx = encryption_context("tenant-a", "0f" * 16, EXPIRES)
    header = make_header(ctx=ctx)
    ctx["mrgc:tenant"] = "tenant-b"
    assert header.ctx["mrgc:tenant"] == "tenant-a", "the caller's map is copied"
    header.context["mrgc:tenant"] = "tenant-b"
    assert header.ctx["mrgc:tenant"] == "tenant-a", "and so is the one given out"


@pytest.mark.parametrize(
    ("now_ms", "expires_s", "in_time"),
    [
        (IAT, EXPIRES, True),
        (IAT + 299_999, EXPIRES, True),
        (IAT + 300_000, EXPIRES, False),  # exactly then, the session ends
        (IAT + 300_000, EXPIRES + 1, True),
        (IAT + 300_001, EXPIRES + 1, False),
        (IAT - 60_000, EXPIRES, True),
        (IAT - 60_001, EXPIRES, False),
        (IAT, IAT // 1000, False),
        (IAT, IAT // 1000 + 960, True),
        (IAT, IAT // 1000 + 961, False),
    ],
)
def test_time_limits_are_exact(make_header: MakeHeader, now_ms: int, expires_s: int, *, in_time: bool) -> None:
    header = make_header(ctx=encryption_context("tenant-a", "0f" * 16, expires_s))
    if in_time:
        check_time(header, now_ms)
        return
    with pytest.raises(ProblemError) as caught:
        check_time(header, now_ms)
    assert caught.value.code == "expired", caught.value.detail


@pytest.mark.parametrize("name", ["tenant", "model", "kms"])
@pytest.mark.parametrize("value", [None, "", "another", "Tenant-A"])
def test_http_headers_must_say_the_same(make_header: MakeHeader, name: str, value: str | None) -> None:
    header = make_header()
    same: dict[str, str | None] = {"tenant": header.tenant, "model": header.model, "kms": header.kms}
    check_http(header, **same)
    with pytest.raises(ProblemError) as caught:
        check_http(header, **(same | {name: value}))
    assert caught.value.code == "header-mismatch", caught.value.detail
    assert caught.value.detail.startswith("X-"), "the sentence names the HTTP header"

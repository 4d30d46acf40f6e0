"""Head parsing and the framing rules, on any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.errors import ProblemError
from dataplane.router.head import (
    MAX_REQUEST_BYTES,
    Credentials,
    read_credentials,
    read_fields,
    read_route,
    read_traceparent,
)
from tests.unit.router.harness import ROUTE_HEADERS

GOOD = [(name.encode(), value.encode()) for name, value in {**ROUTE_HEADERS, "Content-Length": "9"}.items()]

names = st.sampled_from(
    [
        b"Authorization",
        b"Content-Length",
        b"content-type",
        b"Expect",
        b"Transfer-Encoding",
        b"X-Deadline-Ms",
        b"X-KMS-Key-ARN",
        b"X-MRGC-Affinity",
        b"x-model-pool",
        b"X-Request-ID",
        b"X-Tenant-ID",
        b"traceparent",
        b"Upgrade",
    ]
)
values = st.one_of(st.binary(max_size=60), st.sampled_from([b"chunked", b"9", b"100-continue", b"Bearer k", b"tiny"]))


@given(st.lists(st.tuples(names, values), max_size=12))
def test_any_headers_are_read_or_refused_with_a_problem(pairs: list[tuple[bytes, bytes]]) -> None:
    refusal: ProblemError | None = None
    try:
        fields = read_fields(pairs)
        read_credentials(fields)
        route = read_route(fields)
    except ProblemError as problem:
        refusal = problem
    if refusal is not None:
        assert refusal.status in {400, 401, 413}, "a refusal is the tenant's fault"
        return
    assert 0 < len(route.tenant) <= 128, "within bounds"
    assert 0 < len(route.model) <= 128, "within bounds"
    length = route.framing.length
    assert length is None or 0 < length <= MAX_REQUEST_BYTES, "a length is a length"
    framings = [n for n, _ in pairs if n.lower() in {b"content-length", b"transfer-encoding"}]
    assert len(framings) == 1, "exactly one way of saying where the body ends"


@given(st.lists(st.tuples(names, values), max_size=4))
def test_no_extra_header_changes_where_the_request_goes(extra: list[tuple[bytes, bytes]]) -> None:
    try:
        route = read_route(read_fields([*GOOD, *extra]))
    except ProblemError:
        return
    assert (route.tenant, route.model) == ("tenant-a", "tiny"), "what follows never overrides"
    assert route.framing.length == 9, "nor reframes"


def test_the_api_key_is_in_no_repr() -> None:
    credentials = read_credentials(read_fields(GOOD))
    assert credentials == Credentials(tenant="tenant-a", api_key="key-of-tenant-a"), "it was read"
    assert "key-of-tenant-a" not in repr(credentials), "and is not shown"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"00-{'a' * 32}-{'b' * 16}-01", True),
        (f"00-{'0' * 32}-{'b' * 16}-01", False),
        (f"00-{'a' * 32}-{'0' * 16}-01", False),
        (f"00-{'A' * 32}-{'b' * 16}-01", False),
        (f"ff-{'a' * 32}-{'b' * 16}-01", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_an_invalid_traceparent_is_ignored_and_never_an_error(text: str, *, kept: bool) -> None:
    assert read_traceparent({"traceparent": text}) == (text if kept else None), "W3C: start a new trace"


@pytest.mark.parametrize("more", ["", "-", "-what a later version adds"])
def test_a_later_versions_wish_not_to_be_traced_is_read(more: str) -> None:
    known = f"{'a' * 32}-{'b' * 16}-00"
    assert read_traceparent({"traceparent": f"01-{known}{more}"}) == f"00-{known}", "W3C: as far as we know the format"
    assert read_traceparent({"traceparent": f"00-{known}-more"}) is None, "ours has no more"


def test_affinity_tags_are_read_in_order() -> None:
    tags = [f"{n:016x}" for n in range(16)]
    fields = read_fields([*GOOD, (b"X-MRGC-Affinity", ", ".join(tags).encode())])
    assert read_route(fields).affinity == tuple(tags), "from the shortest prefix to the longest"
    for bad in (b"nothex", b"0" * 17, ",".join([*tags, tags[0]]).encode()):
        assert read_route(read_fields([*GOOD, (b"X-MRGC-Affinity", bad)])).affinity == (), "a bad hint is no hint"


def test_text_beyond_ascii_is_text_and_control_characters_are_not() -> None:
    fields = read_fields([(b"X-Request-ID", "Anfrage-\u00e4\u6f22".encode())])
    assert fields["x-request-id"] == "Anfrage-\u00e4\u6f22", "any printable text"
    for bad in (b"a\x00b", b"a\x1bb", b"\xff\xfe", b"a\tb", "a\u2028b".encode()):
        with pytest.raises(ProblemError) as caught:
            read_fields([(b"X-Request-ID", bad)])
        assert caught.value.code == "malformed-envelope", "it would end up in logs"

"""Content-Encodings of local requests: undone within the bound, or refused in a sentence."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.tenant.decode import DecodeError, decode_body

LIMIT = 1 << 20
BODY = b'{"model": "tiny"}' * 100


@pytest.mark.parametrize(
    ("coding", "sent"),
    [
        ("", BODY),
        ("identity", BODY),
        ("gzip", gzip.compress(BODY)),
        ("X-GZIP", gzip.compress(BODY)),
        (" deflate ", zlib.compress(BODY)),
    ],
)
def test_a_known_coding_is_undone(coding: str, sent: bytes) -> None:
    assert decode_body(sent, coding, limit=LIMIT) == BODY, coding


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br", "gzip, gzip", "SECRET", "compress", "*"])
def test_another_coding_is_unsupported(coding: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_body(BODY, coding, limit=LIMIT)
    assert caught.value.error.status == 415, "and not a fault of ours"
    assert coding not in caught.value.error.message.split(), "what was sent is not repeated"


@pytest.mark.parametrize(
    "sent", [b"", BODY, gzip.compress(BODY)[:-9], gzip.compress(BODY) + b"more", zlib.compress(BODY)]
)
def test_what_is_not_one_whole_stream_is_refused(sent: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_body(sent, "gzip", limit=LIMIT)
    assert caught.value.error.status == 400, "the sender's fault"


def test_a_small_body_that_unfolds_past_the_bound_is_refused_without_unfolding_it() -> None:
    bomb = gzip.compress(bytes(200 << 20))
    assert len(bomb) < LIMIT, "it would be let in for its size"
    with pytest.raises(DecodeError) as caught:
        decode_body(bomb, "gzip", limit=LIMIT)
    assert caught.value.error.status == 413, "over the limit once decoded"


@given(st.binary(max_size=4_000), st.sampled_from(["gzip", "deflate"]))
def test_no_bytes_raise_anything_else(sent: bytes, coding: str) -> None:
    refused = None
    plain = b""
    try:
        plain = decode_body(sent, coding, limit=1_000)
    except DecodeError as error:
        refused = error.error.status
    assert refused in {None, 400, 413}, "in a sentence"
    assert len(plain) <= 1_000, "never past the bound"

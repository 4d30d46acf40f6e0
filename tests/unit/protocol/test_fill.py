from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol import cbor
from dataplane.protocol.errors import OpenError
from dataplane.protocol.fill import filled
from dataplane.protocol.hopmessage import TAIL_MULTIPLE, HopTail
from observability import names

COUNTS = st.integers(0, 2**53)
WASH: dict[str, str | int] = {"id": "ab" * 16, "time": 1_800_000_000_000}
NAMES = (names.WORKER_GENERATE, names.WORKER_FIRST_PIECE, names.WORKER_STREAM)


@given(
    st.dictionaries(st.text(max_size=3).filter(lambda key: key != "fill"), st.binary(max_size=600), max_size=3),
    st.sampled_from([32, 512, 4096]),
)
def test_a_filled_map_is_a_multiple_long_and_reads_back(fields: dict[str, bytes], multiple: int) -> None:
    encoded = filled(fields, multiple)
    assert len(encoded) % multiple == 0, "whatever is in it"
    assert len(encoded) <= len(cbor.encode(fields)) + 10 + multiple, "and not longer than need be"
    read = cbor.decode(encoded, max_bytes=len(encoded))
    assert {**fields, "fill": read["fill"]} == read, "nothing else has changed"


@pytest.mark.parametrize("multiple", [32, 512, 4096, 32_768])
def test_every_length_below_a_multiple_is_filled_to_that_one(multiple: int) -> None:
    for size in range(max(0, multiple - 400), multiple - 16):
        body = {"a": bytes(size)}
        if len(cbor.encode(body)) + 8 <= multiple:
            assert len(filled(body, multiple)) == multiple, f"{size} bytes: no length may skip a multiple"


@given(COUNTS, COUNTS, COUNTS, st.tuples(*[COUNTS] * 6))
def test_a_tails_length_tells_nothing_of_its_numbers(
    prompt: int, made: int, cached: int, times: tuple[int, ...]
) -> None:
    usage = {"prompt_tokens": prompt, "completion_tokens": made, "cached_tokens": cached}
    spans = tuple((name, times[i], times[i + 3]) for i, name in enumerate(NAMES))
    tail = HopTail(usage=usage, wash=WASH, spans=spans)
    assert len(tail.encode()) == TAIL_MULTIPLE, "one length, or the parent reads magnitudes off the last frame"
    assert HopTail.decode(tail.encode()) == tail, "and it reads back"


@pytest.mark.parametrize("fill", [None, 0, "zeros", b"zeros", [b""], [b"", "x"]])
def test_a_tail_without_a_fill_of_bytes_is_refused(fill: object) -> None:
    fields = {"usage": {}, "wash": None, "spans": [], "fill": fill}
    with pytest.raises(OpenError, match="fill"):
        HopTail.decode(cbor.encode(fields))

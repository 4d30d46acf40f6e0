"""Affinity tags: equal prefixes of one tenant on one day, and nothing else, match."""

from __future__ import annotations

import hashlib
import hmac
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.affinity import affinity_tags, format_affinity, parse_affinity

DAY = date(2026, 1, 31)
SECRET = b"tenant secret"


def test_a_tag_is_what_the_protocol_says() -> None:
    prk = hmac.digest(b"mrgc/1 affinity", SECRET, "sha256")
    key = hmac.digest(prk, b"2026-01-31" + b"\x01", hashlib.sha256)
    prompt = b"p" * 1500
    expected = [hmac.digest(key, prompt[:size], "sha256")[:8].hex() for size in (512, 1024)]
    assert affinity_tags(SECRET, DAY, prompt) == expected, "HKDF over secret and day, HMAC over the prefixes"


@pytest.mark.parametrize(("size", "count"), [(0, 0), (511, 0), (512, 1), (1023, 1), (1024, 2), (2**20, 12)])
def test_there_is_one_tag_for_each_whole_prefix(size: int, count: int) -> None:
    assert len(affinity_tags(SECRET, DAY, bytes(size))) == count, "a prefix that is not whole has no tag"


def test_prompts_match_as_far_as_they_are_equal() -> None:
    first = affinity_tags(SECRET, DAY, b"a" * 1024 + b"b" * 1024)
    second = affinity_tags(SECRET, DAY, b"a" * 1024 + b"c" * 1024)
    assert first[:2] == second[:2], "1,024 bytes are shared"
    assert first[2] != second[2], "2,048 are not"


def test_neither_tenants_nor_days_match() -> None:
    prompt = bytes(4096)
    base = set(affinity_tags(SECRET, DAY, prompt))
    assert not base & set(affinity_tags(b"other secret", DAY, prompt)), "another tenant"
    assert not base & set(affinity_tags(SECRET, date(2026, 2, 1), prompt)), "another day"


@given(st.lists(st.binary(min_size=8, max_size=8).map(bytes.hex), max_size=16))
def test_a_header_is_read_as_it_was_written(tags: list[str]) -> None:
    assert parse_affinity(format_affinity(tags)) == tags, "a round trip changes nothing"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        ",",
        "abc",
        "0123456789ABCDEF",
        "0123456789abcdef,",
        "0123456789abcdeg",
        ",".join(["0123456789abcdef"] * 17),
        "0" * 100_000,
    ],
)
def test_a_header_that_is_no_tags_is_only_a_lost_hint(header: str | None) -> None:
    assert parse_affinity(header) == [], "affinity is optional and never an error"


def test_spaces_after_commas_are_allowed() -> None:
    tags = ["0123456789abcdef", "fedcba9876543210"]
    assert parse_affinity(", ".join(tags)) == tags, "RFC 9110 lists have optional white space"

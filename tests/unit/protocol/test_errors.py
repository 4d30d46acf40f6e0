from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.errors import PROBLEMS, ProblemError, parse_problem


@pytest.mark.parametrize("code", PROBLEMS)
def test_a_problem_reads_back_as_it_was_sent(code: str) -> None:
    sent = ProblemError(code, "The pool 'x' is not here; ask for another.", retry_after_s=3)
    read = parse_problem(sent.status, sent.to_json(), retry_after=sent.headers()["Retry-After"])
    assert read is not None, "our own document must be understood"
    assert (read.code, read.detail, read.retry_after_s) == (code, sent.detail, 3), "nothing is lost on the way"


def test_a_problem_document_has_the_members_of_rfc_9457() -> None:
    document = json.loads(ProblemError("expired", "Too old.").to_json())
    assert document == {
        "type": "urn:mrgc:error:expired",
        "title": "The request or its session is too old or too new",
        "status": 400,
        "detail": "Too old.",
    }, "RFC 9457, section 3.1"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, ProblemError("expired", "x").to_json()),
        (400, b"<html>"),
        (400, b"[]"),
        (400, b'{"type": "about:blank", "detail": "x"}'),
        (400, b'{"type": "urn:mrgc:error:nonsense", "detail": "x"}'),
        (400, b'{"type": "urn:mrgc:error:expired", "detail": 5}'),
        (400, b" " * 5000),
        (400, b"[" * 4000),
    ],
)
def test_what_is_no_problem_of_ours_is_not_believed(status: int, body: bytes) -> None:
    assert parse_problem(status, body) is None, "a stranger's document must not pass for ours"


@given(st.integers(100, 599), st.binary(max_size=200), st.text(max_size=8))
def test_any_bytes_are_a_problem_or_none(status: int, body: bytes, retry_after: str) -> None:
    parse_problem(status, body, retry_after=retry_after)


def test_a_code_without_a_row_is_a_bug_and_says_so() -> None:
    with pytest.raises(KeyError):
        ProblemError("made-up", "x")

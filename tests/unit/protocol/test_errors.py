from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.errors import MAX_RETRY_AFTER_S, PROBLEMS, ProblemError, parse_problem


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


@pytest.mark.parametrize(
    "body",
    [
        b'{"type": "urn:mrgc:error:expired", "detail": "half \\ud800 a letter"}',
        '{"type": "urn:mrgc:error:expired", "detail": "'.encode("utf-16-le") + b"\x00\xd8" + '"}'.encode("utf-16-le"),
    ],
)
def test_half_a_letter_in_a_peers_sentence_can_be_passed_on(body: bytes) -> None:
    problem = parse_problem(400, body)
    assert problem is not None, "it is a problem of ours"
    assert json.loads(problem.to_json())["detail"] == problem.detail, "what is read can be written"
    assert "\ud800" not in str(problem), "a lone surrogate is no text that a log or a terminal could take"


@pytest.mark.parametrize("digits", ["9" * 19, "9" * 400, "9" * 5000, "0" * 5000 + "3600"])
def test_a_retry_after_of_any_length_is_at_most_an_hour(digits: str) -> None:
    body = ProblemError("overloaded", "Full.").to_json()
    problem = parse_problem(429, body, retry_after=digits)
    assert problem is not None, "the document is ours, whatever the header says"
    assert problem.retry_after_s == MAX_RETRY_AFTER_S, "and goes on with a bound"
    assert problem.headers()["Retry-After"] == "3600", "to the next peer too"


def test_no_problem_asks_for_more_than_an_hour_or_less_than_nothing() -> None:
    assert ProblemError("overloaded", "Full.", retry_after_s=10**400).retry_after_s == MAX_RETRY_AFTER_S, "an hour"
    assert ProblemError("overloaded", "Full.", retry_after_s=-1).retry_after_s == 0, "now"

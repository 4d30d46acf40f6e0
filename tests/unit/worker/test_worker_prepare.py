"""What the worker sets in a request, whatever the tenant wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.worker.prepare import NOT_THE_TENANTS, InnerError, prepare

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*NOT_THE_TENANTS, "messages", "prompt", "stream"]) | st.text(max_size=8)


def prepared(body: bytes, **more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"path": "/v1/completions", "pool": "tiny", "cache_salt": "s", "priority": 3} | more
    request: dict[str, Any] = json.loads(prepare(body=body, **fields).body)
    return request


@given(st.dictionaries(NAMES, JSON, max_size=6))
def test_salt_priority_and_model_are_the_workers_and_the_rest_is_the_tenants(request: dict[str, Any]) -> None:
    request.pop("model", None)
    result = prepared(json.dumps(request).encode())
    assert (result.pop("cache_salt"), result.pop("priority"), result.pop("model")) == ("s", 3, "tiny")
    assert result == {name: value for name, value in request.items() if name not in NOT_THE_TENANTS}


def test_the_last_of_two_members_with_one_name_does_not_slip_through() -> None:
    result = prepared(b'{"cache_salt": "a", "cache_salt": "b", "prompt": "x"}')
    assert result["cache_salt"] == "s", "duplicate names are read once and overwritten"


@given(st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_prepared_or_refused_in_openais_shape(body: bytes) -> None:
    refusal: InnerError | None = None
    try:
        prepared(body)
    except InnerError as error:
        refusal = error
    if refusal is not None:
        assert refusal.status in (400, 404)
        assert json.loads(refusal.body)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"{", "JSON"),
        (b"[1]", "object"),
        (b'{"temperature": NaN}', "JSON"),
        (b'{"prompt": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, "JSON"),
        (b"\xff\xfe", "JSON"),
    ],
)
def test_what_is_no_request_is_refused(body: bytes, word: str) -> None:
    with pytest.raises(InnerError) as caught:
        prepared(body)
    assert word in json.loads(caught.value.body)["error"]["message"]
    assert caught.value.status == 400


def test_another_model_and_another_path_are_not_found() -> None:
    with pytest.raises(InnerError) as caught:
        prepared(b'{"model": "other"}')
    assert (caught.value.status, json.loads(caught.value.body)["error"]["code"]) == (404, "model_not_found")
    with pytest.raises(InnerError) as caught:
        prepared(b"{}", path="/metrics")
    assert caught.value.status == 404, "only the three paths of the protocol reach the engine"


def test_an_inner_errors_text_stays_out_of_what_a_log_would_show() -> None:
    error = InnerError(400, "you wrote: secret")
    assert "secret" not in str(error)
    assert "secret" not in repr(error)

"""A list of models from a router that may be anything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.tenant.errors import RequestError
from dataplane.tenant.models import Model, parse_models

GOOD: dict[str, Any] = {"id": "tiny", "engine": "synthetic", "assurance": 0, "hosts": 2}


def document(**changes: Any) -> bytes:
    return json.dumps({"models": [GOOD | changes]}).encode()


def test_a_routers_list_is_read_as_it_is() -> None:
    assert parse_models(document(more="ignored"), 1) == [Model(id="tiny", engine="synthetic", assurance=0, hosts=2)]
    assert parse_models(b'{"models": []}', 1) == [], "a cluster may serve none"


@pytest.mark.parametrize(
    "body",
    [
        b'{"models": [{"id": "tiny", "engine": "synthetic", "assurance": 1e999, "hosts": 2}]}',
        b'{"models": [{"id": "tiny", "engine": "synthetic", "assurance": 0, "hosts": -1e999}]}',
        b'{"models": [{"id": "tiny", "engine": "synthetic", "assurance": 0, "hosts": NaN}]}',
        document(hosts=10**400),
        document(hosts=-1),
        document(hosts=True),
        document(assurance=3),
        document(assurance="0"),
        document(id="half \ud800 a letter"),
        document(id=""),
        document(id="x" * 129),
        document(engine=["vllm"]),
        document(engine="vl\nlm"),
        b"[" * 100_000,
        b"[1]",
        b"\xff",
        b"",
    ],
)
def test_what_is_no_list_of_models_is_one_sentence(body: bytes) -> None:
    with pytest.raises(RequestError, match="not readable") as caught:
        parse_models(body, 3)
    assert (caught.value.status, caught.value.attempts) == (502, 3), "the cluster's fault, with the attempts made"


@given(st.binary(max_size=200))
def test_any_bytes_are_models_or_that_sentence(body: bytes) -> None:
    try:
        parse_models(body, 1)
    except RequestError:
        return

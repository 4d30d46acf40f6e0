"""What the protocol's tests share: the known answers, and a header to start from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataplane.protocol.header import RequestHeader, encryption_context

MakeHeader = Callable[..., RequestHeader]


@pytest.fixture(scope="session")
def vectors() -> dict[str, Any]:
    """The known answers of protocol version 1."""
    path = Path(__file__).parents[2] / "data" / "protocol-v1.json"
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


@pytest.fixture(scope="session")
def make_header() -> MakeHeader:
    """A valid header, with any field replaced."""

    def make(**changes: object) -> RequestHeader:
        fields: dict[str, Any] = {
            "rid": bytes(range(16)),
            "iat": 1_767_225_600_000,
            "tenant": "tenant-a",
            "model": "tiny",
            "kms": "arn:aws:kms:us-east-1:111122223333:key/mrk-1",
            "ctx": encryption_context("tenant-a", "0f" * 16, 1_767_225_900),
            "wrapped": b"wrapped",
            "assurance": 0,
            "pad": 0,
        }
        return RequestHeader(**(fields | changes))

    return make

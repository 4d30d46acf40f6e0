"""Numbers that docs/tenant.md states are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from dataplane.mesh.httpserver import HEAD_S
from dataplane.protocol.suite import MAX_MESSAGE_BYTES
from dataplane.tenant.proxy import BODY_S
from dataplane.tenant.retry import RetryPolicy

PAGE = " ".join((Path(__file__).parents[3] / "docs/tenant.md").read_text().split())


def test_the_page_says_how_often_is_tried() -> None:
    policy = RetryPolicy()
    assert re.findall(r"tried again, up to (\w+) attempts", PAGE) == [str(policy.max_attempts)], "the code's number"
    found = re.findall(r"with backoff from ([0-9.]+) s to ([0-9.]+) s", PAGE)
    assert [tuple(map(float, one)) for one in found] == [(policy.base_s, policy.cap_s)], "and its pauses"


def test_the_page_says_how_long_and_how_large_a_request_may_be() -> None:
    assert f"not whole within {BODY_S:g} s" in PAGE, "the time for a body"
    assert f"A head has {HEAD_S:g} s." in PAGE, "and for a head"
    assert f"over {MAX_MESSAGE_BYTES >> 20} MiB, also once decoded" in PAGE, "and the size"

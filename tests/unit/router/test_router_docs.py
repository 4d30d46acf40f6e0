"""Numbers that docs/routing.md and docs/protocol.md state of attestation and connections are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplane.mesh.httpserver import HEAD_S, KEEPALIVE_S
from dataplane.protocol.attestation.nonces import MAX_HEADER_CHARS, MAX_SHARED_NONCES
from dataplane.router import attestation_limits as limits
from dataplane.router.crowd import MAX_STRANGERS
from dataplane.router.server import HANDSHAKE_S
from dataplane.router.upstream import MAX_RETRY_AFTER_S

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("routing", f"| {limits.TENANT_PER_S:g} a second, {limits.TENANT_BURST:g} saved up |"),
        ("routing", f"| {limits.ADDRESS_PER_S:g} a second, {limits.ADDRESS_BURST:g} saved up |"),
        ("routing", f"| {limits.STRANGERS_PER_S:g} a second, {limits.STRANGERS_BURST:g} saved up |"),
        ("routing", f"{limits.MAX_ENTRIES:,} are remembered"),
        ("routing", f"| `MAX_STRANGERS` | {MAX_STRANGERS} |"),
        ("routing", f"A head has {HEAD_S:g} s,"),
        ("routing", f"may be idle for {KEEPALIVE_S:g} s"),
        ("routing", f"a TLS handshake, has {HANDSHAKE_S:g} s"),
        ("routing", f"whole seconds, at most {MAX_RETRY_AFTER_S};"),
        ("protocol", f"for two to {MAX_SHARED_NONCES} different ones"),
        ("protocol", f"at most {MAX_HEADER_CHARS:,} characters"),
        ("parent", f"It serves {MAX_SHARED_NONCES}; more get 429"),
    ],
)
def test_the_page_states_the_codes_number(page: str, sentence: str) -> None:
    text = " ".join((DOCS / f"{page}.md").read_text().split())
    assert sentence in text, f"docs/{page}.md must say it"

"""Affinity tags: let the router find a warm prefix cache without reading the prompt.

What they reveal: that two prompts of one tenant on one day share a prefix of 512 * 2^j bytes, and a prompt's
length up to a factor of two. The header is optional for that reason.
"""

from __future__ import annotations

import hmac
import re
from datetime import date
from typing import Final

from dataplane.protocol.keys import KEY_BYTES, hkdf_expand, hkdf_extract

MAX_TAGS: Final = 16
SMALLEST_PREFIX_BYTES: Final = 512
TAG_HEX_DIGITS: Final = 16
_TAG: Final = re.compile(r"[0-9a-f]{16}")
_MAX_HEADER: Final = MAX_TAGS * (TAG_HEX_DIGITS + 2)
"""Sixteen tags, a comma and a space after each."""


def affinity_tags(tenant_secret: bytes, day: date, prompt: bytes) -> list[str]:
    """Return tag 0, 1, … of a canonical prompt: one for each prefix of 512 * 2^j bytes that it has, at most 16.

    `day` is the current UTC date; its ISO form (2026-01-31) goes into the key.
    """
    key = hkdf_expand(hkdf_extract(b"mrgc/1 affinity", tenant_secret), day.isoformat().encode(), KEY_BYTES)
    tags = []
    for j in range(MAX_TAGS):
        size = SMALLEST_PREFIX_BYTES << j
        if size > len(prompt):
            break
        tags.append(hmac.digest(key, prompt[:size], "sha256")[: TAG_HEX_DIGITS // 2].hex())
    return tags


def format_affinity(tags: list[str]) -> str:
    """Return the value of `X-MRGC-Affinity`."""
    return ",".join(tags)


def parse_affinity(header: str | None) -> list[str]:
    """Read `X-MRGC-Affinity`; a header that is not 1 to 16 tags of 16 hex digits is only a lost hint: []."""
    if not header or len(header) > _MAX_HEADER:
        return []
    tags = [tag.strip() for tag in header.split(",")]
    return tags if len(tags) <= MAX_TAGS and all(map(_TAG.fullmatch, tags)) else []

"""The prefix-cache salt of a tenant: derived here, never chosen by a tenant, so that tenants share nothing in vLLM.

vLLM mixes `cache_salt` into the hash of every cached block: equal prompts under different salts share no block.
"""

from __future__ import annotations

from dataplane.protocol.keys import hkdf_expand, hkdf_extract

SALT_LABEL = b"mrgc/1 cache salt"
SECRET_BYTES = 32
SALT_BYTES = 32
"""Output length. vLLM takes a non-empty string, so the salt travels as 64 hex digits."""


def cache_salt(secret: bytes, tenant: str) -> str:
    """Return HKDF(`secret`, "mrgc/1 cache salt" || len(tenant) || tenant) as hex; len is u32 over UTF-8 bytes.

    The HKDF's own salt is empty (RFC 5869, section 2.2: a string of zeros), for `secret` is uniformly random.
    """
    name = tenant.encode()
    info = SALT_LABEL + len(name).to_bytes(4) + name
    return hkdf_expand(hkdf_extract(bytes(32), secret), info, SALT_BYTES).hex()

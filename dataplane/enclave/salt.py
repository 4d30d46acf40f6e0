"""The prefix-cache salt of key and tenant: derived here, never chosen by a tenant, so that two share nothing in vLLM.

vLLM mixes `cache_salt` into the hash of every cached block: equal prompts under different salts share no block, so
neither a count of cached tokens nor the time to a first token answers a guess at what another key's tenant asked.
"""

from __future__ import annotations

from dataplane.enclave.tenant_key import TenantKey
from dataplane.protocol.keys import hkdf_expand, hkdf_extract

SALT_LABEL = b"mrgc/1 cache salt"
SECRET_BYTES = 32
SALT_BYTES = 32
"""Output length. vLLM takes a non-empty string, so the salt travels as 64 hex digits."""


def cache_salt(secret: bytes, key: TenantKey, tenant: str) -> str:
    """Return HKDF(`secret`, "mrgc/1 cache salt" || len(key) || key || len(tenant) || tenant) as hex.

    `key` goes in as its `identity`; lengths are u32 over UTF-8 bytes. Only a key that KMS has decrypted this request's
    data key under may be given: a name alone is anybody's to write.

    The HKDF's own salt is empty (RFC 5869, section 2.2: a string of zeros), for `secret` is uniformly random.
    """
    parts = (key.identity.encode(), tenant.encode())
    info = SALT_LABEL + b"".join(len(part).to_bytes(4) + part for part in parts)
    return hkdf_expand(hkdf_extract(bytes(32), secret), info, SALT_BYTES).hex()

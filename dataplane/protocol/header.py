"""The request header: everything about a request that travels in clear, bound to its keys by `hh`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

from dataplane.protocol import cbor
from dataplane.protocol.errors import ProblemError
from dataplane.protocol.frames import check_pad
from dataplane.protocol.suite import MAX_HEADER_BYTES, VERSION

SUITE_NAME: Final = "HKDF-SHA256/A256GCM"
RID_BYTES: Final = 16
MAX_NAME: Final = 128
"""Characters of a tenant's id and of a model pool's name."""
MAX_KMS_ARN: Final = 2048
"""Longest ARN that AWS writes (IAM's limit); a key ARN has about 80 characters."""
MAX_WRAPPED_BYTES: Final = 6144
"""KMS: a CiphertextBlob has at most 6,144 bytes."""
MAX_ASSURANCE: Final = 2
HEADER_ITEMS: Final = 64
"""The map, its eleven members and the three of `ctx` are 29; a later version's header, which may have more, must be
readable far enough to be told `unsupported-version`."""

IAT_MAX_AGE_MS: Final = 300_000
IAT_MAX_AHEAD_MS: Final = 60_000
SESSION_MAX_S: Final = 900
"""`mrgc:expires` lies at most 15 minutes ahead, plus the 60 s by which the tenant's clock may be ahead."""

CTX_TENANT: Final = "mrgc:tenant"
CTX_SESSION: Final = "mrgc:session"
CTX_EXPIRES: Final = "mrgc:expires"

_KEYS: Final = frozenset(
    {"v", "suite", "rid", "iat", "tenant", "model", "kms", "ctx", "wrapped", "assurance", "pad"},
)
_CTX_KEYS: Final = frozenset({CTX_TENANT, CTX_SESSION, CTX_EXPIRES})
_SESSION: Final = re.compile(r"[0-9a-fA-F]{32}")
_EXPIRES: Final = re.compile(r"0|[1-9][0-9]{0,11}")
_MAX_UINT: Final = 2**64 - 1


def encryption_context(tenant: str, session_hex: str, expires_s: int) -> dict[str, str]:
    """Return a session's KMS encryption context: `session_hex` is 32 hex digits, `expires_s` seconds since 1970."""
    return {CTX_TENANT: tenant, CTX_SESSION: session_hex, CTX_EXPIRES: str(expires_s)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHeader:
    """A valid header: making one with a field out of range raises `ProblemError`.

    `rid` is 16 random bytes, `iat` ms since 1970, `ctx` the KMS encryption context, `wrapped` the CiphertextBlob,
    `assurance` the least level accepted (0 to 2), `pad` 0 or a power of two from 16 to 4,096.
    """

    suite: str = SUITE_NAME
    rid: bytes
    iat: int
    tenant: str
    model: str
    kms: str
    ctx: Mapping[str, str]
    wrapped: bytes = field(repr=False)
    assurance: int
    pad: int

    def __post_init__(self) -> None:
        """Check every field and freeze `ctx`."""
        _check(self)
        object.__setattr__(self, "ctx", MappingProxyType(dict(self.ctx)))

    def encode(self) -> bytes:
        """Return `H`; `ProblemError` malformed-envelope when the fields together exceed 8,192 bytes."""
        encoded = cbor.encode(
            {
                "v": VERSION,
                "suite": self.suite,
                "rid": self.rid,
                "iat": self.iat,
                "tenant": self.tenant,
                "model": self.model,
                "kms": self.kms,
                "ctx": dict(self.ctx),
                "wrapped": self.wrapped,
                "assurance": self.assurance,
                "pad": self.pad,
            },
        )
        if len(encoded) > MAX_HEADER_BYTES:
            raise _malformed(f"a header of {len(encoded)} bytes was made, and at most {MAX_HEADER_BYTES} are allowed")
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read `H`.

        Raises `ProblemError`: `unsupported-version` for another `v` or `suite`, `header-mismatch` when `tenant` and
        `ctx` disagree, `malformed-envelope` for everything else, encodings that are not deterministic included.
        """
        try:
            fields = cbor.decode_map(data, max_bytes=MAX_HEADER_BYTES, max_items=HEADER_ITEMS)
        except cbor.CborError as error:
            raise _malformed(f"the envelope header can't be read: {error}") from error
        version = fields.get("v")
        if type(version) is int and version != VERSION:
            raise _unsupported(f"the envelope header has version {version}, and only {VERSION} is spoken here")
        if type(version) is not int or fields.keys() != _KEYS:
            raise _malformed("the envelope header must have exactly the keys " + ", ".join(sorted(_KEYS)))
        del fields["v"]
        return cls(**fields)

    @property
    def context(self) -> dict[str, str]:
        """A copy of `ctx`, as KMS `EncryptionContext` wants it."""
        return dict(self.ctx)

    @property
    def session(self) -> str:
        """The session's 32 hex digits."""
        return self.ctx[CTX_SESSION]

    @property
    def expires_s(self) -> int:
        """When the session ends, seconds since 1970."""
        return int(self.ctx[CTX_EXPIRES])


def check_time(header: RequestHeader, now_ms: int) -> None:
    """Raise `ProblemError` expired unless `iat` and `mrgc:expires` suit the clock `now_ms` (ms since 1970)."""
    age = now_ms - header.iat
    if age > IAT_MAX_AGE_MS:
        raise _expired(f"the request was sealed {age // 1000} s ago, and at most 300 s are allowed; seal it again")
    if -age > IAT_MAX_AHEAD_MS:
        raise _expired(f"the request was sealed {-age // 1000} s in the future; set the tenant's clock")
    left_ms = header.expires_s * 1000 - now_ms
    if left_ms <= 0:
        raise _expired(f"the session ended {-left_ms // 1000} s ago; start a new one")
    if left_ms > SESSION_MAX_S * 1000 + IAT_MAX_AHEAD_MS:
        raise _expired(f"the session ends in {left_ms // 1000} s, and at most {SESSION_MAX_S} s are allowed")


def check_http(header: RequestHeader, *, tenant: str | None, model: str | None, kms: str | None) -> None:
    """Raise `ProblemError` header-mismatch unless the three HTTP headers are there and say what the envelope says."""
    for name, given, expected in (
        ("X-Tenant-ID", tenant, header.tenant),
        ("X-Model-Pool", model, header.model),
        ("X-KMS-Key-ARN", kms, header.kms),
    ):
        if given != expected:
            fault = "is missing" if given is None else "differs from the envelope's header"
            raise ProblemError("header-mismatch", f"{name} {fault}; send the same value in both")


def _check(header: RequestHeader) -> None:
    if not isinstance(header.suite, str):
        raise _malformed("the envelope header's suite must be text")
    if header.suite != SUITE_NAME:
        raise _unsupported(f"the envelope header names another suite, and only {SUITE_NAME} is spoken here")
    if not _is_bytes(header.rid, RID_BYTES, RID_BYTES):
        raise _malformed("the envelope header's rid must be 16 bytes")
    if not _is_uint(header.iat, _MAX_UINT):
        raise _malformed("the envelope header's iat must be an unsigned integer, ms since 1970")
    for name, value, most in (
        ("tenant", header.tenant, MAX_NAME),
        ("model", header.model, MAX_NAME),
        ("kms", header.kms, MAX_KMS_ARN),
    ):
        if not isinstance(value, str) or not 1 <= len(value) <= most:
            raise _malformed(f"the envelope header's {name} must be text of 1 to {most} characters")
    if not _is_bytes(header.wrapped, 1, MAX_WRAPPED_BYTES):
        raise _malformed(f"the envelope header's wrapped must be 1 to {MAX_WRAPPED_BYTES} bytes")
    if not _is_uint(header.assurance, MAX_ASSURANCE):
        raise _malformed("the envelope header's assurance must be 0, 1 or 2")
    if type(header.pad) is not int or not check_pad(header.pad):
        raise _malformed("the envelope header's pad must be 0 or a power of two from 16 to 4096")
    _check_context(header.ctx, header.tenant)


def _check_context(ctx: Any, tenant: str) -> None:
    if not isinstance(ctx, Mapping) or ctx.keys() != _CTX_KEYS or not all(isinstance(v, str) for v in ctx.values()):
        raise _malformed("the envelope header's ctx must map exactly " + ", ".join(sorted(_CTX_KEYS)) + " to text")
    if not _SESSION.fullmatch(ctx[CTX_SESSION]):
        raise _malformed(f"the envelope header's {CTX_SESSION} must be 32 hex digits")
    if not _EXPIRES.fullmatch(ctx[CTX_EXPIRES]):
        raise _malformed(f"the envelope header's {CTX_EXPIRES} must be decimal seconds since 1970")
    if ctx[CTX_TENANT] != tenant:
        raise ProblemError("header-mismatch", f"the context's {CTX_TENANT} differs from the envelope header's tenant")


def _is_bytes(value: object, least: int, most: int) -> bool:
    return isinstance(value, bytes) and least <= len(value) <= most


def _is_uint(value: object, most: int) -> bool:
    # `type`, not isinstance: CBOR's true is no 1.
    return type(value) is int and 0 <= value <= most


def _malformed(detail: str) -> ProblemError:
    return ProblemError("malformed-envelope", detail)


def _unsupported(detail: str) -> ProblemError:
    return ProblemError("unsupported-version", detail)


def _expired(detail: str) -> ProblemError:
    return ProblemError("expired", detail)

"""A local request's body as it was before its Content-Encoding: what Python's own library undoes, within the bound."""

from __future__ import annotations

import zlib

from dataplane.tenant.openai_errors import OpenAIError

_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""zlib's window bits for each coding (RFC 9110, section 8.4.1: "deflate" is the zlib format)."""


class DecodeError(Exception):
    """A body that can't be decoded; `error` is the answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        """Keep the answer."""
        super().__init__(message)
        self.error = OpenAIError(status=status, code=code, message=message)


def decode_body(body: bytes, coding: str, *, limit: int) -> bytes:
    """Return `body` without `coding`, the value of Content-Encoding ("" for none), at most `limit` bytes.

    Raises `DecodeError`: 415 for a coding that is not undone here, 400 for a body that is not coded so, 413 for one
    that is longer once decoded.
    """
    name = coding.strip().lower()
    if name in {"", "identity"}:
        return body
    window = _WINDOWS.get(name)
    if window is None:
        raise DecodeError(
            415,
            "unsupported-encoding",
            "This Content-Encoding is not decoded here; send the body as it is, or with gzip or deflate.",
        )
    decoder = zlib.decompressobj(window)
    try:
        plain = decoder.decompress(body, limit + 1)
    except zlib.error:
        raise DecodeError(
            400, "invalid-encoding", f"The body is not valid {name}; send it as its Content-Encoding says."
        ) from None
    if len(plain) > limit:
        raise DecodeError(413, "too-large", f"The request is over {limit} bytes once decoded; send less.")
    if not decoder.eof or decoder.unused_data:
        raise DecodeError(
            400, "invalid-encoding", f"The body is not one whole {name} stream; send it as its Content-Encoding says."
        )
    return plain

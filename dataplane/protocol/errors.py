"""The one family of errors, and the table of problems that go over the wire.

Every error's text is one sentence: what was given, what is wrong, what to do. No text carries a prompt, a key, an
API key or a ciphertext.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

PROBLEM_CONTENT_TYPE = "application/problem+json"
"""Media type of a problem document (RFC 9457, section 3)."""

PROBLEM_TYPE_PREFIX = "urn:mrgc:error:"
"""Prefix of a problem's `type`; the code follows it."""

MAX_PROBLEM_BYTES = 4096
"""A problem document is four short members; anything longer than a page was not written by us."""

MAX_RETRY_AFTER_S = 3600
"""Longest wait that a problem asks for, the longest request's time: our own ask for a minute at most, and a peer's
header may say anything."""


class MrgcError(Exception):
    """Base of every error that MRGC raises on purpose; `str(error)` is one sentence fit for a person."""


class SettingsError(MrgcError):
    """Configuration that can't be used; the text names each variable, its value and what was expected."""


class LinkError(MrgcError):
    """Bytes on the host link or the worker's socket that are no message of that link."""


class OpenError(MrgcError):
    """A response that does not open: truncated, altered, or not an answer to this request."""


class AttestationError(MrgcError):
    """An attestation document that was refused.

    `reason` is the failed check's short name: `size`, `cose`, `field`, `chain`, `signature`, `age`, `debug`, `pcr`,
    `nonce`, `user-data`, `public-key` or `instance`.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        """Keep the sentence and the name of the failed check."""
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Problem:
    """What a code stands for: HTTP status, title, and whether another host may do better."""

    status: int
    title: str
    retry_elsewhere: bool = False


PROBLEMS: Mapping[str, Problem] = MappingProxyType(
    {
        "malformed-envelope": Problem(400, "The request is not a well-formed envelope"),
        "header-mismatch": Problem(400, "HTTP headers and envelope header disagree"),
        "unsupported-version": Problem(400, "This protocol version is not spoken here"),
        "expired": Problem(400, "The request or its session is too old or too new"),
        "unauthenticated": Problem(401, "No valid API key was given"),
        "key-not-registered": Problem(403, "The KMS key is not registered for this tenant"),
        "kms-denied": Problem(403, "KMS refused the enclave"),
        "assurance-too-low": Problem(403, "The host proves less than the tenant asks for"),
        "unknown-model-pool": Problem(404, "No such model pool"),
        "not-found": Problem(404, "No such page"),
        "replayed": Problem(409, "This request was already served"),
        "too-large": Problem(413, "The request is too large"),
        "tenant-over-limit": Problem(429, "The tenant is over its limit"),
        "overloaded": Problem(429, "The host is overloaded", retry_elsewhere=True),
        "host-failed": Problem(502, "The host failed", retry_elsewhere=True),
        "no-capacity": Problem(503, "No host can take the request now", retry_elsewhere=True),
        "deadline-exceeded": Problem(504, "The deadline passed"),
    }
)
"""Every problem code of the protocol's error table (docs/protocol.md, "Errors")."""


class ProblemError(MrgcError):
    """A refusal that goes to the peer as problem details (RFC 9457).

    `detail` is one sentence and travels to the tenant in clear: it may name headers, limits and identifiers, never
    anything that was inside an envelope.
    """

    def __init__(self, code: str, detail: str, *, retry_after_s: int | None = None) -> None:
        """Raise `KeyError` for a code that is not in `PROBLEMS`: a refusal without a row is a bug.

        A detail that is a bare clause, as parsers have it, gets its capital and its full stop here, and
        `retry_after_s` is brought to 0 to `MAX_RETRY_AFTER_S`.
        """
        sentence = _sentence(detail)
        super().__init__(sentence)
        self.problem = PROBLEMS[code]
        self.code = code
        self.detail = sentence
        self.retry_after_s = None if retry_after_s is None else min(max(retry_after_s, 0), MAX_RETRY_AFTER_S)

    @property
    def status(self) -> int:
        """HTTP status of this problem."""
        return self.problem.status

    def to_json(self) -> bytes:
        """Return the problem document as UTF-8 JSON."""
        document = {
            "type": PROBLEM_TYPE_PREFIX + self.code,
            "title": self.problem.title,
            "status": self.status,
            "detail": self.detail,
        }
        return json.dumps(document, ensure_ascii=False).encode()

    def headers(self) -> dict[str, str]:
        """Return the HTTP headers that go with the document; `Retry-After` in seconds where retrying makes sense."""
        headers = {"Content-Type": PROBLEM_CONTENT_TYPE, "Cache-Control": "no-store"}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        return headers


def _sentence(clause: str) -> str:
    return clause[:1].upper() + clause[1:] + ("" if clause.endswith(".") else ".")


def parse_problem(status: int, body: bytes, *, retry_after: str | None = None) -> ProblemError | None:
    """Read a problem document that a peer sent, or return None if it is not one of ours.

    A document whose code is unknown, whose status disagrees with the code's row, or which is over
    `MAX_PROBLEM_BYTES` is not trusted. `retry_after` is the header's text; only whole seconds count, and at most
    `MAX_RETRY_AFTER_S` of them. Lone surrogates, which JSON can write and no encoding can, become question marks.
    """
    if len(body) > MAX_PROBLEM_BYTES:
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    kind, detail = document.get("type"), document.get("detail")
    if not isinstance(kind, str) or not isinstance(detail, str) or not kind.startswith(PROBLEM_TYPE_PREFIX):
        return None
    code = kind.removeprefix(PROBLEM_TYPE_PREFIX)
    known = PROBLEMS.get(code)
    if known is None or known.status != status:
        return None
    return ProblemError(code, detail.encode("utf-8", "replace").decode(), retry_after_s=_seconds(retry_after))


def _seconds(text: str | None) -> int | None:
    """Read whole seconds; longer than any that count without `int`, which refuses thousands of digits."""
    if text is None or not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    return int(digits or "0") if len(digits) <= len(str(MAX_RETRY_AFTER_S)) else MAX_RETRY_AFTER_S

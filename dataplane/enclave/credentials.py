"""AWS credentials that the parent hands over and renews; the enclave has no way to fetch its own.

They sign KMS calls and prove nothing: what the enclave may decrypt is decided by its attestation document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.credentials import CredentialProvider, Credentials, ReadOnlyCredentials

from dataplane.protocol.errors import ProblemError

EXPIRY_MARGIN_MS = 5_000
"""Credentials this close to their end are not used: a call signed with them could arrive too late."""

RETRY_AFTER_S = 1
"""The parent renews minutes ahead; without credentials it is just starting."""

MAX_FIELD_CHARS = 8_192
"""Longest field taken. STS promises no bound for a session token; they are about 1 KiB today."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCredentials:
    """One set of role credentials; `expires_ms` is ms since 1970."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expires_ms: int

    @classmethod
    def from_map(cls, fields: Mapping[str, Any]) -> HostCredentials:
        """Read the `credentials` operation's fields; raises `ProblemError` (`malformed-envelope`) naming the field."""
        texts = {}
        for name in ("access_key_id", "secret_access_key", "session_token"):
            value = fields.get(name)
            if not isinstance(value, str) or not 0 < len(value) <= MAX_FIELD_CHARS:
                raise ProblemError("malformed-envelope", f"The credentials' {name} is not a text of usual length.")
            texts[name] = value
        expires_ms = fields.get("expires_ms")
        if type(expires_ms) is not int or expires_ms < 0:
            raise ProblemError("malformed-envelope", "The credentials' expires_ms is not a time in ms since 1970.")
        return cls(expires_ms=expires_ms, **texts)


class RelayedCredentials(Credentials):
    """What botocore signs with: always the latest that the parent handed over, or a refusal."""

    def __init__(self, *, clock_ms: Callable[[], int]) -> None:
        """Start without credentials."""
        super().__init__("", "", "", method="mrgc-parent")
        self._clock_ms = clock_ms
        self._current: HostCredentials | None = None

    def replace(self, credentials: HostCredentials) -> None:
        """Use `credentials` from the next call on."""
        self._current = credentials

    @property
    def usable(self) -> bool:
        """Whether there are credentials that have not (nearly) expired."""
        return self._current is not None and self._clock_ms() < self._current.expires_ms - EXPIRY_MARGIN_MS

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return one consistent set; raises `ProblemError` (`host-failed`) when there is none to use."""
        current = self._current
        if current is None or not self.usable:
            raise ProblemError(
                "host-failed",
                "The enclave has no valid AWS credentials; its parent has to hand over new ones.",
                retry_after_s=RETRY_AFTER_S,
            )
        return ReadOnlyCredentials(current.access_key_id, current.secret_access_key, current.session_token)

    def __repr__(self) -> str:
        """Say whether there are any, and nothing of them."""
        return f"RelayedCredentials(usable={self.usable})"


class RelayedProvider(CredentialProvider):
    """botocore's way to be given credentials: one provider, which always has the same object."""

    METHOD = "mrgc-parent"
    CANONICAL_NAME = "MrgcParent"

    def __init__(self, credentials: RelayedCredentials) -> None:
        """Provide `credentials`."""
        super().__init__()
        self._credentials = credentials

    def load(self) -> Credentials:
        """Return the credentials."""
        return self._credentials

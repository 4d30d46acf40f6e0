"""What can go wrong for a tenant before a response is given, and after."""

from __future__ import annotations

from dataplane.protocol.errors import MrgcError, OpenError

UNREACHABLE = "unreachable"
"""The tenant's own code beside the protocol's: no connection to the cluster could be made or kept."""


class RequestError(MrgcError):
    """A request that got no response, after all attempts.

    `code` is a code of the protocol's error table or `unreachable`; `status` the HTTP status that fits;
    `retry_after_s` what the cluster asked for, if it did; `attempts` how often the request was sent.
    """

    def __init__(
        self, message: str, *, code: str, status: int, attempts: int, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.attempts = attempts
        self.retry_after_s = retry_after_s


class BrokenStreamError(OpenError):
    """A response that ended before its final frame: whatever came of it is incomplete."""


class ReceiptError(OpenError):
    """A receipt that is not this answer's, not signed by whom it should be, or not what the tenant expects."""

"""The instance role's credentials: fetched from botocore's chain and handed to the enclave, which has no network.

They give no more than the role may do, and the tenant's key policy lets the role decrypt only from the measured
enclave, so the parent seeing them gives it no key (THREAT_MODEL.md).
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import botocore.session
from botocore.exceptions import BotoCoreError

from dataplane.protocol.errors import MrgcError

FETCH_TIMEOUT_S = 10.0
"""botocore tries IMDS once with 1 s to connect and read; a refresh behind a role chain takes a few calls."""
CHECK_S = 20.0
"""Between two looks at the chain; botocore itself renews from 15 minutes before the end.

Credentials that the metadata service gives with less than 12 to 20 minutes left get an end that much from now
(botocore's InstanceMetadataFetcher does so, for a service that is late), so `expires_ms` may then lie after the real
end. botocore asks again within 5 minutes, and new credentials reach the enclave at the next look."""
UNLIMITED_S = 3600
"""What credentials without an end (keys from the environment) are handed over for; they are renewed like others."""
RENEW_BEFORE_S = 300
"""Handed over again when the enclave's have less left than this, even if botocore's are the same."""


class CredentialsError(MrgcError):
    """There are no credentials to hand over."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Temporary AWS credentials; `expires_ms` is ms since 1970."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expires_ms: int


class CredentialSource(Protocol):
    """Where credentials come from."""

    async def fetch(self) -> Credentials:
        """Credentials that are valid now; raises CredentialsError when there are none."""


class ChainCredentials:
    """botocore's default chain: environment, files, container, and at last the instance's metadata (IMDSv2)."""

    def __init__(self, *, clock_ms: Callable[[], int], session: botocore.session.Session | None = None) -> None:
        self._clock_ms = clock_ms
        self._session = session or botocore.session.get_session()

    async def fetch(self) -> Credentials:
        """Ask the chain in a thread, since botocore blocks."""
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                return await asyncio.to_thread(self._fetch)
        except TimeoutError:
            raise CredentialsError(f"The AWS credential chain did not answer within {FETCH_TIMEOUT_S:g} s.") from None

    def _fetch(self) -> Credentials:
        try:
            found = self._session.get_credentials()
            frozen = found.get_frozen_credentials() if found is not None else None
        except BotoCoreError as error:
            raise CredentialsError(
                f"The AWS credential chain failed ({type(error).__name__}); see the role and IMDS."
            ) from None
        if found is None or frozen is None or not frozen.access_key or not frozen.secret_key:
            raise CredentialsError("The AWS credential chain has no credentials; give the instance a role.")
        # botocore publishes no expiry; RefreshableCredentials has kept it in this attribute since 2014.
        expires = getattr(found, "_expiry_time", None)
        if isinstance(expires, dt.datetime):
            expires_ms = int(expires.timestamp() * 1000)
        else:
            expires_ms = self._clock_ms() + UNLIMITED_S * 1000
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token or "", expires_ms)


def must_hand_over(given: Credentials | None, current: Credentials, *, enclave_has: bool, now_ms: int) -> bool:
    """Whether `current` must go to the enclave, which was `given` some before and says whether it has any."""
    if given is None or not enclave_has:
        return True
    changed = given.access_key_id != current.access_key_id or given.session_token != current.session_token
    ending = given.expires_ms - now_ms < RENEW_BEFORE_S * 1000 and current.expires_ms > given.expires_ms
    return changed or ending

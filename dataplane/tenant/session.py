"""A KMS session: one data key that seals many requests, made by one call and renewed before it ends.

The tenant calls KMS `GenerateDataKey` with its own credentials on its own key, so KMS never needs to attest the
tenant. The encryption context names tenant, session and end, and every enclave must repeat it exactly to get
the key back (AWS KMS Developer Guide, "Encryption context").
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from opentelemetry.trace import Span

from dataplane.protocol.errors import MrgcError
from dataplane.protocol.header import SESSION_MAX_S, encryption_context
from observability import names
from observability.tracing import Telemetry

logger = logging.getLogger(__name__)

CEK_BYTES = 32
"""A 256-bit data key."""
CLOCK_LEAD_S = 60
"""How far a tenant's clock may run ahead of an enclave's (the same 60 s that `iat` is allowed)."""
LIFETIME_S = SESSION_MAX_S - CLOCK_LEAD_S
"""900 s allowed less 60 s of clock lead: 840 s, so no enclave sees an end more than 15 minutes ahead."""
RENEW_BEFORE_S = 180
"""A request in the last three minutes starts the renewal, which then has ample time to fail and be tried again."""
USABLE_MARGIN_S = 45
"""A key this close to its end seals nothing more: a request may queue, be retried and arrive late."""
RENEWAL_PAUSE_S = 5.0
"""Least time between two background renewals, so that a failing KMS is not called by every request."""
KMS_DEADLINE_S = 10.0
"""Longest wait for one `GenerateDataKey`, botocore's own retries included."""
KMS_CONNECT_S = 3
KMS_READ_S = 4
KMS_ATTEMPTS = 2
"""Two attempts of 3 s to connect and 4 s to read: 14 s at worst, so the thread outlives its caller by 4 s."""

_DENIED = frozenset(
    {
        "AccessDeniedException",
        "DisabledException",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "KMSInvalidStateException",
        "NotFoundException",
        "UnrecognizedClientException",
    }
)


class SessionError(MrgcError):
    """KMS gave no data key; `denied` says that asking again will not help."""

    def __init__(self, message: str, *, denied: bool) -> None:
        """Keep the sentence, and whether KMS refused (True) or could not be reached in time (False)."""
        super().__init__(message)
        self.denied = denied


class KmsClient(Protocol):
    """What a session needs of boto3's KMS client."""

    def generate_data_key(self, **kwargs: Any) -> Any:
        """Call KMS `GenerateDataKey`; raises botocore's errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKey:
    """A session's data key: the plaintext for sealing, `wrapped` for the enclave's `Decrypt`."""

    context: dict[str, str]
    wrapped: bytes = field(repr=False)
    cek: bytes = field(repr=False)
    expires_s: int


def region_of(key_arn: str) -> str:
    """The region in a KMS key ARN (`arn:aws:kms:<region>:<account>:key/<id>`); SessionError if it is none."""
    parts = key_arn.split(":")
    if len(parts) != 6 or parts[0] != "arn" or parts[2] != "kms" or not parts[3]:  # noqa: PLR2004 - ARN fields
        raise SessionError(
            f"The KMS key {key_arn!r} is no key ARN; give it as arn:aws:kms:<region>:<account>:key/<id>.", denied=True
        )
    return parts[3]


def kms_client(
    key_arn: str,
    *,
    endpoint_url: str | None = None,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
) -> KmsClient:
    """A boto3 KMS client in the key's region; without explicit credentials boto3 finds the tenant's own."""
    client = boto3.client(
        "kms",
        region_name=region_of(key_arn),
        endpoint_url=endpoint_url,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
        config=Config(
            connect_timeout=KMS_CONNECT_S,
            read_timeout=KMS_READ_S,
            retries={"total_max_attempts": KMS_ATTEMPTS, "mode": "standard"},
        ),
    )
    return cast("KmsClient", client)


class KmsSession:
    """Gives the current data key, making or renewing it when needed; safe for many requests at once.

    `clock_ms` is the wall clock (ms since 1970) that ends keys; `monotonic` (s) paces renewals.
    """

    def __init__(
        self,
        *,
        tenant: str,
        key_arn: str,
        kms: KmsClient,
        clock_ms: Callable[[], int],
        monotonic: Callable[[], float],
        telemetry: Telemetry,
        lifetime_s: int = LIFETIME_S,
        deadline_s: float = KMS_DEADLINE_S,
    ) -> None:
        if not USABLE_MARGIN_S < lifetime_s <= SESSION_MAX_S:
            raise SessionError(
                f"A session of {lifetime_s} s is out of range; choose {USABLE_MARGIN_S + 1} to {SESSION_MAX_S} s.",
                denied=True,
            )
        self.tenant = tenant
        self.key_arn = key_arn
        self.calls = 0
        self._region = region_of(key_arn)
        self._kms = kms
        self._clock_ms = clock_ms
        self._monotonic = monotonic
        self._telemetry = telemetry
        self._lifetime_s = lifetime_s
        self._deadline_s = deadline_s
        self._current: DataKey | None = None
        self._making: asyncio.Task[DataKey] | None = None
        self._next_renewal = float("-inf")
        self._closed = False

    async def key(self, *, parent: Span | None = None) -> DataKey:
        """The data key to seal with now.

        Waits only when there is none; near the end of one, the next is made in the background. Raises
        SessionError when KMS gives none.
        """
        if self._closed:
            raise SessionError("The session is closed; open a new one.", denied=True)
        current, left_s = self._current, self._left_s()
        if current is not None and left_s > USABLE_MARGIN_S:
            if left_s <= RENEW_BEFORE_S and self._making is None and self._monotonic() >= self._next_renewal:
                self._next_renewal = self._monotonic() + RENEWAL_PAUSE_S
                self._start(parent).add_done_callback(_log_failure)
            return current
        # Shielded: one caller that gives up must not fail the others that wait for the same call.
        return await asyncio.shield(self._making or self._start(parent))

    async def close(self) -> None:
        """Forget the data key and end what runs in the background."""
        self._closed = True
        self._current = None
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)

    def _left_s(self) -> float:
        return 0.0 if self._current is None else self._current.expires_s - self._clock_ms() / 1000

    def _start(self, parent: Span | None) -> asyncio.Task[DataKey]:
        task = asyncio.create_task(self._make(parent), name="kms-generate-data-key")
        self._making = task
        task.add_done_callback(self._made)
        return task

    def _made(self, task: asyncio.Task[DataKey]) -> None:
        self._making = None
        if not task.cancelled() and task.exception() is None and not self._closed:
            self._current = task.result()

    async def _make(self, parent: Span | None) -> DataKey:
        expires_s = self._clock_ms() // 1000 + self._lifetime_s
        context = encryption_context(self.tenant, secrets.token_hex(16), expires_s)
        with self._telemetry.span(names.TENANT_KMS, parent=parent, attributes={names.KMS_REGION: self._region}):
            self.calls += 1
            try:
                async with asyncio.timeout(self._deadline_s):
                    answer = await asyncio.to_thread(
                        self._kms.generate_data_key,
                        KeyId=self.key_arn,
                        KeySpec="AES_256",
                        EncryptionContext=context,
                    )
            except TimeoutError:
                raise SessionError(
                    f"KMS gave no data key for {self.key_arn} within {self._deadline_s:g} s; "
                    "check the network path to KMS and try again.",
                    denied=False,
                ) from None
            except ClientError as error:
                raise _refused(self.key_arn, error) from error
            except BotoCoreError as error:
                raise SessionError(
                    f"KMS could not be called for {self.key_arn} ({type(error).__name__}); "
                    "check AWS credentials, region and the network path to KMS.",
                    denied=False,
                ) from error
        cek, wrapped = bytes(answer["Plaintext"]), bytes(answer["CiphertextBlob"])
        if len(cek) != CEK_BYTES:
            raise SessionError(
                f"KMS answered with a key of {len(cek)} bytes instead of {CEK_BYTES}; check the KMS endpoint.",
                denied=True,
            )
        return DataKey(context=context, wrapped=wrapped, cek=cek, expires_s=expires_s)


def _refused(key_arn: str, error: ClientError) -> SessionError:
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    if code in _DENIED:
        return SessionError(
            f"KMS refused GenerateDataKey on {key_arn} ({code}); "
            "check that the key exists and that these AWS credentials may use it.",
            denied=True,
        )
    return SessionError(f"KMS failed GenerateDataKey on {key_arn} ({code}); try again.", denied=False)


def _log_failure(task: asyncio.Task[DataKey]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("background renewal of the data key failed: %s", error)

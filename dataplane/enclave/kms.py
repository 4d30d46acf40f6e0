"""KMS `Decrypt` for an attested enclave, through boto3.

Every call carries `KeyId`, `EncryptionContext` and a fresh attestation document with the enclave's RSA key (KMS API
reference, Decrypt, `Recipient`); the data key comes back as CMS for that key. TLS to KMS ends in this process; the
host sees a tunnel. Calls run in a few threads, for boto3 blocks.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import CredentialResolver
from botocore.exceptions import BotoCoreError, ClientError
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dataplane.enclave.credentials import RelayedCredentials, RelayedProvider
from dataplane.enclave.nsm import Nsm
from dataplane.enclave.tenant_key import TenantKey
from dataplane.protocol.errors import MrgcError, ProblemError
from dataplane.protocol.recipient import open_enveloped_data

REGIONS = ("us-east-1", "us-east-2", "us-west-2")
"""Where this platform reaches KMS; the proxy's allow-list has the same."""

RSA_BITS = 2048
"""Smallest size that KMS takes for `Recipient`, and the one that the protocol names."""

RSA_EXPONENT = 65_537
ENCRYPTION_ALGORITHM = "RSAES_OAEP_SHA_256"

THREADS = 8
"""KMS calls at once. Decrypt takes about 10 ms within a region, so 8 make some 800 sessions a second."""

MAX_WAITING = 256
"""Calls that run or wait; more would wait longer than `READ_TIMEOUT_S` at 100 ms each."""

CONNECT_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 3.0
ATTEMPTS = 2
"""One retry, for a pooled connection that was closed meanwhile. A thread is busy for at most
2 * (2 + 3) s and a back-off under 1 s, whatever the peer does."""

RETRY_AFTER_S = 1
CEK_BYTES = 32

# Errors by which KMS says no to this request, whichever host asks (KMS API reference, Decrypt, "Errors", and common).
_DENIED = frozenset(
    {
        "AccessDeniedException",
        "DisabledException",
        "IncorrectKeyException",
        "InvalidArnException",
        "InvalidCiphertextException",
        "InvalidGrantTokenException",
        "InvalidKeyUsageException",
        "KMSInvalidStateException",
        "NotFoundException",
        "ValidationException",
    }
)


class KmsDecryptor(Protocol):
    """Opens wrapped data keys."""

    @property
    def calls(self) -> int:
        """How many times KMS was asked."""
        ...

    async def decrypt(self, *, key_arn: str, context: Mapping[str, str], ciphertext: bytes, deadline_s: float) -> bytes:
        """Return the 32-byte data key within `deadline_s` seconds.

        Raises `ProblemError`: `kms-denied`, `host-failed`, `overloaded` or `deadline-exceeded`.
        """
        ...


def decrypt_target(key_arn: str, *, own_region: str, regions: Sequence[str] = REGIONS) -> tuple[str, str]:
    """Return region and `KeyId` to ask for a key: a multi-region key in the enclave's own, others where they are.

    Raises `ProblemError` (`kms-denied`) for what is no key ARN, or lies where this platform reaches no KMS.
    """
    key = TenantKey.parse(key_arn)
    region = key.region or own_region
    if key.region and region not in regions:
        raise ProblemError(
            "kms-denied", f"The KMS key is in {region}, and this platform reaches KMS in {', '.join(regions)} only."
        )
    return region, key.arn_in(region)


def problem_of(error: Exception, key_arn: str) -> ProblemError:
    """Say what a failed call means for the request; the text holds KMS's error code and nothing it quotes."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", "unknown"))[:64]
        if code in _DENIED:
            return ProblemError(
                "kms-denied",
                f"KMS refused this enclave the data key under {key_arn} ({code}); compare the key policy's "
                "kms:RecipientAttestation conditions with the published measurements.",
            )
        return ProblemError("host-failed", f"KMS did not serve this host ({code}).", retry_after_s=RETRY_AFTER_S)
    name = type(error).__name__
    return ProblemError("host-failed", f"KMS could not be asked from this host ({name}).", retry_after_s=RETRY_AFTER_S)


class BotoKms:
    """`KmsDecryptor` by boto3 through the loopback bridge at `proxy_url` (None connects directly)."""

    def __init__(
        self,
        *,
        nsm: Nsm,
        credentials: RelayedCredentials,
        region: str,
        proxy_url: str | None,
        regions: Sequence[str] = REGIONS,
    ) -> None:
        """Make the RSA key; clients are made when a region is first asked."""
        self._nsm = nsm
        self._credentials = credentials
        self._region = region
        self._regions = regions
        self._config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            max_pool_connections=THREADS,
            proxies={"https": proxy_url} if proxy_url is not None else None,
        )
        self._key = rsa.generate_private_key(public_exponent=RSA_EXPONENT, key_size=RSA_BITS)
        self._public = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._session = self._make_session()
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="kms")
        self._waiting = 0
        self._calls = 0

    @property
    def calls(self) -> int:
        """How many times KMS was asked."""
        return self._calls

    async def warm(self) -> None:
        """Make the client of the own region ahead of the first request: botocore takes 100 ms to read its model."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self._client, self._region)

    async def decrypt(self, *, key_arn: str, context: Mapping[str, str], ciphertext: bytes, deadline_s: float) -> bytes:
        """See `KmsDecryptor`."""
        region, key_id = decrypt_target(key_arn, own_region=self._region, regions=self._regions)
        if not self._credentials.usable:
            self._credentials.get_frozen_credentials()  # raises the sentence that fits
        if self._waiting >= MAX_WAITING:
            raise ProblemError(
                "overloaded", f"{MAX_WAITING} data keys are being asked for already.", retry_after_s=RETRY_AFTER_S
            )
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(
            self._pool, self._decrypt, region, key_id, dict(context), ciphertext
        )
        # The slot is taken until the thread is done, however long the caller waits.
        future.add_done_callback(self._release)
        try:
            async with asyncio.timeout(deadline_s):
                return await asyncio.shield(future)
        except TimeoutError:
            raise ProblemError(
                "host-failed",
                f"The data key did not come within {deadline_s:g} s: KMS or this host's security module is silent.",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        except (ClientError, BotoCoreError, MrgcError) as error:
            # `from None`: what botocore quotes can hold ARNs of roles and request bodies.
            raise problem_of(error, key_arn) from None

    def close(self) -> None:
        """Take no more calls; those that run end within their own timeouts."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _release(self, future: asyncio.Future[bytes]) -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # seen, even when nobody waits any more

    def _decrypt(self, region: str, key_id: str, context: dict[str, str], ciphertext: bytes) -> bytes:
        """Ask KMS; runs in a thread of the pool."""
        document = self._nsm.attest(nonce=None, user_data=None, public_key=self._public)
        client = self._client(region)
        with self._lock:
            self._calls += 1
        answer = client.decrypt(
            KeyId=key_id,
            EncryptionContext=context,
            CiphertextBlob=ciphertext,
            Recipient={"KeyEncryptionAlgorithm": ENCRYPTION_ALGORITHM, "AttestationDocument": document},
        )
        sealed = answer.get("CiphertextForRecipient")
        if not isinstance(sealed, bytes):
            # A KMS that ignores `Recipient` answers with `Plaintext`: never use a key that travelled openly.
            raise ProblemError("host-failed", "What answers as KMS did not seal the data key to this enclave.")
        cek = open_enveloped_data(sealed, self._key)
        if len(cek) != CEK_BYTES:
            raise ProblemError(
                "kms-denied", f"The wrapped key opens to {len(cek)} bytes; wrap a 256-bit key with GenerateDataKey."
            )
        return cek

    def _client(self, region: str) -> Any:
        """Return the client of one region; making one is not safe from two threads."""
        with self._lock:
            if region not in self._clients:
                self._clients[region] = self._session.client("kms", region_name=region, config=self._config)
            return self._clients[region]

    def _make_session(self) -> boto3.Session:
        session = botocore.session.get_session()
        session.register_component("credential_provider", CredentialResolver([RelayedProvider(self._credentials)]))
        return boto3.Session(botocore_session=session)

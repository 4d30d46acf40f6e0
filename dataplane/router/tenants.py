"""Who may call: tenants, the hashes of their API keys, their registered KMS keys and limits, from one JSON file.

    {"tenants": [{"id": "acme", "api_key_sha256": ["<64 hex>"], "kms_keys": ["arn:aws:kms:..."],
                  "max_in_flight": 64, "requests_per_minute": 6000}]}

A key itself is stored nowhere. SHA-256 without salt or stretching is right here and would be wrong for passwords: API
keys are 256 random bits, so there is no dictionary to try.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from dataplane.protocol.errors import ProblemError, SettingsError

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Largest tenants file: about 300 bytes a tenant make 50,000 of them; more belong in a database."""

MAX_FAULTS_SHOWN = 5
"""Faults of a file that are named; a file with more has usually one cause."""

logger = logging.getLogger(__name__)

_Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_KeyArn = Annotated[str, StringConstraints(pattern=r"^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$")]


class Tenant(BaseModel):
    """One tenant. `api_key_sha256`: lower-case hex of SHA-256 of each valid API key (two while one is rotated)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    id: str = Field(min_length=1, max_length=128)
    api_key_sha256: tuple[_Sha256Hex, ...] = Field(min_length=1, max_length=8, repr=False)
    kms_keys: tuple[_KeyArn, ...] = Field(max_length=64)
    max_in_flight: int = Field(64, ge=1, le=100_000)
    requests_per_minute: int = Field(6_000, ge=1, le=10_000_000)


class _TenantsFile(BaseModel):
    """The file as a whole."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    tenants: tuple[Tenant, ...]

    @model_validator(mode="after")
    def _unambiguous(self) -> Self:
        seen: set[str] = set()
        for name in (tenant.id for tenant in self.tenants):
            if name in seen:
                raise ValueError(f"the tenant {name!r} is listed twice")
            seen.add(name)
        hashes = [digest for tenant in self.tenants for digest in tenant.api_key_sha256]
        if len(set(hashes)) != len(hashes):
            raise ValueError("one API key's hash is listed twice, so it would not say whose it is")
        return self


class Tenants:
    """An unchangeable set of tenants."""

    def __init__(self, tenants: tuple[Tenant, ...]) -> None:
        """Index by the hashes of their keys."""
        self._by_digest = {digest: tenant for tenant in tenants for digest in tenant.api_key_sha256}
        self.ids = frozenset(tenant.id for tenant in tenants)
        """Every tenant's id."""

    def __len__(self) -> int:
        return len(self.ids)

    def authenticate(self, name: str | None, api_key: str) -> Tenant:
        """Return the tenant that `api_key` belongs to, which must be `name` if one is given.

        One hash and one look-up, whoever asks and however many tenants there are; the refusal is one sentence, whatever
        was wrong. How long the look-up takes may tell how a stored SHA-256 begins. That helps nobody: keys are 256
        random bits, and from a hash's beginning, even from a whole one, no such key can be found.

        Raises `ProblemError` `unauthenticated`.
        """
        digest = hashlib.sha256(api_key.encode("utf-8", "surrogatepass")).hexdigest()
        found = self._by_digest.get(digest)
        if found is None or (name is not None and name != found.id):
            raise ProblemError(
                "unauthenticated", "The API key is not valid for this tenant; check Authorization and X-Tenant-ID."
            )
        return found

    @staticmethod
    def check_key(tenant: Tenant, kms_key_arn: str) -> None:
        """Raise `ProblemError` `key-not-registered` unless the tenant has registered the KMS key."""
        if kms_key_arn not in tenant.kms_keys:
            raise ProblemError(
                "key-not-registered",
                f"The KMS key {kms_key_arn[:160]} is not registered for this tenant; register it or use another.",
            )


def load_tenants(path: Path) -> Tenants:
    """Read and check the whole file; raises `SettingsError` naming the file and what is wrong in it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(
            f"TENANTS_FILE is {str(path)!r}; expected a readable file of tenants ({error.strerror})."
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise SettingsError(f"TENANTS_FILE is {str(path)!r}; it is over {MAX_FILE_BYTES} bytes, the most there may be.")
    try:
        return Tenants(_TenantsFile.model_validate_json(data).tenants)
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in detail['loc']) or 'file'}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors(include_url=False, include_input=False)
        ]
        more = f" and {len(faults) - MAX_FAULTS_SHOWN} more" if len(faults) > MAX_FAULTS_SHOWN else ""
        raise SettingsError(
            f"TENANTS_FILE is {str(path)!r}; expected a valid file of tenants, but "
            f"{'; '.join(faults[:MAX_FAULTS_SHOWN])}{more}."
        ) from None


class TenantDirectory:
    """The tenants in force; `reload` (on SIGHUP) takes a new file whole or keeps the old."""

    def __init__(self, path: Path, *, changed: Callable[[Tenants], None] = lambda _: None) -> None:
        """Load at once; raises `SettingsError`. `changed` is told of each set of tenants that comes into force."""
        self._path = path
        self._changed = changed
        self.current = load_tenants(path)

    def reload(self) -> bool:
        """Read the file again; a faulty one is reported in the log and changes nothing. Return whether it was taken."""
        try:
            self.current = load_tenants(self._path)
        except SettingsError as error:
            logger.error("the tenants in force stay: %s", error)  # noqa: TRY400 - the sentence says it; a trace adds noise
            return False
        logger.info("tenants reloaded", extra={"tenants": len(self.current)})
        self._changed(self.current)
        return True

"""Which KMS key a request came under: the one thing of a request that its sender can't choose freely.

Anybody may write any tenant's name into a header. KMS has decrypted the data key under the key that the header names,
so only who may use that key gets further: what one tenant must not share with another hangs on the key, and on the
name only within it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from dataplane.protocol.errors import ProblemError

MULTI_REGION: Final = "mrk-"
"""Beginning of a multi-region key's id. All its replicas have this id, this account and the same key material (KMS
developer guide, "Multi-Region keys"); the region says only which replica is asked."""

_ARN = re.compile(
    r"arn:aws:kms:(?P<region>[a-z0-9-]{1,32}):(?P<account>[0-9]{12}):key/(?P<id>[A-Za-z0-9-]{1,64})", re.ASCII
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantKey:
    """A KMS key; two are equal where they are one key. `region` is empty for a multi-region key."""

    region: str
    account: str
    id: str

    @classmethod
    def parse(cls, arn: str) -> Self:
        """Read a key's ARN.

        Raises `ProblemError` kms-denied for anything else, aliases included: an alias can be pointed at another key.
        """
        match = _ARN.fullmatch(arn)
        if match is None:
            raise ProblemError("kms-denied", "The KMS key is not given as arn:aws:kms:REGION:ACCOUNT:key/ID.")
        multi = match["id"].startswith(MULTI_REGION)
        return cls(region="" if multi else match["region"], account=match["account"], id=match["id"])

    def arn_in(self, region: str) -> str:
        """The ARN to give KMS in `region`: a multi-region key's replica there; another key stays where it is."""
        return f"arn:aws:kms:{self.region or region}:{self.account}:key/{self.id}"

    @property
    def identity(self) -> str:
        """The key's ARN; a multi-region key's without its region (`arn:aws:kms::ACCOUNT:key/mrk-…`)."""
        return f"arn:aws:kms:{self.region}:{self.account}:key/{self.id}"

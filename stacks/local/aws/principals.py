"""Who may sign requests: long-lived access keys from a file, and the platform role's temporary credentials.

The file is written by whoever starts the embedded AWS:

    {"principals": [{"arn": "arn:aws:iam::111122223333:root", "access_key_id": "AKIA...", "secret_access_key": "..."}],
     "role_arn": "arn:aws:iam::999900001111:role/mrgc-host"}
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataplane.protocol.errors import SettingsError
from stacks.local.files import write_json

DEFAULT_LIFETIME_S = 900.0
"""Fifteen minutes: the shortest that STS gives, so that renewal happens while one watches."""

MAX_ISSUED = 4_096
"""Temporary credentials remembered. One is issued each half lifetime, so this is weeks."""

_KEY_ALPHABET = string.ascii_uppercase + "234567"
_PRINCIPAL_ARN = r"^arn:aws:iam::[0-9]{12}:(root|user/[\w+=,.@/-]+|role/[\w+=,.@/-]+)$"


class Principal(BaseModel):
    """An IAM user or an account's root user, with one access key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arn: str = Field(pattern=_PRINCIPAL_ARN)
    access_key_id: str = Field(pattern=r"^[A-Z0-9]{16,32}$")
    secret_access_key: str = Field(min_length=16, max_length=128, repr=False)


class PrincipalsFile(BaseModel):
    """The file's content."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    principals: tuple[Principal, ...] = ()
    role_arn: str = Field(pattern=r"^arn:aws:iam::[0-9]{12}:role/[\w+=,.@/-]+$")

    def write(self, path: Path) -> None:
        """Write the file, mode 0600."""
        write_json(path, self.model_dump())

    @classmethod
    def read(cls, path: Path) -> PrincipalsFile:
        """Read the file; `SettingsError` naming it if it can't be used."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise SettingsError(f"PRINCIPALS_FILE {path} can't be read ({error.strerror}).") from error
        except ValidationError as error:
            places = ", ".join(".".join(map(str, fault["loc"])) or "the whole" for fault in error.errors()[:3])
            raise SettingsError(f"PRINCIPALS_FILE {path} is not a principals file: look at {places}.") from None


def new_principal(arn: str) -> Principal:
    """Return a principal with a fresh access key."""
    return Principal(arn=arn, access_key_id=_key_id("AKIA"), secret_access_key=secrets.token_urlsafe(30))


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A caller that showed a valid signature: every ARN that names it, and its account."""

    arn: str
    account: str
    names: frozenset[str]

    @property
    def is_root(self) -> bool:
        """Whether this is the account's root user."""
        return self.arn.endswith(":root")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """What a signature is checked with; `expires_ms` (ms since 1970) is None for long-lived keys."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires_ms: int | None = None
    identity: Identity


class Directory:
    """Every access key that is known."""

    def __init__(
        self,
        principals: Iterable[Principal],
        *,
        role_arn: str,
        clock_ms: Callable[[], int],
        lifetime_s: float = DEFAULT_LIFETIME_S,
    ) -> None:
        """Take the long-lived keys; the role's temporary ones are made when they are asked for."""
        self._clock_ms = clock_ms
        self._lifetime_ms = int(lifetime_s * 1000)
        self._keys = {entry.access_key_id: _long_lived(entry) for entry in principals}
        self._role_arn = role_arn
        self._issued: dict[str, AccessKey] = {}

    @property
    def role_name(self) -> str:
        """The platform role's name, as the instance metadata shows it."""
        return self._role_arn.rsplit("/", 1)[1]

    def find(self, access_key_id: str) -> AccessKey | None:
        """Return a key, expired ones included: what is wrong with them is for the caller to say."""
        return self._keys.get(access_key_id) or self._issued.get(access_key_id)

    def role_credentials(self) -> AccessKey:
        """Return the role's credentials, new ones once half the lifetime of the last is over."""
        now = self._clock_ms()
        latest = next(reversed(self._issued.values()), None)
        if latest is not None and (latest.expires_ms or 0) - now > self._lifetime_ms // 2:
            return latest
        account = self._role_arn.split(":")[4]
        session = f"arn:aws:sts::{account}:assumed-role/{self.role_name}/i-local"
        key = AccessKey(
            access_key_id=_key_id("ASIA"),
            secret_access_key=secrets.token_urlsafe(30),
            session_token=secrets.token_urlsafe(96),
            expires_ms=now + self._lifetime_ms,
            identity=Identity(arn=session, account=account, names=frozenset({session, self._role_arn})),
        )
        self._issued[key.access_key_id] = key
        while len(self._issued) > MAX_ISSUED:
            del self._issued[next(iter(self._issued))]
        return key


def _long_lived(principal: Principal) -> AccessKey:
    identity = Identity(arn=principal.arn, account=principal.arn.split(":")[4], names=frozenset({principal.arn}))
    return AccessKey(
        access_key_id=principal.access_key_id,
        secret_access_key=principal.secret_access_key,
        identity=identity,
    )


def _key_id(prefix: str) -> str:
    return prefix + "".join(secrets.choice(_KEY_ALPHABET) for _ in range(16))

"""Which hosts an enclave image takes: a file in the image, and therefore in PCR0."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dataplane.enclave.binding import DIGEST_BYTES, Measurements, read_host_measurements
from dataplane.protocol.errors import SettingsError

MAX_CONFIGURATIONS: Final = 256
"""Worker configurations that one image takes: a few engine versions and kinds of host, many times over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRules:
    """What the file says: host images of level 2, and configuration digests (32 bytes each) of workers.

    No `configurations` means that any is taken, and that level 2 is out of reach.
    """

    allowed: Measurements = ()
    configurations: frozenset[bytes] = field(default_factory=frozenset)


def read_host_rules(path: Path) -> HostRules:
    """Read `{"allowed": [{"4": "hex", "12": "hex"}, …], "configurations": ["hex", …]}`; either may be left out.

    `allowed` without `configurations` is refused: it would promise level 2 for hosts whose worker may be set up in any
    way. Raises `SettingsError`.
    """
    content = _load(path)
    configurations = _configurations(path, content.get("configurations", []))
    if not configurations and "configurations" in content:
        raise SettingsError(f"The host measurements at {path} list no configuration; name one, or leave the list out.")
    if not content.get("allowed") and configurations:
        return HostRules(configurations=configurations)
    allowed = read_host_measurements(path)
    if not configurations:
        raise SettingsError(
            f"The host measurements at {path} allow hosts of level 2 and no worker configuration: add "
            '"configurations", the digests that `mrgc worker configuration` prints.'
        )
    return HostRules(allowed=allowed, configurations=configurations)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"The host measurements at {path} can't be read ({error.strerror}).") from error
    except (ValueError, RecursionError):
        raise SettingsError(f"The host measurements at {path} are not JSON.") from None
    if not isinstance(content, dict):
        raise SettingsError(f"The host measurements at {path} are not a JSON object.")
    return content


def _configurations(path: Path, listed: object) -> frozenset[bytes]:
    if not isinstance(listed, list) or len(listed) > MAX_CONFIGURATIONS:
        raise SettingsError(
            f"The host measurements at {path} need a list of up to {MAX_CONFIGURATIONS} in configurations."
        )
    digests = set()
    for each in listed:
        try:
            digest = bytes.fromhex(each) if isinstance(each, str) else b""
        except ValueError:
            digest = b""
        if len(digest) != DIGEST_BYTES:
            raise SettingsError(
                f"The host measurements at {path} have a configuration that is not {2 * DIGEST_BYTES} hex digits; "
                "`mrgc worker configuration` prints it."
            )
        digests.add(digest)
    return frozenset(digests)

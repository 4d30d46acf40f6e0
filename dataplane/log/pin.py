"""Which log is trusted: its address, its key, and where its last head is remembered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dataplane.log.follow import Follower
from dataplane.log.headfile import HeadFile, default_path
from dataplane.log.source import FolderSource, HttpSource, LogSource, open_source
from dataplane.mesh.tls import client_context
from dataplane.protocol.errors import SettingsError
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.note import PRIVATE, VerifierKey

URL: Final = "MRGC_LOG_URL"
KEY: Final = "MRGC_LOG_KEY"
STATE: Final = "MRGC_LOG_STATE"
CA_FILE: Final = "MRGC_LOG_CA_FILE"
MAX_AGE: Final = "MRGC_LOG_MAX_AGE_S"

LEAST_AGE_S: Final = 60
MOST_AGE_S: Final = 366 * 86_400
MAX_SHOWN: Final = 160
"""Longest value that an error repeats: a key's text is about 100 characters, and public."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPin:
    """One log to read. `state` is where its head is remembered; `max_age_s` how old a head may be, None for any age.

    `mock` is a local stack's log: its key was made where it is checked, so it tells nobody anything.
    """

    url: str
    key: VerifierKey
    state: Path
    ca_file: Path | None = None
    max_age_s: int | None = None
    mock: bool = False

    def source(self) -> FolderSource | HttpSource:
        """Where the log is read; `SettingsError` for an address that can't be."""
        tls = client_context(self.ca_file) if self.url.startswith("https://") else None
        return open_source(self.url, tls=tls)

    def follower(self, source: LogSource) -> Follower:
        """A reader that remembers."""
        return Follower(source, self.key, HeadFile(self.state), max_age_s=self.max_age_s)


def parse_key(text: str, *, source: str) -> VerifierKey:
    """Read a log's public key; `SettingsError` that names `source`."""
    try:
        return VerifierKey.parse(text.strip())
    except TransparencyError as error:
        if PRIVATE in text:
            # Not repeated: it would end up in a terminal's history of what was printed, or in a log.
            raise SettingsError(
                f"{source} is the log's private key; expected the public one, name+id+base64."
            ) from None
        raise SettingsError(
            f"{source} is {text[:MAX_SHOWN]!r}; expected the log's public key, name+id+base64 ({error})"
        ) from None


def read_pin(environ: Mapping[str, str]) -> LogPin | None:
    """Return the log that the variables name, None for none; `SettingsError` for half a log or a bad one."""
    url, key = environ.get(URL, ""), environ.get(KEY, "")
    if not url and not key:
        return None
    if not url or not key:
        given, missing = (URL, KEY) if url else (KEY, URL)
        raise SettingsError(
            f"{given} is set and {missing} is not; a log is trusted by its address and its key together."
        )
    parsed = parse_key(key, source=KEY)
    state, ca_file = environ.get(STATE, ""), environ.get(CA_FILE, "")
    pin = LogPin(
        url=url,
        key=parsed,
        state=Path(state) if state else default_path(parsed, environ),
        ca_file=Path(ca_file) if ca_file else None,
        max_age_s=_age(environ.get(MAX_AGE, "")),
    )
    pin.source()
    return pin


def _age(text: str) -> int | None:
    if not text:
        return None
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MOST_AGE_S)) else 0
    if not LEAST_AGE_S <= number <= MOST_AGE_S:
        raise SettingsError(f"{MAX_AGE} is {text[:MAX_SHOWN]!r}; expected {LEAST_AGE_S} to {MOST_AGE_S} seconds.")
    return number

"""The log's private key in a file that only its owner reads; it is never on a command line nor in a variable."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from dataplane.protocol.errors import SettingsError
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.note import KEY_BYTES, SignerKey, check_name

MAX_KEY_FILE_BYTES: Final = 1024
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def make_key(name: str) -> SignerKey:
    """Make a key under `name`; `TransparencyError` for a name that no key may have."""
    return SignerKey(check_name(name), secrets.token_bytes(KEY_BYTES))


def write_key(path: Path, key: SignerKey) -> None:
    """Write a new key file, mode 0600; `SettingsError` where there is one already or none can be made."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise SettingsError(f"{path} is there already; name a new file, a key is never overwritten.") from None
    except OSError as error:
        raise SettingsError(
            f"{path} can't be made ({error.strerror}); name a file in a folder that is there."
        ) from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(key.text() + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_key(path: Path) -> SignerKey:
    """Read a key file; `SettingsError` where it is not one, or where others may read it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}); name the log's key file.") from None
    if mode & OTHERS:
        raise SettingsError(f"{path} can be read by others than its owner (mode {mode & 0o777:o}); `chmod 600` it.")
    try:
        return SignerKey.parse(data.decode().strip())
    except (UnicodeDecodeError, TransparencyError):
        raise SettingsError(f"{path} holds no key that `mrgc log keygen` wrote; name the log's key file.") from None

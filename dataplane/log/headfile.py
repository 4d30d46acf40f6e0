"""The tree head that a reader remembers: the signed checkpoint itself in a file, so that others can compare with it.

The file is private and replaced whole. Two processes of one tenant may share it: `replace` changes it only where it
still holds what the caller had read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dataplane.protocol.errors import MrgcError
from dataplane.protocol.transparency.note import MAX_NOTE_BYTES, VerifierKey

PRIVATE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700


class HeadFileError(MrgcError):
    """A remembered head that can't be read or kept."""


class HeadFile:
    """One file with one signed checkpoint, or not there before the first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes | None:
        """Return the remembered note, None where there is none yet; `HeadFileError` where it can't be read."""
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_NOTE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HeadFileError(
                f"{self.path}, the remembered head of the log, can't be read ({error.strerror}); make it readable."
            ) from None
        if len(data) > MAX_NOTE_BYTES or not data:
            raise HeadFileError(f"{self.path} holds no checkpoint; name the file that was kept before.")
        return data

    def replace(self, note: bytes, *, instead_of: bytes | None) -> bool:
        """Remember `note` if the file still holds `instead_of`; False where another process was first."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
            with self._locked():
                if self.read() != instead_of:
                    return False
                self._write(note, self.path)
        except OSError as error:
            raise HeadFileError(
                f"{self.path} can't be written ({error.strerror}), and a head that is not remembered protects nobody; "
                "name another file."
            ) from None
        return True

    @property
    def evidence(self) -> Path:
        """Where a checkpoint that contradicts the remembered one is kept."""
        return self.path.with_name(f"{self.path.name}.refused")

    def keep_evidence(self, note: bytes) -> None:
        """Keep a signed checkpoint that was refused: with the remembered one it proves the log's fault to anybody."""
        with contextlib.suppress(OSError):
            self._write(note, self.evidence)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, PRIVATE)
        try:
            # Held for one small write by whoever has it.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @staticmethod
    def _write(note: bytes, path: Path) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(note)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(PRIVATE)
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise


def default_path(key: VerifierKey, environ: Mapping[str, str]) -> Path:
    """Return where a head is remembered unless told otherwise: `$XDG_STATE_HOME/mrgc/log/<key>.checkpoint`.

    The name is the key's hash: another key is another log, whatever it calls itself.
    """
    base = environ.get("XDG_STATE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    return root / "mrgc" / "log" / head_name(key)


def head_name(key: VerifierKey) -> str:
    """Return the file name for a key's head."""
    return f"{hashlib.sha256(str(key).encode()).hexdigest()[:32]}.checkpoint"

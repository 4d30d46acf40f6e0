"""Tree heads of C2SP (https://c2sp.org/tlog-checkpoint): origin, size and root on three lines of a signed note."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final, Self

from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.merkle import EMPTY_ROOT, HASH_BYTES, MAX_TREE_SIZE
from dataplane.protocol.transparency.note import Note, SignerKey, VerifierKey, sign_note

CHECKPOINT_PATH: Final = "checkpoint"
MAX_SIZE_DIGITS: Final = len(str(MAX_TREE_SIZE))
_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: `size` entries, `root` 32 bytes, `extensions` lines that mean nothing here."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the text that is signed."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a note's text; `TransparencyError` (`checkpoint`) for anything that `text` would not give."""
        lines = text.split("\n")
        if lines[-1] or len(lines) <= _LINES or not all(lines[:-1]):
            raise TransparencyError("The checkpoint has not three lines: origin, size and root.", reason="checkpoint")
        origin, digits, root, *extensions = lines[:-1]
        if len(digits) > MAX_SIZE_DIGITS or not (digits.isascii() and digits.isdigit()):
            raise TransparencyError("The checkpoint's second line is no tree size.", reason="checkpoint")
        try:
            checkpoint = cls(origin, int(digits), base64.b64decode(root, validate=True), tuple(extensions))
        except (binascii.Error, ValueError):
            raise TransparencyError("The checkpoint's third line is no base64.", reason="checkpoint") from None
        if len(checkpoint.root) != HASH_BYTES or checkpoint.size > MAX_TREE_SIZE or checkpoint.text() != text:
            raise TransparencyError("The checkpoint's size or root is not as it is written.", reason="checkpoint")
        if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
            raise TransparencyError(
                "The checkpoint's empty tree has a root that no empty tree has.", reason="checkpoint"
            )
        return checkpoint

    def sign(self, signer: SignerKey, *, time_s: int | None = None) -> bytes:
        """Return the signed note."""
        return sign_note(self.text(), signer, time_s=time_s)


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A checkpoint that `key` signed; `note` is what it was read from, `time_s` when the log said it was its latest."""

    checkpoint: Checkpoint
    note: bytes
    time_s: int | None

    @property
    def size(self) -> int:
        """How many entries the tree has."""
        return self.checkpoint.size

    @property
    def root(self) -> bytes:
        """The tree's root hash, 32 bytes."""
        return self.checkpoint.root


def open_checkpoint(note: bytes, key: VerifierKey) -> SignedHead:
    """Read a checkpoint that `key` must have signed and whose origin must be its name.

    Raises `TransparencyError` (`note`, `signature`, `checkpoint`).
    """
    parsed = Note.parse(note)
    parsed.verify(key)
    checkpoint = Checkpoint.parse(parsed.text)
    if checkpoint.origin != key.name:
        raise TransparencyError(f"The checkpoint is of another log than {key.name}.", reason="checkpoint")
    return SignedHead(checkpoint, note, parsed.time_s(key))

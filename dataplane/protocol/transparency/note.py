"""Signed notes of C2SP (https://c2sp.org/signed-note) with Ed25519, and their keys as text.

    the text, any number of lines
    (an empty line)
    — key-name base64(4 bytes of key id || signature)

A key is told by its name and its id together. Two signature types are spoken: 0x01, over the text, and 0x04, over the
text with the signer's time (https://c2sp.org/tlog-cosignature). Every other signature is passed over, as the format
asks.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataplane.protocol import ed25519
from dataplane.protocol.transparency.errors import TransparencyError

ED25519: Final = 0x01
COSIGNATURE: Final = 0x04

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
KEY_ID_BYTES: Final = 4
TIME_BYTES: Final = 8
MAX_TIME_S: Final = (1 << 63) - 1

MAX_NAME: Final = 128
"""Longest key name, in characters: a URL without its scheme."""

MAX_SIGNATURES: Final = 64
"""The format wants 16 at least; a log with its witnesses stays below that."""

MAX_NOTE_BYTES: Final = 1 << 17
"""128 KiB: 16 signatures of 5,000 bytes in base64 are 107 KB, and the text is below 4 KiB."""

_MARK: Final = "\u2014 "
PRIVATE: Final = "PRIVATE+KEY+"
"""How a private key's text begins."""
_FIRST_PRINTABLE: Final = 0x20


def _key_id(name: str, kind: int, public_key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()[:KEY_ID_BYTES]


def check_name(name: str) -> str:
    """Return `name` if a key may have it: 1 to 128 characters without spaces, plus signs and control characters."""
    usable = 0 < len(name) <= MAX_NAME and name.isprintable() and "+" not in name
    if not usable or any(character.isspace() for character in name):
        raise TransparencyError(
            f"A key's name must be 1 to {MAX_NAME} printable characters without spaces and plus signs.", reason="key"
        )
    return name


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A log's public key, as text `name+key id in hex+base64(0x01 || key)`; `public_key` is 32 bytes."""

    name: str
    public_key: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a key's text; `TransparencyError` (`key`) for any other text than the one that `str` gives."""
        name, material = _parse_key(text)
        if ed25519.is_weak(material):
            # Anybody could sign under it, so two heads would accuse nobody.
            raise TransparencyError("The log's key is no Ed25519 key that somebody has.", reason="key")
        key = cls(check_name(name), material)
        if str(key) != text:
            raise TransparencyError("The log's key does not fit its own id; copy it whole.", reason="key")
        return key

    def __str__(self) -> str:
        """Return the key's text."""
        return _key_text(self.name, self.key_id, self.public_key)

    @property
    def key_id(self) -> bytes:
        """The four bytes that a plain signature of this key begins with."""
        return _key_id(self.name, ED25519, self.public_key)

    @property
    def cosigner_id(self) -> bytes:
        """The four bytes that a timed signature of this key begins with."""
        return _key_id(self.name, COSIGNATURE, self.public_key)

    def verify(self, text: bytes, signature: bytes) -> None:
        """Check one Ed25519 signature; `TransparencyError` (`signature`) where it does not hold."""
        if not ed25519.holds(self.public_key, signature, text):
            raise TransparencyError(f"A signature of {self.name} does not hold.", reason="signature")


@dataclass(frozen=True, slots=True)
class SignerKey:
    """A log's private key, as text `PRIVATE+KEY+name+key id+base64(0x01 || seed)`; `seed` is 32 bytes."""

    name: str
    seed: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a private key's text; `TransparencyError` (`key`), which repeats nothing of it."""
        if not text.startswith(PRIVATE):
            raise TransparencyError(f"A private key begins with {PRIVATE}.", reason="key")
        name, seed = _parse_key(text.removeprefix(PRIVATE))
        key = cls(check_name(name), seed)
        if key.text() != text:
            raise TransparencyError("The private key does not fit its own id; copy it whole.", reason="key")
        return key

    def text(self) -> str:
        """Return the private key's text; no `str` or `repr` gives it."""
        return PRIVATE + _key_text(self.name, self.verifier.key_id, self.seed)

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        return VerifierKey(self.name, Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def sign(self, text: bytes) -> bytes:
        """Return the Ed25519 signature (64 bytes)."""
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(text)


def _key_text(name: str, key_id: bytes, material: bytes) -> str:
    return f"{name}+{key_id.hex()}+{base64.b64encode(bytes([ED25519]) + material).decode()}"


def _parse_key(text: str) -> tuple[str, bytes]:
    # The base64 may hold plus signs of its own, the name none.
    parts = text.split("+", 2)
    material = _decode(parts[2]) if len(parts) == 3 else None  # noqa: PLR2004 - name, id, key
    if material is None or len(material) != 1 + KEY_BYTES or material[0] != ED25519:
        raise TransparencyError(
            "The log's key is not of the form name+id+base64 with an Ed25519 key; copy it whole.", reason="key"
        )
    return parts[0], material[1:]


def _decode(text: str) -> bytes | None:
    """Return what canonical base64 (RFC 4648, section 4) stands for, or None for anything else."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line; `data` begins with the key's id."""

    name: str
    data: bytes

    def line(self) -> str:
        """Return the line, with its newline."""
        return f"{_MARK}{self.name} {base64.b64encode(self.data).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A note that was read, its signatures not yet checked. `text` ends with a newline."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a note; `TransparencyError` (`note`) for anything that the format does not allow."""
        if len(data) > MAX_NOTE_BYTES:
            raise TransparencyError(f"The note is over {MAX_NOTE_BYTES} bytes.", reason="note")
        try:
            whole = data.decode()
        except UnicodeDecodeError:
            raise TransparencyError("The note is not UTF-8.", reason="note") from None
        if any(ord(character) < _FIRST_PRINTABLE and character != "\n" for character in whole):
            raise TransparencyError("The note has control characters.", reason="note")
        text, separator, tail = whole.rpartition("\n\n")
        if not separator or not tail.endswith("\n"):
            raise TransparencyError("The note has no signatures after an empty line.", reason="note")
        lines = tail[:-1].split("\n")
        if len(lines) > MAX_SIGNATURES:
            raise TransparencyError(f"The note has over {MAX_SIGNATURES} signatures.", reason="note")
        return cls(text + "\n", tuple(_parse_line(line) for line in lines))

    def encode(self) -> bytes:
        """Return the note's bytes."""
        return (self.text + "\n" + "".join(signature.line() for signature in self.signatures)).encode()

    def verify(self, key: VerifierKey) -> None:
        """Check `key`'s signature over the text; `TransparencyError` (`signature`) without one, or a wrong one."""
        data = self._signature_of(key, key.key_id)
        if data is None:
            raise TransparencyError(
                f"The note carries no signature of {key.name} with the pinned key.", reason="signature"
            )
        key.verify(self.text.encode(), data)

    def time_s(self, key: VerifierKey) -> int | None:
        """Return the seconds since 1970 of `key`'s timed signature, checked; None where it carries none."""
        data = self._signature_of(key, key.cosigner_id)
        if data is None:
            return None
        time_s, signature = int.from_bytes(data[:TIME_BYTES]), data[TIME_BYTES:]
        key.verify(timed_text(self.text, time_s), signature)
        return time_s

    def _signature_of(self, key: VerifierKey, key_id: bytes) -> bytes | None:
        for signature in self.signatures:
            if signature.name == key.name and signature.data[:KEY_ID_BYTES] == key_id:
                return signature.data[KEY_ID_BYTES:]
        return None


def _parse_line(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_MARK).partition(" ")
    data = _decode(encoded)
    if not line.startswith(_MARK) or not space or data is None or len(data) <= KEY_ID_BYTES:
        raise TransparencyError("The note has a line that is no signature.", reason="note")
    try:
        return Signature(check_name(name), data)
    except TransparencyError:
        raise TransparencyError("The note has a signature under a name that no key may have.", reason="note") from None


def timed_text(text: str, time_s: int) -> bytes:
    """Return what a timed signature signs: two lines of its own, then the note's text."""
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def sign_note(text: str, signer: SignerKey, *, time_s: int | None = None, others: Sequence[Signature] = ()) -> bytes:
    """Return the note with `signer`'s signature, a timed one where `time_s` is given, and `others` as they are."""
    if not text.endswith("\n") or any(ord(c) < _FIRST_PRINTABLE and c != "\n" for c in text):
        raise TransparencyError("A note's text ends with a newline and has no control characters.", reason="note")
    made = [Signature(signer.name, signer.verifier.key_id + signer.sign(text.encode()))]
    if time_s is not None:
        if not 0 <= time_s <= MAX_TIME_S:
            raise TransparencyError("A signature's time is not in seconds since 1970.", reason="note")
        signed = signer.sign(timed_text(text, time_s))
        made.append(Signature(signer.name, signer.verifier.cosigner_id + time_s.to_bytes(TIME_BYTES) + signed))
    return Note(text, (*made, *others)).encode()

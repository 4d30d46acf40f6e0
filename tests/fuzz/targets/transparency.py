"""Fuzz target: the measurement log's parsers. Whatever the bytes, they are read to something or refused by name.

The first byte picks the parser. What is read must be written back to the same bytes, or two readers would see two logs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from dataplane.log.inputs import InputError, parse_input
from dataplane.protocol.transparency.checkpoint import Checkpoint, open_checkpoint
from dataplane.protocol.transparency.entry import Entry
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.merkle import HASH_BYTES, leaf_hash, verify_consistency, verify_inclusion
from dataplane.protocol.transparency.note import Note, SignerKey, VerifierKey
from dataplane.protocol.transparency.tiles import ENTRIES, Tile, cut_tile, join_entries, split_entries, split_tile

SIGNER = SignerKey("mrgc.example/log", b"\x07" * 32)
HEAD = Checkpoint("mrgc.example/log", 3, b"\x09" * 32)
ENTRY = Entry(
    kind="enclave",
    name="mrgc-enclave",
    version="1.4",
    time_ms=1_764_000_000_000,
    registers={index: bytes([index + 1]) * 48 for index in range(3)},
)


def _note(data: bytes) -> None:
    if Note.parse(data).encode() != data:
        raise AssertionError("a note was read from bytes that it is not written as")


def _checkpoint(data: bytes) -> None:
    head = open_checkpoint(data, SIGNER.verifier)
    if head.checkpoint != HEAD:
        raise AssertionError("a checkpoint that the key never signed was accepted")


def _text(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    if Checkpoint.parse(text).text() != text:
        raise AssertionError("a checkpoint was read from a text that it is not written as")


def _key(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    if str(VerifierKey.parse(text)) != text:
        raise AssertionError("a key was read from a text that it is not written as")


def _entry(data: bytes) -> None:
    if Entry.parse(data).encode() != data:
        raise AssertionError("an entry was read from bytes that it is not written as")


def _path(data: bytes) -> None:
    path = data.decode("utf-8", "replace")
    if Tile.parse(path).path != path or ".." in path:
        raise AssertionError("a tile was read from a path that it does not lie at")


def _tile(data: bytes) -> None:
    if b"".join(split_tile(data)) != data:
        raise AssertionError("a tile lost bytes")


def _bundle(data: bytes) -> None:
    entries = split_entries(data)
    if join_entries(entries) != data:
        raise AssertionError("a bundle lost bytes")
    if cut_tile(Tile(ENTRIES, 0, 1), data) != join_entries(entries[:1]):
        raise AssertionError("a part of a bundle is not its beginning")


def _inclusion(data: bytes) -> None:
    index, size, proof = _proof(data)
    verify_inclusion(index=index, size=size, leaf=leaf_hash(b"never logged"), proof=proof, root=HEAD.root)
    raise AssertionError("an entry that was never logged was proved")


def _consistency(data: bytes) -> None:
    old, new, proof = _proof(data)
    verify_consistency(old=old + 1, new=new + 1, old_root=b"\x01" * HASH_BYTES, new_root=HEAD.root, proof=proof)
    raise AssertionError("two trees that were never one were proved to be")


def _proof(data: bytes) -> tuple[int, int, list[bytes]]:
    tail = data[16:]
    hashes = [tail[at : at + HASH_BYTES] for at in range(0, len(tail), HASH_BYTES)]
    return int.from_bytes(data[:8]), int.from_bytes(data[8:16]), hashes


def _input(data: bytes) -> None:
    for entry in parse_input(data, where="input", name="x", version="1", time_ms=5):
        if Entry.parse(entry.encode()) != entry:
            raise AssertionError("an entry was made that no reader accepts")


PARSERS: list[Callable[[bytes], None]] = [
    _note,
    _checkpoint,
    _text,
    _key,
    _entry,
    _path,
    _tile,
    _bundle,
    _inclusion,
    _consistency,
    _input,
]

_SIGNED = HEAD.sign(SIGNER, time_s=1_764_000_000)
_SAMPLES = [
    _SIGNED,
    _SIGNED,
    HEAD.text().encode(),
    str(SIGNER.verifier).encode(),
    ENTRY.encode(),
    b"tile/entries/x001/x234/067.p/8",
    bytes(64),
    join_entries([ENTRY.encode(), b"x"]),
    (1).to_bytes(8) + (3).to_bytes(8) + bytes(64),
    (2).to_bytes(8) + (6).to_bytes(8) + bytes(96),
    b'{"allowed":[{"4":"' + b"aa" * 48 + b'","12":"' + b"00" * 48 + b'"}]}',
]
SEEDS: list[bytes] = [
    *(bytes([number]) + sample for number, sample in enumerate(_SAMPLES)),
    bytes([10]) + b'{"PCR0":"' + b"01" * 48 + b'","PCR1":"' + b"02" * 48 + b'","PCR2":"' + b"03" * 48 + b'"}',
    bytes([10])
    + b'{"version":1,"files":[{"name":"config.json","size":2,"sha256":"'
    + b"ab" * 32
    + b'"}],"digest":"'
    + hashlib.sha256(b"config.json\0" + b"ab" * 32 + b"\n").hexdigest().encode()
    + b'"}',
]
"""One good input a parser, so that a fuzzer begins behind the first check."""


def target(data: bytes) -> None:
    """Raise only for a bug: an error that is not of the family, or something read that should not have been."""
    if not data:
        return
    try:
        PARSERS[data[0] % len(PARSERS)](data[1:])
    except (TransparencyError, InputError):
        return

"""Logs for tests: made in a folder, and made to lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dataplane.log.disk import Disk
from dataplane.log.headfile import HeadFile
from dataplane.log.reader import extend
from dataplane.log.store import LogStore, rows_of
from dataplane.protocol.transparency.checkpoint import Checkpoint
from dataplane.protocol.transparency.entry import Entry
from dataplane.protocol.transparency.merkle import leaf_hash
from dataplane.protocol.transparency.note import SignerKey
from dataplane.protocol.transparency.tiles import ENTRIES, TILE_WIDTH, join_entries, tiles_between

SIGNER = SignerKey("mrgc.example/log", b"\x07" * 32)
NOW_S = 1_764_000_000


def image(number: int, *, version: str | None = None) -> Entry:
    """An enclave image that differs from every other number's."""
    registers = {index: bytes([number % 251 + 1, number // 251, index]) * 16 for index in range(3)}
    return Entry(
        kind="enclave", name="mrgc-enclave", version=version or f"v{number}", time_ms=number, registers=registers
    )


def images(count: int) -> list[Entry]:
    return [image(number) for number in range(count)]


def store(folder: Path, *, disk: Disk | None = None, signed: str = "signed") -> LogStore:
    """The operator's hands on a log in `folder/log`."""
    return LogStore(disk or Disk(folder / "log"), SIGNER, signed=HeadFile(folder / signed))


def make_log(folder: Path, entries: Sequence[Entry]) -> Path:
    """An honest log, through the operator's own code; returns its folder."""
    operator = store(folder)
    operator.create(time_s=NOW_S)
    if entries:
        operator.append(entries, time_s=NOW_S)
    return folder / "log"


def forge(
    folder: Path, shown: Sequence[bytes], *, signed: Sequence[bytes] | None = None, time_s: int | None = NOW_S
) -> Path:
    """What whoever has the log's key can serve: entries `shown` under a head over `signed`, the same by default."""
    under = shown if signed is None else signed
    rows = rows_of(under)
    for tile in tiles_between(0, len(under)):
        first = tile.index * TILE_WIDTH
        if tile.level == ENTRIES:
            data = join_entries(shown[first : first + tile.width])
        else:
            data = b"".join(rows[tile.level][first : first + tile.width])
        path = folder / tile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    head = Checkpoint(SIGNER.name, len(under), extend((), map(leaf_hash, under)))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint").write_bytes(head.sign(SIGNER, time_s=time_s))
    return folder

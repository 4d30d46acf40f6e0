"""The log's folder: appended to by one writer, never changed, and whole after a crash at any step."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dataplane.log.audit import audit
from dataplane.log.disk import Disk
from dataplane.log.reader import LogReader
from dataplane.log.source import FolderSource
from dataplane.log.store import LogStore, StoreError, read_head
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.tiles import tiles_between
from dataplane.protocol.transparency.view import LogView
from tests.support.measurement_log import NOW_S, SIGNER, forge, image, images, make_log, store


class PowerLoss(Exception):  # noqa: N818 - the machine's, not the program's
    """The machine stopped at this step."""


class FailingDisk(Disk):
    """A disk whose machine stops before step `fail_at`; a write that it stops in is half there."""

    def __init__(self, root: Path, fail_at: int) -> None:
        super().__init__(root)
        self.steps = 0
        self._fail_at = fail_at

    def _step(self) -> bool:
        self.steps += 1
        return self.steps > self._fail_at

    def make_folder(self, folder: Path) -> None:
        if self._step():
            raise PowerLoss
        super().make_folder(folder)

    def write(self, path: Path, data: bytes) -> None:
        if self._step():
            path.write_bytes(data[: len(data) // 2])
            raise PowerLoss
        super().write(path, data)

    def rename(self, old: Path, new: Path) -> None:
        if self._step():
            raise PowerLoss
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        if self._step():
            raise PowerLoss
        super().remove(path)

    def confirm_folder(self, folder: Path) -> None:
        if self._step():
            raise PowerLoss
        super().confirm_folder(folder)


async def checked(folder: Path, *, strictly: bool = True) -> int:
    """How many entries a reader finds, who checks everything."""
    reader = LogReader(FolderSource(folder), LogView(SIGNER.verifier), clock_s=lambda: NOW_S)
    found = await audit(reader, folder=folder if strictly else None)
    return found.head.size


async def test_a_new_log_is_empty_and_signed(tmp_path: Path) -> None:
    assert await checked(make_log(tmp_path, [])) == 0, "a head over nothing"


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 513])
async def test_a_log_of_any_length_is_read_back_whole(tmp_path: Path, count: int) -> None:
    assert await checked(make_log(tmp_path, images(count))) == count, "entries, tiles and head agree"


async def test_appending_one_by_one_makes_the_same_log_as_all_at_once(tmp_path: Path) -> None:
    make_log(tmp_path, [])
    for entry in images(12):
        store(tmp_path).append([entry], time_s=NOW_S)
    once = make_log(tmp_path / "once", images(12))
    assert (tmp_path / "log" / "checkpoint").read_bytes() == (once / "checkpoint").read_bytes(), "one tree, one head"
    assert await checked(tmp_path / "log") == 12, "and it is whole"


async def test_parts_of_a_tile_that_is_whole_now_are_taken_away(tmp_path: Path) -> None:
    folder = make_log(tmp_path, images(200))
    store(tmp_path).append(images(300), time_s=NOW_S)
    assert not list((folder / "tile" / "0" / "000.p").iterdir()), "the whole tile serves readers of older heads"
    assert await checked(folder) == 300, "and nothing is missed"


def test_the_same_measurement_is_not_written_twice(tmp_path: Path) -> None:
    folder = make_log(tmp_path, images(3))
    head, numbers = store(tmp_path).append([image(1), image(3)], time_s=NOW_S)
    assert numbers == [1, 3], "where it is already, and where the new one went"
    assert (head.size, read_head(folder, SIGNER.verifier).size) == (4, 4), "one entry more"


def test_another_measurement_of_the_same_version_is_refused(tmp_path: Path) -> None:
    folder = make_log(tmp_path, images(3))
    before = (folder / "checkpoint").read_bytes()
    with pytest.raises(StoreError, match="Entry 1 has another measurement"):
        store(tmp_path).append([image(9, version="v1")], time_s=NOW_S)
    assert (folder / "checkpoint").read_bytes() == before, "and nothing was signed"


def test_a_log_has_one_writer(tmp_path: Path) -> None:
    folder = make_log(tmp_path, images(3))
    other = os.open(folder / ".lock", os.O_RDWR)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another process"):
            store(tmp_path).append([image(4)], time_s=NOW_S)
    finally:
        os.close(other)


def test_a_folder_with_other_files_becomes_no_log(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "index.html").write_text("hello", encoding="utf-8")
    with pytest.raises(StoreError, match="not empty"):
        store(tmp_path).create(time_s=NOW_S)


def test_a_key_signs_one_log_only(tmp_path: Path) -> None:
    make_log(tmp_path, images(3))
    shutil.rmtree(tmp_path / "log")
    with pytest.raises(StoreError, match="signs a log already"):
        store(tmp_path).create(time_s=NOW_S)


@pytest.mark.parametrize("path", ["tile/entries/000.p/3", "checkpoint"])
def test_a_damaged_log_is_not_signed_anew(tmp_path: Path, path: str) -> None:
    folder = make_log(tmp_path, images(3))
    data = bytearray((folder / path).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / path).write_bytes(bytes(data))
    with pytest.raises((StoreError, TransparencyError)):
        store(tmp_path).append([image(4)], time_s=NOW_S)


def test_a_log_restored_from_a_backup_is_not_forked_by_the_next_append(tmp_path: Path) -> None:
    folder = make_log(tmp_path, images(3))
    shutil.copytree(folder, tmp_path / "backup")
    store(tmp_path).append([image(3)], time_s=NOW_S)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    with pytest.raises(StoreError, match="would fork the log"):
        store(tmp_path).append([image(77)], time_s=NOW_S)
    with pytest.raises(StoreError, match="would fork the log"):
        store(tmp_path).refresh(time_s=NOW_S)


def test_a_head_is_signed_again_with_the_time(tmp_path: Path) -> None:
    folder = make_log(tmp_path, images(3))
    head = store(tmp_path).refresh(time_s=NOW_S + 3600)
    assert (head.size, head.time_s) == (3, NOW_S + 3600), "the same tree, an hour later"
    assert read_head(folder, SIGNER.verifier) == head, "as it lies there"


def steps_of_an_append(tmp_path: Path, **counts: int) -> int:
    disk = FailingDisk(make_log(tmp_path, images(counts["before"])), 1 << 30)
    LogStore(disk, SIGNER, signed=_signed(tmp_path)).append(images(counts["after"]), time_s=NOW_S)
    return disk.steps


def _signed(folder: Path) -> Any:
    return store(folder)._signed


@pytest.mark.parametrize(("before", "after"), [(0, 1), (3, 5), (250, 260)])
async def test_a_crash_at_any_step_leaves_the_older_log_or_the_newer(tmp_path: Path, before: int, after: int) -> None:
    total = steps_of_an_append(tmp_path / "counted", before=before, after=after)
    assert total >= 9, "there are steps to crash at"
    sizes = set()
    for step in range(total):
        place = tmp_path / str(step)
        folder = make_log(place, images(before))
        with pytest.raises(PowerLoss):
            LogStore(FailingDisk(folder, step), SIGNER, signed=_signed(place)).append(images(after), time_s=NOW_S)
        size = await checked(folder, strictly=False)
        sizes.add(size)
        assert size in (before, after), f"a reader finds a whole log after a crash at step {step}"
        head, _ = store(place).append(images(after), time_s=NOW_S)
        assert head.size == after, f"the append is repeated after a crash at step {step}"
        assert await checked(folder) == after, f"and leaves nothing beyond its head after a crash at step {step}"
    assert sizes == {before, after}, "crashes on both sides of the head's new name were tried"


async def test_another_append_after_a_crash_does_not_bring_back_what_was_lost(tmp_path: Path) -> None:
    folder = make_log(tmp_path, images(3))
    with pytest.raises(PowerLoss):
        LogStore(FailingDisk(folder, 5), SIGNER, signed=_signed(tmp_path)).append(images(6), time_s=NOW_S)
    store(tmp_path).append([image(50)], time_s=NOW_S)
    assert await checked(folder) == 4, "three and the new one"
    assert len(list(folder.rglob("0*.p/*"))) == 2 * 2, "two heads' parts of one tile and one bundle, no more"


async def test_entries_are_there_before_tiles_and_tiles_before_the_head(tmp_path: Path) -> None:
    folder = make_log(tmp_path, [])
    order: list[str] = []

    class Watched(Disk):
        def rename(self, old: Path, new: Path) -> None:
            order.append(new.relative_to(folder).as_posix())
            super().rename(old, new)

    store(tmp_path, disk=Watched(folder)).append(images(300), time_s=NOW_S)
    assert order == [*(tile.path for tile in tiles_between(0, 300)), "checkpoint"], "in the order of the specification"
    assert order[0].startswith("tile/entries/"), "what is hashed comes before its hashes"


async def test_files_beyond_the_head_are_found(tmp_path: Path) -> None:
    folder = make_log(tmp_path, images(3))
    forge(folder, [entry.encode() for entry in images(5)])
    shutil.copy(make_log(tmp_path / "again", images(3)) / "checkpoint", folder / "checkpoint")
    with pytest.raises(TransparencyError, match="beyond its signed head") as caught:
        await checked(folder)
    assert caught.value.reason == "hidden", "entries that no head covers are not for everybody"

"""The worker loads its own copy of a model; the digest is of that copy's bytes, whatever the store does meanwhile."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.worker.manifest import Manifest, ManifestFile, hash_folder, write_manifest
from dataplane.worker.modelcopy import COPY_CHUNK_BYTES, ModelCache
from dataplane.worker.modelfolder import MANIFEST_FILE, MAX_DEPTH, MAX_FILES, PoolError
from dataplane.worker.mounts import served_elsewhere
from dataplane.worker.pool import Pool, PoolDirectory, model_digest
from dataplane.worker.pools import Pools
from tests.unit.worker.test_worker_pools import FakeEngine, FakeFactory


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache")


@pytest.fixture
def tiny(mount: Path) -> Path:
    return mount / "models" / "tiny"


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


# What the engine reads is what was hashed.


class TamperingFactory(FakeFactory):
    """An operator who exchanges the weights in the store between hashing and loading, and an engine that reads them."""

    def __init__(self, tiny: Path) -> None:
        super().__init__()
        self.tiny = tiny
        self.read = b""
        self.path = Path()

    async def load(self, pool: Pool) -> FakeEngine:
        weights(self.tiny).write_bytes(b"a model that answers otherwise")
        self.path = pool.path
        self.read = weights(pool.path).read_bytes()
        return await super().load(pool)


async def test_a_swap_in_the_store_between_hashing_and_loading_reaches_no_engine(
    mount: Path, tiny: Path, cache: ModelCache
) -> None:
    before = model_digest(tiny)
    factory = TamperingFactory(tiny)
    pools = Pools(
        directory=PoolDirectory(mount, cache=cache), factory=factory, max_loaded=1, stall_s=60, monotonic=lambda: 0.0
    )
    async with pools.use("tiny") as loaded:
        assert loaded.pool.digest == before, "the digest is of the model as it was read"
        assert factory.read == b"tiny", "and so is what the engine loaded"
        assert model_digest(factory.path) == loaded.pool.digest, "the copy's bytes are the digest's"
        assert model_digest(tiny) != before, "while the store has other bytes by now"
    await pools.close()
    assert not factory.path.exists(), "the copy goes with its engine"


def test_a_file_that_changes_between_two_reads_has_the_digest_of_what_was_written(
    mount: Path, tiny: Path, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights(tiny).write_bytes(b"a" * (2 * COPY_CHUNK_BYTES))
    read: Callable[[int, int], bytes] = os.read
    reads: list[int] = []

    def racing(descriptor: int, size: int) -> bytes:
        chunk = read(descriptor, size)
        reads.append(len(chunk))
        if len(chunk) == COPY_CHUNK_BYTES:
            with weights(tiny).open("r+b") as file:
                file.write(b"b" * (2 * COPY_CHUNK_BYTES))
        return chunk

    monkeypatch.setattr(os, "read", racing)
    pool = PoolDirectory(mount, cache=cache).open("tiny")
    monkeypatch.undo()
    written = weights(pool.path).read_bytes()
    assert written.startswith(b"a") and written.endswith(b"b"), "the race was lost by somebody"  # noqa: PT018 - one fact
    assert pool.digest == model_digest(pool.path), "the digest is of the copy, not of a second look at the store"
    assert sum(reads) == len(written) + len(b"{}"), "every byte of the store was read once"


def test_options_are_the_copys_and_part_of_the_digest(mount: Path, tiny: Path, cache: ModelCache) -> None:
    plain = PoolDirectory(mount, cache=cache).open("tiny")
    (tiny / "mrgc.json").write_text('{"max_model_len": 512}')
    pool = PoolDirectory(mount, cache=cache).open("tiny")
    assert pool.options.max_model_len == 512, "read from the copy"
    assert pool.digest != plain.digest, "other options are another model to whoever pins it"


# The folder in the store is read with suspicion.


def link(tiny: Path) -> str:
    (tiny / "secret").symlink_to("/etc/hostname")
    return "secret"


def link_within(tiny: Path) -> str:
    (tiny / "again.safetensors").symlink_to(weights(tiny))
    return "again.safetensors"


def linked_folder(tiny: Path) -> str:
    (tiny / "more").symlink_to("/etc")
    return "more"


def pipe(tiny: Path) -> str:
    os.mkfifo(tiny / "pipe.bin")
    return "pipe.bin"


def unix_socket(tiny: Path) -> str:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tiny / "s"))
    return "s"


def deep(tiny: Path) -> str:
    (tiny.joinpath(*["d"] * (MAX_DEPTH + 1))).mkdir(parents=True)
    return "folders deep"


def odd_name(tiny: Path) -> str:
    (tiny / os.fsdecode(b"\xff.bin")).write_bytes(b"x")
    return "not UTF-8"


@pytest.mark.parametrize("spoil", [link, link_within, linked_folder, pipe, unix_socket, deep, odd_name])
def test_what_is_no_plain_file_is_refused_by_name(
    mount: Path, tiny: Path, cache: ModelCache, tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    named = spoil(tiny)
    with pytest.raises(PoolError, match="plain files") as caught:
        PoolDirectory(mount, cache=cache).open("tiny")
    assert named in str(caught.value), "the sentence names it"
    assert not list((tmp_path / "cache").iterdir()), "and nothing of the copy stays"


def test_a_device_is_refused(mount: Path, tiny: Path, cache: ModelCache) -> None:
    try:
        os.mknod(tiny / "zero.bin", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("making a device takes root")
    with pytest.raises(PoolError, match=r"zero\.bin is a device"):
        PoolDirectory(mount, cache=cache).open("tiny")


def test_a_pool_that_is_a_link_is_refused(mount: Path, tiny: Path, cache: ModelCache) -> None:
    (mount / "models" / "alias").symlink_to(tiny)
    with pytest.raises(PoolError, match="symbolic link"):
        PoolDirectory(mount, cache=cache).open("alias")


def test_a_file_that_turns_into_a_link_after_it_was_listed_is_not_followed(
    mount: Path, tiny: Path, cache: ModelCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").write_bytes(b"not in the pool")
    room = ModelCache._room

    def swapping(self: ModelCache, *given: Any) -> int:
        found = room(self, *given)
        weights(tiny).unlink()
        weights(tiny).symlink_to(tmp_path / "elsewhere")
        return found

    monkeypatch.setattr(ModelCache, "_room", swapping)
    with pytest.raises(PoolError, match="symbolic link"):
        PoolDirectory(mount, cache=cache).open("tiny")


def test_too_many_files_are_refused(mount: Path, tiny: Path, cache: ModelCache) -> None:
    for number in range(MAX_FILES):
        (tiny / f"{number}").touch()
    with pytest.raises(PoolError, match=f"more than {MAX_FILES} files"):
        PoolDirectory(mount, cache=cache).open("tiny")


# The folder of copies.


def test_the_folder_of_copies_is_the_workers_alone(mount: Path, cache: ModelCache, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o755)
    stale = tmp_path / "cache" / "tiny-of-before"
    stale.mkdir()
    (stale / "model.safetensors").write_bytes(b"who knows by whom")
    pool = PoolDirectory(mount, cache=cache).open("tiny")
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700, "nobody else looks in"
    assert stat.S_IMODE(pool.path.stat().st_mode) == 0o700, "nor into a copy"
    assert stat.S_IMODE(weights(pool.path).stat().st_mode) == 0o400, "which is not written any more"
    assert not stale.exists(), "what another process left is not trusted, and not kept"
    with pytest.raises(PoolError, match="another worker's"):
        ModelCache(tmp_path / "cache").copy("tiny", mount / "models" / "tiny")
    cache.close()
    assert not list((tmp_path / "cache").iterdir()), "nothing stays"
    with pytest.raises(PoolError, match="stopping"):
        cache.copy("tiny", mount / "models" / "tiny")


@pytest.mark.parametrize("kind", ["lustre", "nfs4", "fuse", "fuse.sshfs", "fuseblk", "virtiofs"])
def test_a_copy_that_somebody_else_serves_is_no_copy(mount: Path, tmp_path: Path, kind: str) -> None:
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    other = f"21 1 {os.major(device) + 1}:0 / / rw - ext4 /dev/vda rw\n"
    table = other + f"36 21 {number} / /var/cache rw,noatime shared:1 master:2 - {kind} 10.0.0.1@tcp:/fsx rw\n"
    for root in (tmp_path / "cache", None):
        cache = ModelCache(root, mounts=lambda: table)
        with pytest.raises(PoolError, match=f"is on {kind}"):
            cache.copy("tiny", mount / "models" / "tiny")
        cache.close()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs", "overlay"])
def test_a_disk_of_this_machine_will_do(mount: Path, tmp_path: Path, kind: str) -> None:
    device = tmp_path.stat().st_dev
    table = f"36 21 {os.major(device)}:{os.minor(device)} / / rw - {kind} /dev/vda rw\n"
    path, _ = ModelCache(tmp_path / "cache", mounts=lambda: table).copy("tiny", mount / "models" / "tiny")
    assert path.is_dir(), "copied"


@given(st.text(), st.integers(0, 2**32))
def test_any_table_of_mounts_is_read(table: str, device: int) -> None:
    assert served_elsewhere(device, table) is None or " - " in table, "nothing is found where nothing is named"


def test_without_a_folder_given_a_fresh_one_is_used_and_removed(mount: Path) -> None:
    cache = ModelCache()
    pool = PoolDirectory(mount, cache=cache).open("tiny")
    root = pool.path.parent
    assert stat.S_IMODE(root.stat().st_mode) == 0o700, "private as well"
    cache.close()
    cache.close()
    assert not root.exists(), "and gone at the end"


def test_folders_that_killed_workers_left_in_the_temporary_directory_go_and_no_other(
    mount: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    running = ModelCache()
    in_use = PoolDirectory(mount, cache=running).open("tiny").path.parent
    killed, fresh, other = (tmp_path / name for name in ("mrgc-models-killed", "mrgc-models-fresh", "other"))
    for folder in (killed, fresh, other):
        (folder / "tiny-x").mkdir(parents=True)
        (folder / "tiny-x" / "model.safetensors").write_bytes(b"26 GB")
    (tmp_path / "mrgc-models-link").symlink_to(other)
    for folder in (killed, other, in_use):
        os.utime(folder, (0, 0))
    PoolDirectory(mount, cache=ModelCache()).open("tiny")
    assert not killed.exists(), "a worker that was killed removes nothing, so the next one does"
    assert in_use.exists(), "a folder that a running worker has locked is its own"
    assert fresh.exists(), "one that was made a moment ago may be about to be locked"
    assert (other / "tiny-x" / "model.safetensors").exists(), "whatever is named otherwise stays, linked or not"


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_takes_no_more_is_told_as_the_copys_and_not_the_stores_fault(
    mount: Path, cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    class Full(io.FileIO):
        def write(self, data: object, /) -> int:
            del data
            raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr("dataplane.worker.modelcopy.os.fdopen", lambda descriptor, *_a, **_k: Full(descriptor, "wb"))
    with pytest.raises(PoolError, match="MODEL_CACHE_DIR") as caught:
        PoolDirectory(mount, cache=cache).open("tiny")
    assert os.strerror(fault) in str(caught.value), "the sentence says what is wrong"
    assert str(tmp_path / "cache") in str(caught.value), "and where"
    assert not list((tmp_path / "cache").iterdir()), "and the half of a copy makes room again"


def test_a_folder_for_copies_that_cannot_be_made_is_named(mount: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PoolError, match="MODEL_CACHE_DIR") as caught:
        PoolDirectory(mount, cache=ModelCache(tmp_path / "file" / "cache")).open("tiny")
    assert str(tmp_path / "file" / "cache") in str(caught.value), "not the model store's folder, which is well"


def test_copies_have_a_bound_together(mount: Path, tiny: Path, add_pool: Callable[..., Path], tmp_path: Path) -> None:
    weights(tiny).write_bytes(b"x" * 600)
    weights(add_pool("other")).write_bytes(b"x" * 600)
    directory = PoolDirectory(mount, cache=ModelCache(tmp_path / "cache", max_bytes=1000))
    first = directory.open("tiny")
    with pytest.raises(PoolError, match="MODEL_CACHE_MAX_BYTES"):
        directory.open("other")
    directory.release(first)
    assert directory.open("other").digest, "what was released makes room"


def test_a_file_that_grows_while_it_is_copied_stays_within_the_bound(
    mount: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = ModelCache._room

    def growing(self: ModelCache, *given: Any) -> int:
        found = room(self, *given)
        weights(tiny).write_bytes(b"x" * 5000)
        return found

    monkeypatch.setattr(ModelCache, "_room", growing)
    with pytest.raises(PoolError, match="grew"):
        PoolDirectory(mount, cache=ModelCache(tmp_path / "cache", max_bytes=1000)).open("tiny")


def test_a_worker_that_stops_ends_a_copy_midway(
    mount: Path, cache: ModelCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read = os.read

    def stopping(descriptor: int, size: int) -> bytes:
        cache.stop()
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", stopping)
    with pytest.raises(PoolError, match="stopping"):
        PoolDirectory(mount, cache=cache).open("tiny")
    assert not list((tmp_path / "cache").iterdir()), "and nothing of it stays"


# Manifests and pinned digests.


def test_a_manifest_in_the_store_is_enforced(mount: Path, tiny: Path, cache: ModelCache) -> None:
    manifest = write_manifest(tiny)
    directory = PoolDirectory(mount, cache=cache)
    pool = directory.open("tiny")
    assert pool.digest == manifest.digest == model_digest(tiny), "the manifest is no part of what it names"
    assert not (pool.path / MANIFEST_FILE).exists(), "and is not copied"
    weights(tiny).write_bytes(b"TINY")
    with pytest.raises(PoolError, match=r"'model\.safetensors' has other bytes"):
        directory.open("tiny")
    weights(tiny).write_bytes(b"tiny")
    (tiny / "extra.bin").write_bytes(b"")
    with pytest.raises(PoolError, match=r"'extra\.bin' is not named"):
        directory.open("tiny")
    (tiny / "extra.bin").unlink()
    (tiny / "config.json").unlink()
    with pytest.raises(PoolError, match=r"'config\.json' is missing"):
        directory.open("tiny")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"version": 2, "digest": "' + b"a" * 64 + b'", "files": []}',
        b'{"version": 1, "digest": "' + b"a" * 64 + b'", "files": []}',
        b'{"version": 1, "digest": "'
        + b"a" * 64
        + b'", "files": [{"name": "\\ud800", "size": 1, "sha256": "'
        + b"a" * 64
        + b'"}]}',
        b" " * (4 * 1024 * 1024 + 1),
    ],
)
def test_a_manifest_that_is_none_refuses_the_pool(mount: Path, tiny: Path, cache: ModelCache, content: bytes) -> None:
    (tiny / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(PoolError, match=MANIFEST_FILE):
        PoolDirectory(mount, cache=cache).open("tiny")


def test_a_manifest_that_is_a_link_refuses_the_pool(mount: Path, tiny: Path, cache: ModelCache, tmp_path: Path) -> None:
    write_manifest(tiny)
    (tiny / MANIFEST_FILE).rename(tmp_path / "m.json")
    (tiny / MANIFEST_FILE).symlink_to(tmp_path / "m.json")
    with pytest.raises(PoolError, match="symbolic link"):
        PoolDirectory(mount, cache=cache).open("tiny")


@given(
    files=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), st.binary(max_size=9), max_size=5
    )
)
def test_a_manifest_reads_back_and_has_the_documented_digest(files: dict[str, bytes]) -> None:
    entries = [
        ManifestFile(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()
    ]
    manifest = Manifest.of(entries)
    assert Manifest.model_validate_json(manifest.encode()) == manifest, "JSON and back"
    lines = sorted((name.encode(), hashlib.sha256(data).hexdigest()) for name, data in files.items())
    whole = b"".join(name + b"\0" + digest.encode() + b"\n" for name, digest in lines)
    assert manifest.digest == hashlib.sha256(whole).hexdigest(), "as docs/worker.md has it"
    assert json.loads(manifest.encode())["version"] == 1, "with a version for whoever reads it in years"


def test_only_pinned_pools_are_served_and_only_with_their_digest(
    mount: Path, tiny: Path, cache: ModelCache, add_pool: Callable[..., Path]
) -> None:
    add_pool("other")
    directory = PoolDirectory(mount, cache=cache, required={"tiny": model_digest(tiny)})
    assert directory.names() == ("tiny",), "what is not pinned is not offered"
    assert directory.find("other") is None, "nor found"
    assert directory.open("tiny").digest == model_digest(tiny), "the pinned one is served"
    weights(tiny).write_bytes(b"another")
    write_manifest(tiny)  # whoever may write the store may write the manifest as well
    with pytest.raises(PoolError, match="MODEL_DIGESTS asks for"):
        directory.open("tiny")


def test_a_folder_is_hashed_where_it_lies_for_its_manifest(tiny: Path) -> None:
    (tiny / ".cache").mkdir()
    (tiny / ".cache" / "x").write_bytes(b"left out")
    manifest = hash_folder(tiny)
    assert [file.name for file in manifest.files] == ["config.json", "model.safetensors"], "sorted, nothing hidden"
    assert [file.size for file in manifest.files] == [2, 4], "with sizes"
    assert write_manifest(tiny) == write_manifest(tiny), "writing it changes nothing that it names"

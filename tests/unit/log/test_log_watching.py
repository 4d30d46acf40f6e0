"""Followers, monitors and audits before honest and lying logs: a fork, a rewound tree and a hidden entry are caught."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from dataplane.log.audit import Audit, audit
from dataplane.log.follow import Follower
from dataplane.log.headfile import HeadFile, HeadFileError
from dataplane.log.monitor import Monitor, Seen
from dataplane.log.reader import LogReader
from dataplane.log.source import FolderSource, LogUnavailableError
from dataplane.protocol.transparency.checkpoint import open_checkpoint
from dataplane.protocol.transparency.entry import Entry
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.note import SignerKey
from dataplane.protocol.transparency.tiles import join_entries
from dataplane.protocol.transparency.view import LogView
from tests.support.measurement_log import NOW_S, SIGNER, forge, image, images, make_log, store

ENTRIES = [entry.encode() for entry in images(600)]


def follower(folder: Path, state: Path, **changes: int) -> Follower:
    return Follower(FolderSource(folder), SIGNER.verifier, HeadFile(state), clock_s=lambda: NOW_S, **changes)


def reader(folder: Path) -> LogReader:
    return LogReader(FolderSource(folder), LogView(SIGNER.verifier), clock_s=lambda: NOW_S)


async def audited(folder: Path, others: Sequence[bytes] = ()) -> Audit:
    return await audit(reader(folder), others=others, folder=folder)


async def refused(folder: Path, state: Path) -> TransparencyError:
    """How a follower that remembers `state` refuses what `folder` shows; it forgets nothing by it."""
    before = state.read_bytes()
    with pytest.raises(TransparencyError) as caught:
        await follower(folder, state).follow()
    assert state.read_bytes() == before, "what was remembered stays remembered"
    return caught.value


async def watch(folder: Path, state: Path) -> Seen:
    told: list[Seen] = []
    seen = await Monitor(follower(folder, state)).round(told.append)
    assert told == [seen], "each round is told once"
    return seen


async def test_a_reader_remembers_the_head_and_follows_the_log(tmp_path: Path) -> None:
    folder, state = make_log(tmp_path, images(3)), tmp_path / "state" / "head"
    first = await follower(folder, state).follow()
    assert (first.before, first.head.size) == (None, 3), "the first head is taken as it is"
    assert stat.S_IMODE(state.stat().st_mode) == 0o600, "what one trusts is nobody else's to write"
    assert open_checkpoint(state.read_bytes(), SIGNER.verifier) == first.head, "the signed head itself is kept"
    store(tmp_path).append(images(300), time_s=NOW_S)
    second = await follower(folder, state).follow()
    assert second.before == first.head, "the next is proved to extend it"
    assert second.head.size == 300, "through tiles"


async def test_a_fork_is_caught_and_both_heads_are_kept(tmp_path: Path) -> None:
    state = tmp_path / "head"
    await follower(make_log(tmp_path, images(300)), state).follow()
    forked = forge(tmp_path / "fork", [*ENTRIES[:7], ENTRIES[599], *ENTRIES[8:400]])
    error = await refused(forked, state)
    assert error.reason == "fork", "400 entries, but not ours among them"
    evidence = (tmp_path / "head.refused").read_bytes()
    assert evidence == (forked / "checkpoint").read_bytes(), "the second story is kept, signed as it is"
    assert open_checkpoint(evidence, SIGNER.verifier).size == 400, "anybody can check the signature"


async def test_a_fork_of_the_same_size_is_caught(tmp_path: Path) -> None:
    state = tmp_path / "head"
    await follower(make_log(tmp_path, images(5)), state).follow()
    assert (await refused(forge(tmp_path / "fork", [*ENTRIES[:4], ENTRIES[9]]), state)).reason == "fork", (
        "two trees of 5"
    )


async def test_a_rewound_tree_is_caught(tmp_path: Path) -> None:
    state = tmp_path / "head"
    await follower(make_log(tmp_path, images(5)), state).follow()
    error = await refused(forge(tmp_path / "old", ENTRIES[:4]), state)
    assert error.reason == "rewound", "the same beginning, one entry less"
    assert (tmp_path / "head.refused").exists(), "and its head is kept"


async def test_broken_tiles_are_not_called_a_fork(tmp_path: Path) -> None:
    folder, state = make_log(tmp_path, images(5)), tmp_path / "head"
    await follower(folder, state).follow()
    store(tmp_path).append(images(9), time_s=NOW_S)
    (folder / "tile/0/000.p/9").write_bytes(bytes(9 * 32))
    assert (await refused(folder, state)).reason == "tile", "a fork is an accusation, and a bad disk is none"
    (folder / "tile/0/000.p/9").unlink()
    with pytest.raises(LogUnavailableError):
        await follower(folder, state).follow()


async def test_a_log_under_another_key_is_refused(tmp_path: Path) -> None:
    other = SignerKey(SIGNER.name, b"\x08" * 32).verifier
    folder = make_log(tmp_path, images(2))
    with pytest.raises(TransparencyError) as caught:
        await Follower(FolderSource(folder), other, HeadFile(tmp_path / "head")).follow()
    assert caught.value.reason == "signature", "the pinned key alone counts"
    assert not (tmp_path / "head").exists(), "and nothing is remembered"


async def test_a_changed_memory_is_refused(tmp_path: Path) -> None:
    folder, state = make_log(tmp_path, images(2)), tmp_path / "head"
    for content in (b"", b"garbage", SignerKey(SIGNER.name, b"\x08" * 32).name.encode(), bytes(1 << 18)):
        state.write_bytes(content)
        with pytest.raises(HeadFileError):
            await follower(folder, state).follow()


async def test_a_head_that_cannot_be_remembered_is_not_accepted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with pytest.raises(HeadFileError):
        await follower(make_log(tmp_path, images(2)), tmp_path / "file" / "head").follow()


async def test_two_processes_that_share_a_memory_do_not_set_it_back(tmp_path: Path) -> None:
    folder, state = make_log(tmp_path, images(2)), tmp_path / "head"
    slow = follower(folder, state)
    look = await slow.look()
    store(tmp_path).append(images(4), time_s=NOW_S)
    await follower(folder, state).follow()
    assert not await slow.keep(look), "the slower one sees that the head moved"
    assert open_checkpoint(state.read_bytes(), SIGNER.verifier).size == 4, "and does not set it back"
    assert (await slow.follow()).head.size == 4, "it looks again"


async def test_an_entry_is_found_and_proved(tmp_path: Path) -> None:
    folder = make_log(tmp_path, images(600))
    looked = reader(folder)
    await looked.update()
    for number in (0, 255, 256, 599):
        wanted = image(number)
        found = await looked.find(partial(Entry.same_thing, wanted))
        assert found is not None, "it is there"
        assert (found.index, found.entry, found.head.size) == (number, wanted, 600), "at its place, whole"
    assert await looked.find(lambda entry: entry.covers(image(700).registers or {})) is None, "another image is not"


async def test_an_entry_that_is_shown_but_not_in_the_tree_is_not_found(tmp_path: Path) -> None:
    """The operator slips one tenant's image into the bundle that this tenant fetches, under the public head."""
    shown = [*ENTRIES[:9], image(700).encode()]
    folder = forge(tmp_path / "log", shown, signed=ENTRIES[:10])
    looked = reader(folder)
    await looked.update()
    with pytest.raises(TransparencyError) as caught:
        await looked.find(lambda entry: entry.covers(image(700).registers or {}))
    assert caught.value.reason == "not-included", "what everybody's head does not cover is nobody's evidence"


async def test_a_monitor_tells_every_entry_once(tmp_path: Path) -> None:
    folder, state = make_log(tmp_path, images(3)), tmp_path / "head"
    assert [number for number, _ in (await watch(folder, state)).new] == [0, 1, 2], "from the first on"
    assert (await watch(folder, state)).new == (), "nothing twice"
    store(tmp_path).append(images(270), time_s=NOW_S)
    seen = await watch(folder, state)
    assert [number for number, _ in seen.new] == list(range(3, 270)), "then what came since"
    assert seen.new[-1][1] == image(269), "each as it was written"


@pytest.mark.parametrize("known", [0, 3])
async def test_a_hidden_entry_is_caught_by_a_monitor_and_stays_caught(tmp_path: Path, known: int) -> None:
    """The head covers entry 4, and the bundles show another in its place."""
    state = tmp_path / "head"
    if known:
        await watch(make_log(tmp_path, images(known)), state)
    folder = forge(tmp_path / "hiding", [*ENTRIES[:4], ENTRIES[99], *ENTRIES[5:10]], signed=ENTRIES[:10])
    for _ in range(2):
        with pytest.raises(TransparencyError, match="hides an entry") as caught:
            await watch(folder, state)
        assert caught.value.reason == "hidden", "in every round: a head with a hidden entry is never remembered"
    assert (tmp_path / "head.refused").read_bytes() == (folder / "checkpoint").read_bytes(), "its head is evidence"


async def test_an_entry_that_is_not_shown_at_all_is_caught(tmp_path: Path) -> None:
    folder, state = make_log(tmp_path, images(3)), tmp_path / "head"
    await watch(folder, state)
    store(tmp_path).append(images(5), time_s=NOW_S)
    (folder / "tile/entries/000.p/5").unlink()
    with pytest.raises(TransparencyError, match="does not show them all") as caught:
        await watch(folder, state)
    assert caught.value.reason == "hidden", "a signed entry is for everybody"
    with pytest.raises(TransparencyError) as caught:
        await audited(folder)
    assert caught.value.reason == "hidden", "an audit says the same"


async def test_an_entry_that_says_nothing_is_caught(tmp_path: Path) -> None:
    folder = forge(tmp_path / "log", [*ENTRIES[:3], b"\x00 a measurement in disguise"])
    with pytest.raises(TransparencyError, match="Entry 3") as caught:
        await watch(folder, tmp_path / "head")
    assert caught.value.reason == "hidden", "what nobody can read, nobody can watch"
    with pytest.raises(TransparencyError) as caught:
        await audited(folder)
    assert caught.value.reason == "entry", "an audit names the entry"


async def test_a_frozen_head_is_caught_where_its_age_counts(tmp_path: Path) -> None:
    folder = forge(tmp_path / "log", ENTRIES[:3], time_s=NOW_S - 7200)
    with pytest.raises(TransparencyError) as caught:
        await follower(folder, tmp_path / "head", max_age_s=3600).follow()
    assert caught.value.reason == "stale", "newer entries may be kept from us"


async def test_a_whole_log_passes_the_audit(tmp_path: Path) -> None:
    folder = make_log(tmp_path, images(300))
    found = await audited(folder)
    assert found.entries == tuple(images(300)), "every entry was read"


@pytest.mark.parametrize("path", ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"])
async def test_a_tile_that_is_not_of_its_tree_fails_the_audit(tmp_path: Path, path: str) -> None:
    folder = make_log(tmp_path, images(300))
    data = bytearray((folder / path).read_bytes())
    data[-1] ^= 1
    (folder / path).write_bytes(bytes(data))
    with pytest.raises(TransparencyError, match=path.replace(".", r"\.")) as caught:
        await audited(folder)
    assert caught.value.reason == "tile", "whoever proves with it would be refused"


async def test_a_split_view_is_caught_when_two_parties_compare(tmp_path: Path) -> None:
    """Each is shown a log without a fault; only both heads together tell."""
    mine = forge(tmp_path / "mine", ENTRIES[:10])
    theirs = forge(tmp_path / "theirs", [*ENTRIES[:4], ENTRIES[99], *ENTRIES[5:8]])
    for each in (mine, theirs):
        await watch(each, tmp_path / f"{each.name}-head")
        assert (await audited(each)).compared == 0, "alone, neither sees anything wrong"
    with pytest.raises(TransparencyError) as caught:
        await audited(mine, [(tmp_path / "theirs-head").read_bytes()])
    assert caught.value.reason == "fork", "the head that the other remembers is not contained"
    older = forge(tmp_path / "older", ENTRIES[:6])
    assert (await audited(mine, [(older / "checkpoint").read_bytes()])).compared == 1, "an older honest head is"


async def test_a_log_that_shows_less_than_others_saw_is_caught(tmp_path: Path) -> None:
    others = (forge(tmp_path / "theirs", ENTRIES[:12]) / "checkpoint").read_bytes()
    with pytest.raises(TransparencyError) as caught:
        await audited(forge(tmp_path / "mine", ENTRIES[:10]), [others])
    assert caught.value.reason == "rewound", "somebody was shown more"


async def test_a_strangers_checkpoint_is_not_compared(tmp_path: Path) -> None:
    stranger = open_checkpoint((forge(tmp_path / "x", ENTRIES[:3]) / "checkpoint").read_bytes(), SIGNER.verifier)
    note = stranger.checkpoint.sign(SignerKey(SIGNER.name, b"\x08" * 32))
    with pytest.raises(TransparencyError) as caught:
        await audited(make_log(tmp_path, images(3)), [note])
    assert caught.value.reason == "signature", "anybody could have made it"


async def test_a_whole_tile_serves_a_reader_of_an_older_head(tmp_path: Path) -> None:
    folder = make_log(tmp_path, images(200))
    old_head = (folder / "checkpoint").read_bytes()
    store(tmp_path).append(images(256), time_s=NOW_S)
    (folder / "checkpoint").write_bytes(old_head)
    looked = reader(folder)
    assert (await looked.update()).size == 200, "a head that a cache still has"
    assert (await looked.find(lambda entry: entry == image(150))) is not None, "is read from what came since"


async def test_a_bundle_with_an_entry_too_many_is_no_bundle(tmp_path: Path) -> None:
    folder = make_log(tmp_path, images(3))
    shutil.copy(folder / "tile/entries/000.p/3", folder / "copy")
    (folder / "tile/entries/000.p/3").write_bytes(join_entries([b"x"] * 256) + b"\x00")
    looked = reader(folder)
    await looked.update()
    with pytest.raises(TransparencyError) as caught:
        await looked.find(lambda entry: isinstance(entry, Entry))
    assert caught.value.reason == "tile", "refused before anything in it is read"

"""Pools on disk: names, options, digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.worker.modelfolder import PoolError
from dataplane.worker.pool import POOL_NAME, PoolDirectory, model_digest


def test_folders_with_weights_are_pools_and_nothing_else_is(mount: Path, add_pool: Callable[..., Path]) -> None:
    add_pool("other")
    (mount / "models" / "empty").mkdir()
    (mount / "models" / ".hidden").mkdir()
    (mount / "models" / ".hidden" / "model.safetensors").write_bytes(b"x")
    directory = PoolDirectory(mount)
    assert directory.names() == ("other", "tiny")
    assert directory.available()
    assert not PoolDirectory(mount / "nowhere").available()
    assert PoolDirectory(mount / "nowhere").names() == ()


@pytest.mark.parametrize(
    "name", ["../tiny", "tiny/../tiny", "/etc", "..", ".", "", "tiny/", "tiny\n", "a" * 129, "tïny"]
)
def test_a_name_that_is_no_single_folder_finds_nothing(mount: Path, name: str) -> None:
    assert PoolDirectory(mount).find(name) is None


@given(st.text(max_size=140))
def test_a_valid_name_never_leaves_the_folder(name: str) -> None:
    if POOL_NAME.fullmatch(name):
        assert Path("/m", name).parent == Path("/m"), "a pool's name is exactly one path component"
        assert "/" not in name
        assert not name.startswith(".")


def test_the_digest_is_that_of_the_documented_manifest(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "c").write_bytes(b"one")
    (tmp_path / ".skipped").write_bytes(b"x")
    lines = [f"{name}\0{hashlib.sha256(data).hexdigest()}\n" for name, data in (("a/c", b"one"), ("b", b"two"))]
    assert model_digest(tmp_path) == hashlib.sha256("".join(lines).encode()).hexdigest()
    before = model_digest(tmp_path)
    (tmp_path / "b").write_bytes(b"twO")
    assert model_digest(tmp_path) != before, "another byte, another model"
    (tmp_path / "b").rename(tmp_path / "d")
    (tmp_path / "d").write_bytes(b"two")
    assert model_digest(tmp_path) != before, "another name, another model"


@pytest.mark.parametrize(
    ("text", "word"),
    [('{"runner": "dance"}', "runner"), ('{"lanes": 3}', "lanes"), ("{", "JSON"), ("[" * 70_000, "65536")],
)
def test_options_that_cannot_be_used_are_named(mount: Path, text: str, word: str) -> None:
    (mount / "models" / "tiny" / "mrgc.json").write_text(text)
    with pytest.raises(PoolError, match=word):
        PoolDirectory(mount).open("tiny")


def test_options_are_read_and_default(mount: Path, add_pool: Callable[..., Path]) -> None:
    add_pool("vectors", options={"runner": "pooling", "max_model_len": 512})
    assert PoolDirectory(mount).open("tiny").options.runner == "generate"
    opened = PoolDirectory(mount).open("vectors")
    assert (opened.options.runner, opened.options.max_model_len) == ("pooling", 512)
    assert json.loads((opened.path / "mrgc.json").read_text())["runner"] == "pooling"

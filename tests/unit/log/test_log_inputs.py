"""What may be appended, whose key signs it, and which log is pinned: files and variables, good and bad."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from dataplane.enclave.build import render_measurements
from dataplane.log.inputs import InputError, digest_entry, read_entries
from dataplane.log.keyfile import make_key, read_key, write_key
from dataplane.log.pin import read_pin
from dataplane.protocol.errors import MrgcError, SettingsError
from dataplane.protocol.transparency.entry import Entry
from dataplane.worker.pool import model_digest
from tests.support.measurement_log import SIGNER

PCRS = {index: bytes([index + 1]) * 48 for index in range(3)}
KEY = str(SIGNER.verifier)


def read(folder: Path, content: object) -> list[Entry]:
    path = folder / "given"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_entries(path, name="mrgc-enclave", version="1.4", time_ms=5)


def hexed(**changes: Any) -> dict[str, Any]:
    return {f"PCR{index}": value.hex() for index, value in PCRS.items()} | changes


def test_what_the_enclaves_build_writes_is_an_enclaves_entry(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, render_measurements(PCRS).encode())
    assert (entry.kind, entry.registers) == ("enclave", PCRS), "measurements.json as it is"
    (signed,) = read(tmp_path, render_measurements(PCRS | {8: b"\x08" * 48}).encode())
    assert signed.registers == PCRS | {8: b"\x08" * 48}, "with the signer of a signed image"


def test_what_nitro_cli_prints_is_an_enclaves_entry(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, {"Measurements": hexed(HashAlgorithm="Sha384 { ... }", PCR8="00" * 48)})
    assert entry.registers == PCRS, "a zero PCR8 is an unsigned image"


def test_host_measurements_are_an_entry_each(tmp_path: Path) -> None:
    hosts = [{"4": "aa" * 48, "12": "00" * 48}, {"4": "bb" * 48, "7": "cc" * 48}]
    entries = read(tmp_path, {"allowed": hosts})
    assert [(e.kind, e.version) for e in entries] == [("host", "1.4-1"), ("host", "1.4-2")], (
        "each under its own version"
    )
    assert entries[0].registers == {4: b"\xaa" * 48, 12: bytes(48)}, "an untouched image's PCR12 is zero"
    assert [e.version for e in read(tmp_path, {"allowed": hosts[:1]})] == ["1.4"], "a single one under the given"


def test_a_file_that_allows_worker_configurations_alone_has_no_host_to_log(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"allows no host; give .*allowed"):
        read(tmp_path, {"configurations": ["ab" * 32]})


def test_a_models_manifest_has_the_digest_that_the_worker_reckons(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "config.json").write_bytes(b"{}")
    (model / "sub" / "weights").write_bytes(b"weights")
    lines = [("config.json", b"{}"), ("sub/weights", b"weights")]
    manifest = "".join(f"{name}\0{hashlib.sha256(data).hexdigest()}\n" for name, data in lines).encode()
    (entry,) = read(tmp_path, manifest)
    assert entry.digest is not None, "a model has a digest"
    assert entry.digest.hex() == model_digest(model), "the one that receipts name"
    assert digest_entry(f"sha256:{model_digest(model)}", name="x", version="1", time_ms=5).digest == entry.digest, (
        "same"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"some text\n",
        b"b\0" + b"ab" * 32 + b"\na\0" + b"ab" * 32 + b"\n",
        b"a\0" + b"ab" * 32 + b"\na\0" + b"ab" * 32 + b"\n",
        b"a\0" + b"ab" * 32,
        {},
        {"PCR0": "01" * 48},
        {"allowed": []},
        {"allowed": [{}]},
        {"allowed": ["x"]},
        {"allowed": [{"4": "aa" * 48}]},
        {"allowed": [{"four": "aa" * 48}]},
        {"allowed": [{"04": "aa" * 48, "12": "aa" * 48}]},
        {"allowed": [{"\u0664": "aa" * 48, "12": "aa" * 48}]},
        {"allowed": [{"4" * 5000: "aa" * 48}]},
        {"Measurements": []},
        hexed(PCR0="00" * 48),
        hexed(PCR0="01" * 32),
        hexed(PCR0="zz" * 48),
        hexed(PCR0=5),
        hexed(PCR3="03" * 48),
        hexed(more="x"),
    ],
)
def test_nonsense_is_not_appended(tmp_path: Path, content: object) -> None:
    with pytest.raises(InputError):
        read(tmp_path, content)


def test_a_file_that_is_not_there_and_a_digest_that_is_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_entries(tmp_path / "none", name="x", version="1", time_ms=5)
    for digest in ("", "ab", "AB" * 32, "00" * 32, "sha512:" + "ab" * 32):
        with pytest.raises(InputError):
            digest_entry(digest, name="x", version="1", time_ms=5)


def test_a_key_is_written_for_its_owner_alone_and_read_back(tmp_path: Path) -> None:
    path, key = tmp_path / "log.key", make_key("mrgc.example/log")
    write_key(path, key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "nobody else reads it"
    assert read_key(path) == key, "and it is the same key"
    with pytest.raises(SettingsError, match="never overwritten"):
        write_key(path, make_key("mrgc.example/log"))
    assert read_key(path) == key, "a second keygen did not replace it"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_may_read_signs_nothing(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "log.key"
    write_key(path, SIGNER)
    os.chmod(path, mode)  # noqa: PTH101 - the mode is the matter
    with pytest.raises(SettingsError, match="chmod 600"):
        read_key(path)


def test_a_file_that_is_no_key_is_named_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "log.key"
    write_key(path, SIGNER)
    path.write_text(SIGNER.text()[:-2], encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        read_key(path)
    assert SIGNER.text()[30:60] not in str(caught.value), "half a key is a secret too"
    with pytest.raises(SettingsError, match="No such file"):
        read_key(tmp_path / "none")


def test_no_variables_pin_no_log() -> None:
    assert read_pin({}) is None, "nothing changes without configuration"
    assert read_pin({"MRGC_LOG_STATE": "/x", "MRGC_LOG_MAX_AGE_S": "5"}) is None, "a log is its address and key"


def test_the_variables_pin_a_log(tmp_path: Path) -> None:
    environ = {"MRGC_LOG_URL": "https://mrgc.example/log", "MRGC_LOG_KEY": KEY, "XDG_STATE_HOME": str(tmp_path)}
    pin = read_pin(environ)
    assert pin is not None, "a log is pinned"
    assert (pin.url, pin.key, pin.max_age_s) == ("https://mrgc.example/log", SIGNER.verifier, None), "as given"
    assert pin.state.parent == tmp_path / "mrgc" / "log", "its head is remembered where state belongs"
    other = read_pin(environ | {"MRGC_LOG_KEY": str(make_key(SIGNER.name).verifier)})
    assert other is not None, "another key is another log"
    assert other.state != pin.state, "with a memory of its own, though it has the same name"
    aged = read_pin(environ | {"MRGC_LOG_MAX_AGE_S": "3600", "MRGC_LOG_STATE": "/srv/head"})
    assert aged is not None, "all of them"
    assert (aged.max_age_s, aged.state) == (3600, Path("/srv/head")), "are read"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"MRGC_LOG_KEY": ""}, "MRGC_LOG_KEY"),
        ({"MRGC_LOG_URL": ""}, "MRGC_LOG_URL"),
        ({"MRGC_LOG_KEY": "garbage"}, "MRGC_LOG_KEY"),
        ({"MRGC_LOG_KEY": KEY[:-4]}, "MRGC_LOG_KEY"),
        ({"MRGC_LOG_URL": "http://mrgc.example/log"}, "http://mrgc.example/log"),
        ({"MRGC_LOG_MAX_AGE_S": "59"}, "MRGC_LOG_MAX_AGE_S"),
        ({"MRGC_LOG_MAX_AGE_S": "9" * 5000}, "MRGC_LOG_MAX_AGE_S"),
        ({"MRGC_LOG_MAX_AGE_S": "soon"}, "MRGC_LOG_MAX_AGE_S"),
        ({"MRGC_LOG_CA_FILE": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
    ],
)
def test_a_wrong_variable_is_named(changes: dict[str, str], name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_pin({"MRGC_LOG_URL": "https://mrgc.example/log", "MRGC_LOG_KEY": KEY} | changes)
    assert name in str(caught.value), "so that it can be mended"
    assert len(str(caught.value)) < 500, "in a sentence"
    assert isinstance(caught.value, MrgcError), "of the one family"

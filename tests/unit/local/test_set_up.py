"""The set-up on any machine: which Python or uv begins it, and which Pythons the lock has wheels for."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts" / "uv.sh"
PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))
MACHINES = ("x86_64", "aarch64")

NO_PACKAGES_PYTHON = """#!/bin/sh
# Stands for a python3: refuses as an old or bare one does, or makes an environment whose pip makes uv.
case "$*" in
  --version) echo "Python 3.9.18" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip install"*) touch "$(dirname "$0")/uv"; echo "$*" >> "$LOG" ;;
  *) {answer} ;;
esac
"""
FAKE_UV = """#!/bin/sh
echo "uv $*" >> "$LOG"
case "$1" in --version) echo "uv 0.8.0" ;; venv) for last; do :; done; mkdir -p "$last/bin" ;; esac
"""


class Bare:
    """A machine with a PATH of its own: the tools that any has, and what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "path"
        self.path.mkdir()
        self.log = folder / "log"
        for name in ("sh", "rm", "tail", "mkdir", "cp", "touch", "dirname"):
            found = next(place for place in ("/bin", "/usr/bin") if Path(place, name).exists())
            (self.path / name).symlink_to(Path(found, name))

    def put(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)

    def run(self, *more: str) -> tuple[int, str]:
        done = subprocess.run(
            ["/bin/sh", str(SCRIPT), str(self.folder / "tools"), "1.2.3", *more],
            env={"PATH": str(self.path), "LOG": str(self.log)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    def calls(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    return Bare(tmp_path)


def test_any_python_from_3_9_begins_the_set_up(bare: Bare) -> None:
    bare.put("python3", NO_PACKAGES_PYTHON.format(answer="exit 0"))
    bare.put("uv", FAKE_UV)
    status, said = bare.run()
    assert status == 0, said
    assert "uv==1.2.3" in bare.calls(), "the pinned uv"
    assert "uv venv" not in bare.calls(), "by pip, as its configuration says"
    assert (bare.folder / "tools" / "bin" / "uv").exists()


@pytest.mark.parametrize("python", [None, "echo 'is Python 3.8.1, which is before 3.9'; exit 1"])
def test_uv_alone_is_enough_and_brings_a_python_that_the_lock_supports(bare: Bare, python: str | None) -> None:
    if python is not None:
        bare.put("python3", NO_PACKAGES_PYTHON.format(answer=python))
    bare.put("uv", FAKE_UV)
    status, said = bare.run()
    assert status == 0, said
    assert "--python >=3.11,<3.15" in bare.calls(), "one Python for the tools and for the project"
    assert "uv==1.2.3" in bare.calls(), "the pinned uv again, whatever version is on PATH"


@pytest.mark.parametrize(
    ("python", "said"),
    [
        (None, "python3 is not there"),
        ("echo 'is Python 3.8.1, which is before 3.9' >&2; exit 1", "python3 is Python 3.8.1, which is before 3.9"),
        ("echo 'pyenv: not found' >&2; echo 'is broken' >&2; exit 127", "python3 is broken"),
    ],
)
def test_without_either_one_sentence_says_what_is_missing(bare: Bare, python: str | None, said: str) -> None:
    if python is not None:
        bare.put("python3", NO_PACKAGES_PYTHON.format(answer=python))
    status, words = bare.run()
    assert status == 1
    assert said in words
    assert "Python from 3.9 with venv, or uv on PATH" in words
    assert len(words.strip().splitlines()) == 1


def test_a_python_that_was_named_is_the_one_that_is_asked(bare: Bare) -> None:
    bare.put("python3", NO_PACKAGES_PYTHON.format(answer="exit 0"))
    status, words = bare.run("/nowhere/python3.13")
    assert (status, "/nowhere/python3.13 is not there" in words) == (1, True), "and no other in its place"


def test_what_a_python_is_asked_is_older_than_every_python_that_may_be_asked() -> None:
    (question,) = re.findall(r"^check='(.*?)'$", SCRIPT.read_text(), re.MULTILINE | re.DOTALL)
    ast.parse(question, feature_version=(3, 4))
    done = subprocess.run([sys.executable, "-c", question], check=False, capture_output=True)
    assert done.returncode == 0, "this one would do"


def test_the_pythons_that_are_promised_are_those_of_the_project_and_its_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.15"
    named = [text.rpartition(" ")[2] for text in project["classifiers"] if "Python :: 3." in text]
    assert named == [f"{major}.{minor}" for major, minor in PYTHONS]
    assert lock()["requires-python"].replace(" ", "") == project["requires-python"]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_locked_package_has_a_wheel_for_each_python_on_both_machines(
    python: tuple[int, int], machine: str
) -> None:
    lacking = [
        package["name"]
        for package in lock()["package"]
        if "registry" in package["source"]
        and not any(fits(Path(wheel["url"]).name, python, machine) for wheel in package.get("wheels", ()))
        and not elsewhere(package["name"])
    ]
    assert not lacking, "a package without a wheel would need a compiler, which the set-up does not ask for"


def lock() -> dict[str, Any]:
    return tomllib.loads((ROOT / "uv.lock").read_text())


def elsewhere(name: str) -> bool:
    """Whether a package is locked for other systems alone, or is `make fuzz`'s, which says itself where it runs."""
    return name in {"colorama", "pywin32", "tzdata", "atheris"}


def fits(wheel: str, python: tuple[int, int], machine: str) -> bool:
    """Whether a wheel is for this CPython on glibc's Linux (PEP 425's tags)."""
    tags, abi, platform = wheel.removesuffix(".whl").split("-")[-3:]
    if platform != "any" and not ("manylinux" in platform and platform.endswith(machine)):
        return False
    own = f"cp{python[0]}{python[1]}"
    older = [f"cp3{minor}" for minor in range(2, python[1] + 1)]
    return any(
        tag.startswith("py3") or (tag == own and abi in (own, "none")) or (abi == "abi3" and tag in older)
        for tag in tags.split(".")
    )


def test_the_images_and_the_makefile_install_the_same_uv() -> None:
    (version,) = re.findall(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for file in sorted((ROOT / "dataplane").glob("*/Dockerfile")):
        assert set(re.findall(r"uv==(\S+)", file.read_text())) <= {version}, file


def test_what_the_demos_image_copies_is_there_and_is_let_in() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    let_in = [
        line.removeprefix("!")
        for line in (ROOT / "Dockerfile.dockerignore").read_text().splitlines()
        if line[:1] == "!"
    ]
    assert sorted(copied) == sorted(let_in)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert os.access(SCRIPT, os.X_OK), "the image runs it as it is"

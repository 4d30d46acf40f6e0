"""README's commands and code as they stand: in a folder like a fresh clone's, with the ports that it names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TIMEOUT_S = 240

LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
os.execv(sys.argv[1], sys.argv[1:])
"""

# A person reads on before the next block; a script waits until the proxy listens.
LISTENING = """
for attempt in $(seq 100); do (: < /dev/tcp/127.0.0.1/8090) 2>/dev/null && break; sleep 0.2; done
"""


def blocks(heading: str) -> list[tuple[str, str]]:
    """The fenced blocks of a section of README, each as (language, text)."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^```(sh|python)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def script(heading: str) -> str:
    """All of a section's blocks as one session of a shell, which ends at the first that fails."""
    # What it left in the background ends with it, also where it failed: it would hold the pipes that are read here.
    parts = ["set -eum", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for language, text in blocks(heading):
        parts.append(f"{LISTENING}.venv/bin/python - <<'PYTHON'\n{text}PYTHON" if language == "python" else text)
    return "\n".join(parts) + "\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with everything of this one but what runs and what was made: set up already, so no network is asked."""
    for name in ("Makefile", "README.md", "pyproject.toml", "uv.lock", "docs", "scripts", "stacks"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").mkdir()
    for name in ("bin", "lib", "lib64", "pyvenv.cfg"):
        (tmp_path / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    uv = tmp_path / ".mrgc" / "tools" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text("#!/bin/sh\necho 'nothing is to be installed here' >&2\nexit 1\n")
    uv.chmod(0o755)
    for stamp in (".stamp-local", ".stamp"):
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


def run(clone: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run a session in a network of its own where that is allowed, so that nobody else holds README's ports."""
    command = ["bash", "-c", text]
    alone = ["unshare", "--map-root-user", "--net"]
    unshare = shutil.which("unshare")
    if unshare is not None and subprocess.run([*alone, "true"], check=False, capture_output=True).returncode == 0:
        bash = shutil.which("bash") or "/bin/bash"
        command = [*alone, sys.executable, "-c", LOOPBACK_UP, bash, "-c", text]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MRGC_", "MAKE", "MFLAGS"))}
    environment = kept | {"ENGINE": "synthetic"}
    try:
        return subprocess.run(
            command, cwd=clone, env=environment, text=True, capture_output=True, check=False, timeout=TIMEOUT_S
        )
    finally:
        subprocess.run([".venv/bin/mrgc", "local", "down"], cwd=clone, check=False, capture_output=True, timeout=60)


@pytest.mark.processes
@pytest.mark.timeout(TIMEOUT_S + 90)
def test_what_readme_tells_a_tenant_to_do_works_as_it_stands(clone: Path) -> None:
    done = run(clone, script("Use it as a tenant"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Verified: i-" in done.stdout, "the attestation document is verified"
    assert "Engine: synthetic, as asked" in done.stderr, "the engine is said"
    for hint in ("tenant ask --cluster .mrgc/local/cluster.json", "tenant proxy", "console  http://127.0.0.1:", "down"):
        assert hint in done.stderr, "what to do next is printed after `make up`"
    answers = re.findall(r"(?:\b[a-z]{3,7} ){40,}", done.stdout)
    assert len(answers) == 2, f"words came back, to the command line and to the stock client: {done.stdout}"
    assert re.search(r"Stopped \d+ processes", done.stderr), "and everything was stopped"


@pytest.mark.processes
@pytest.mark.timeout(TIMEOUT_S + 90)
def test_readmes_first_command_shows_that_every_claim_holds(clone: Path) -> None:
    done = run(clone, script("Try it"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Engine: synthetic, as asked" in done.stdout
    assert "12 of 12 claims held" in done.stdout
    assert done.stdout.count("rests on ") == 12, "each claim says what it rests on"
    assert "make up " in done.stdout.split("Next:")[1], "and where to go from here"
    for row in re.findall(r"^ {4}[0-9a-f]{4}  .*$", done.stdout, re.MULTILINE)[4:]:
        pytest.fail(f"a fifth line of hex: {row}")


@pytest.mark.parametrize("heading", ["Try it", "Use it as a tenant"])
def test_readmes_commands_mean_the_same_in_every_shell(heading: str) -> None:
    found = [text for language, text in blocks(heading) if language == "sh"]
    assert found, "there are commands"
    for text in found:
        assert "#" not in text, "zsh takes a comment at its prompt for arguments"
        assert not re.search(r'(?<!")\$', text), "zsh does not split a variable into words"


@pytest.mark.parametrize(
    ("arguments", "status", "wanted"),
    [
        (["test"], 0, "--where-possible"),
        (["test", "ENGINE=synthetic"], 0, '-m "not engine"'),
        (["demo", "ENGINE=vllm"], 0, "python -m stacks.local.engine --venv .venv-engine\n"),
        (["demo"], 0, "mrgc local demo"),
        (["demo", "KEEP=1"], 0, "mrgc local demo  --keep"),
        (["demo", "ENGINE=.venv-engine"], 2, "it is vllm"),
    ],
)
def test_make_hands_on_which_engine_was_chosen(clone: Path, arguments: list[str], status: int, wanted: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("ENGINE", "MAKEFLAGS")}
    done = subprocess.run(
        ["make", "-n", *arguments], cwd=clone, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == status, done.stderr
    assert wanted in done.stdout + done.stderr

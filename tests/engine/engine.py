"""A real Pulumi engine on this machine: a file backend, no account, the provider stand-in for AWS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PLUGIN = Path(__file__).parent / "plugin"
COMMAND_TIMEOUT_S = 600
"""One command of the engine: about 1,000 resources preview in 9 s, with two packs in about 20 s, on two cores."""
PACKS = (ROOT / "policies" / "enclave", ROOT / "policies" / "network")
MISSING = "no `pulumi` on PATH; install the engine (https://www.pulumi.com/docs/install/) and run this again"


def installed() -> bool:
    """Whether there is an engine to run."""
    return shutil.which("pulumi") is not None


@dataclass(frozen=True)
class Ran:
    """One command's end: its exit status and both streams."""

    status: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """Everything it printed."""
        return self.stdout + self.stderr


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One throw-away stack of one program. `home` holds the engine's settings, the backend and the provider's log."""

    home: Path
    program: Path
    stack: str

    def run(self, *command: str, fail_creating: str | None = None, packs: Mapping[Path, Path] | None = None) -> Ran:
        """`pulumi COMMAND`. `packs` maps a pack's folder to its configuration file."""
        arguments = ["pulumi", *command, "--stack", self.stack, "--non-interactive", "--color", "never"]
        for pack, configuration in (packs or {}).items():
            arguments += ["--policy-pack", str(pack), "--policy-pack-config", str(configuration)]
        environment = self.environment()
        if fail_creating is not None:
            environment["MRGC_STANDIN_FAIL"] = fail_creating
        done = subprocess.run(
            arguments,
            cwd=self.program,
            env=environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def environment(self) -> dict[str, str]:
        """The engine's environment: only what it needs, so that no account of the person who runs it is used."""
        path = os.pathsep.join((str(PLUGIN), str(ROOT / ".mrgc" / "tools" / "bin"), os.environ["PATH"]))
        return {
            "PATH": path,
            "HOME": os.environ.get("HOME", str(self.home)),
            "MRGC_STANDIN_PYTHON": sys.executable,
            "MRGC_STANDIN_LOG": str(self.home / "provider.jsonl"),
            "PULUMI_HOME": str(self.home / "pulumi"),
            "PULUMI_BACKEND_URL": f"file://{self.home / 'backend'}",
            "PULUMI_CONFIG_PASSPHRASE": "none of it is secret",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            **{name: value for name, value in os.environ.items() if name.startswith("UV_")},
        }

    def resources(self) -> list[dict[str, Any]]:
        """What the stack holds now, as `stack export` says."""
        exported = self.run("stack", "export")
        assert exported.status == 0, exported.text
        found: list[dict[str, Any]] = json.loads(exported.stdout)["deployment"].get("resources") or []
        return found

    def provider_calls(self, call: str) -> list[str]:
        """The URNs of the stand-in's calls of one kind (`Create`, `Update`, `Delete`), in order."""
        log = self.home / "provider.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return [entry["urn"] for entry in map(json.loads, lines) if entry["call"] == call]

    def configure(self, values: Mapping[str, Any]) -> None:
        """Write the stack's configuration, keeping what the engine itself wrote there."""
        path = self.stack_file()
        held = yaml.safe_load(path.read_text()) if path.exists() else {}
        path.write_text(yaml.safe_dump({**(held or {}), "config": dict(values)}, sort_keys=False))

    def stack_file(self) -> Path:
        """Where the engine reads and writes the stack's configuration."""
        project = yaml.safe_load((self.program / "Pulumi.yaml").read_text())
        folder = str(project.get("stackConfigDir", "."))
        return self.program / folder / f"Pulumi.{self.stack}.yaml"


@contextmanager
def scratch(home: Path, program: Path = ROOT, values: Mapping[str, Any] | None = None) -> Iterator[Engine]:
    """A new stack, gone at the end with its configuration file, so that no tracked file is written to."""
    (home / "backend").mkdir(parents=True, exist_ok=True)
    engine = Engine(home=home, program=program, stack=f"scratch-{uuid.uuid4().hex[:8]}")
    try:
        engine.configure(values or {})
        made = engine.run("stack", "init")
        if made.status != 0:
            raise RuntimeError(f"The engine could not make a stack: {made.text}")
        yield engine
    finally:
        engine.stack_file().unlink(missing_ok=True)


def stack_values(stack: str) -> dict[str, Any]:
    """The whole `config:` of `stacks/Pulumi.<stack>.yaml`."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "stacks" / f"Pulumi.{stack}.yaml").read_text())["config"]
    return values

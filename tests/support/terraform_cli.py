"""Terraform with the AWS provider that this machine has: no registry is asked, and no AWS account is known to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.terraform_document import SOURCE, Document

PLUGINS: Final = "MRGC_TF_PLUGINS"
USUAL_PLUGINS: Final = (Path("~/.terraform.d/plugins"), Path("/opt/tf-plugins"))
PROVIDER: Final = f"registry.terraform.io/{SOURCE}"
PARALLEL: Final = "40"
"""Many resources wait on a clock of the provider's, which costs no processor."""


class TerraformError(Exception):
    """Terraform ended with an error that is of no resource; its own words are the text."""


@dataclass(frozen=True)
class Finding:
    """One error, of the resource at `address`, or of none (''). `text` is Terraform's, on one line."""

    address: str
    text: str


@dataclass
class Outcome:
    """How an apply or a destroy ended: the addresses that were made or removed, and the errors."""

    done: set[str] = field(default_factory=set)
    errors: list[Finding] = field(default_factory=list)


def plugin_directory() -> Path | None:
    """A folder with the AWS provider in the layout of Terraform's mirrors: `$MRGC_TF_PLUGINS` or a usual place."""
    named = os.environ.get(PLUGINS)
    folders = (Path(named),) if named else USUAL_PLUGINS
    return next((folder for one in folders if (folder := one.expanduser()) and (folder / PROVIDER).is_dir()), None)


def missing() -> str | None:
    """What this machine lacks for Terraform to run, in a sentence that says how to get it; None if it lacks nothing."""
    if shutil.which("terraform") is None:
        return "There is no terraform on PATH; with it and the AWS provider in a plugin directory, this test runs too."
    if plugin_directory() is None:
        return (
            f"No plugin directory has the AWS provider; put it at {PROVIDER}/<version>/<os>_<arch>/ under a folder "
            f"and name the folder in {PLUGINS}, and this test runs too."
        )
    return None


class Terraform:
    """One installation, initialised once in `home`; every configuration gets a folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "main.tf.json").write_text(
            json.dumps({"terraform": {"required_providers": {"aws": {"source": SOURCE}}}})
        )
        self._checked(home, "init", f"-plugin-dir={plugin_directory()}", "-input=false", "-no-color")
        version = json.loads(self._checked(home, "version", "-json"))
        self.provider_version: str = version["provider_selections"][PROVIDER]
        schemas = json.loads(self._checked(home, "providers", "schema", "-json"))
        self.schema: Mapping[str, Any] = schemas["provider_schemas"][PROVIDER]

    def folder(self, name: str, configuration: Document) -> Path:
        """A new folder with the configuration in it."""
        folder = self.home / name
        folder.mkdir()
        configuration.write(folder)
        shutil.copy(self.home / ".terraform.lock.hcl", folder)
        return folder

    def validate(self, name: str, configuration: Document) -> list[Finding]:
        """What the provider has against a configuration."""
        run = self._run(self.folder(name, configuration), "validate", "-json")
        findings = []
        for diagnostic in json.loads(run.stdout)["diagnostics"]:
            line = diagnostic.get("range", {}).get("start", {}).get("line", 0)
            if diagnostic["severity"] == "error":
                findings.append(Finding(configuration.at_line(line) or "", _words(diagnostic)))
        return findings

    def apply(self, folder: Path, endpoint: str) -> Outcome:
        """Create what the configuration has, at the AWS that answers at `endpoint`."""
        return self._changed(folder, endpoint, "apply")

    def destroy(self, folder: Path, endpoint: str) -> Outcome:
        """Remove what was applied, without reading it again first."""
        return self._changed(folder, endpoint, "destroy", "-refresh=false")

    def forget(self, folder: Path, addresses: list[str]) -> None:
        """Take resources out of the state, so that `destroy` leaves them."""
        self._checked(folder, "state", "rm", *addresses)

    def drift(self, folder: Path, endpoint: str) -> tuple[dict[str, list[str]], list[Finding]]:
        """What a second plan would change, by address, as paths of arguments; and the errors of reading."""
        run = self._run(folder, "plan", "-json", "-input=false", "-out=plan", f"-parallelism={PARALLEL}", url=endpoint)
        plan = json.loads(self._checked(folder, "show", "-json", "plan")) if run.returncode == 0 else {}
        changes = {
            one["address"]: _differences(one["change"]) or one["change"]["actions"]
            for one in plan.get("resource_changes", ())
            if one["change"]["actions"] not in (["no-op"], ["read"])
        }
        return changes, _errors(run.stdout)

    def _changed(self, folder: Path, endpoint: str, *command: str) -> Outcome:
        options = ("-json", "-auto-approve", "-input=false", f"-parallelism={PARALLEL}")
        run = self._run(folder, *command, *options, url=endpoint)
        hooks = [message for message in _messages(run.stdout) if message.get("type") == "apply_complete"]
        return Outcome({hook["hook"]["resource"]["addr"] for hook in hooks}, _errors(run.stdout))

    def _checked(self, folder: Path, *command: str) -> str:
        run = self._run(folder, *command)
        if run.returncode != 0:
            raise TerraformError(f"terraform {' '.join(command[:2])}: {run.stderr.strip() or run.stdout.strip()}")
        return run.stdout

    def _run(self, folder: Path, *command: str, url: str = "http://127.0.0.1:9") -> subprocess.CompletedProcess[str]:
        """Run terraform with credentials of no account and, unless told of an emulator, nobody's endpoint."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "TF_"))}
        environment |= {
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nobody",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": url,
            "CHECKPOINT_DISABLE": "1",
            # The provider's schema is large and lives long: collecting garbage less often saves a quarter of the time.
            "GOGC": "400",
            "TF_DATA_DIR": str(self.home / ".terraform"),
            "TF_IN_AUTOMATION": "1",
        }
        return subprocess.run(
            ["terraform", *command], cwd=folder, env=environment, text=True, capture_output=True, check=False
        )


def _messages(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def _errors(output: str) -> list[Finding]:
    found = [message["diagnostic"] for message in _messages(output) if message.get("type") == "diagnostic"]
    return [Finding(one.get("address", ""), _words(one)) for one in found if one["severity"] == "error"]


def _words(diagnostic: Mapping[str, Any]) -> str:
    return " ".join(f"{diagnostic['summary']}: {diagnostic.get('detail', '')}".split())


def _differences(change: Mapping[str, Any]) -> list[str]:
    return _paths(change["before"] or {}, change["after"] or {}, change["after_unknown"] or {}, "")


def _paths(before: Any, after: Any, unknown: Any, path: str) -> list[str]:
    """`path: before -> after` of every leaf that differs; what is computed anew is no difference."""
    if unknown is True or before == after:
        return []
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        inner = unknown if isinstance(unknown, Mapping) else {}
        return [
            one
            for key in sorted({*before, *after})
            for one in _paths(before.get(key), after.get(key), inner.get(key), f"{path}.{key}".lstrip("."))
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        computed = unknown if isinstance(unknown, list) and len(unknown) == len(before) else [None] * len(before)
        pairs = zip(before, after, computed, strict=True)
        return [one for old, new, made in pairs for one in _paths(old, new, made, path)]
    return [f"{path}: {json.dumps(before)} -> {json.dumps(after)}"]

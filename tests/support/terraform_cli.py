"""Terraform with the AWS provider that this machine has: no registry is asked, and no AWS account is known to it."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import boto3

from tests.support.terraform_document import SOURCE, Document

PLUGINS: Final = "MRGC_TF_PLUGINS"
USUAL_PLUGINS: Final = ("~/.terraform.d/plugins", "/usr/local/share/terraform/plugins", "/opt/*")
"""Where Terraform looks by itself, and where people put such things."""
PARALLEL: Final = "-parallelism=40"
"""Many resources wait on a clock of the provider's, which costs no processor."""

NOBODY: Final = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nobody"}
NOWHERE: Final = "http://127.0.0.1:9"
REGION: Final = "us-east-1"
BUCKET: Final = "terraform-state"
STATE: Final = {
    "bucket": BUCKET,
    "key": "state",
    "region": REGION,
    "use_path_style": True,
    "skip_credentials_validation": True,
    "skip_metadata_api_check": True,
    "skip_region_validation": True,
    "skip_requesting_account_id": True,
}


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
    folders = (named,) if named else USUAL_PLUGINS
    # A mirror's first level is the host that the provider is named after.
    patterns = [f"{Path(folder).expanduser()}/*/{SOURCE}" for folder in folders]
    # Path.glob takes no absolute pattern.
    found = [Path(one) for pattern in patterns for one in sorted(glob.glob(pattern))]  # noqa: PTH207
    return found[0].parents[2] if found else None


def _of_provider(found: Mapping[str, Any]) -> Any:
    """The entry of the AWS provider, whose key is its source after its host."""
    return next(value for key, value in found.items() if key.endswith(f"/{SOURCE}"))


def missing() -> str | None:
    """What this machine lacks for Terraform to run, in a sentence that says how to get it; None if it lacks nothing."""
    if shutil.which("terraform") is None:
        return "There is no terraform on PATH; with it and the AWS provider in a plugin directory, this test runs too."
    if plugin_directory() is None:
        return (
            "No plugin directory has the AWS provider; lay one out as `terraform providers mirror` does, name it in "
            f"{PLUGINS}, and this test runs too."
        )
    return None


class Terraform:
    """One installation, initialised once in `home`; every configuration gets a folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "main.tf.json").write_text(
            json.dumps({"terraform": {"required_providers": {"aws": {"source": SOURCE}}}})
        )
        checked(home, "init", f"-plugin-dir={plugin_directory()}", "-input=false", "-no-color")
        version = json.loads(checked(home, "version", "-json"))
        self.provider_version: str = _of_provider(version["provider_selections"])
        schemas = json.loads(checked(home, "providers", "schema", "-json"))
        self.schema: Mapping[str, Any] = _of_provider(schemas["provider_schemas"])

    def validate(self, name: str, configuration: Document) -> list[Finding]:
        """What the provider has against a configuration."""
        folder = self.home / name
        folder.mkdir()
        configuration.write(folder)
        for made in (".terraform", ".terraform.lock.hcl"):
            (folder / made).symlink_to(self.home / made)
        findings = []
        for diagnostic in json.loads(run(folder, "validate", "-json").stdout)["diagnostics"]:
            line = diagnostic.get("range", {}).get("start", {}).get("line", 0)
            if diagnostic["severity"] == "error":
                findings.append(Finding(configuration.at_line(line) or "", _words(diagnostic)))
        return findings


class Deployment:
    """A configuration at the AWS that answers at `endpoint`. Its state is in a bucket there.

    In a bucket because Terraform writes a state in a file anew for every resource, which takes longer than the rest.
    """

    def __init__(self, folder: Path, configuration: Document, endpoint: str) -> None:
        self.folder = folder
        self.endpoint = endpoint
        folder.mkdir()
        configuration.write(folder)
        store = boto3.client(
            "s3",
            region_name=REGION,
            endpoint_url=endpoint,
            aws_access_key_id=NOBODY["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=NOBODY["AWS_SECRET_ACCESS_KEY"],
        )
        store.create_bucket(Bucket=BUCKET)
        (folder / "backend.tf.json").write_text(json.dumps({"terraform": {"backend": {"s3": STATE}}}))
        self._checked("init", f"-plugin-dir={plugin_directory()}", "-input=false", "-no-color")

    def apply(self) -> Outcome:
        """Create what the configuration has."""
        return self._changed("apply")

    def destroy(self) -> Outcome:
        """Remove what was applied, without reading it again first."""
        return self._changed("destroy", "-refresh=false")

    def forget(self, addresses: list[str]) -> None:
        """Take resources out of the state, so that `destroy` leaves them."""
        self._checked("state", "rm", *addresses)

    def drift(self) -> tuple[dict[str, list[str]], list[Finding]]:
        """What a second plan would change, by address, as `path: before -> after`; and the errors of reading."""
        planned = self._run("plan", "-json", "-input=false", "-out=plan", PARALLEL)
        plan = json.loads(self._checked("show", "-json", "plan")) if planned.returncode == 0 else {}
        changes = {
            one["address"]: _differences(one["change"]) or one["change"]["actions"]
            for one in plan.get("resource_changes", ())
            if one["change"]["actions"] not in (["no-op"], ["read"])
        }
        return changes, _errors(planned.stdout)

    def _changed(self, *command: str) -> Outcome:
        output = self._run(*command, "-json", "-auto-approve", "-input=false", PARALLEL).stdout
        hooks = [message["hook"] for message in _messages(output) if message.get("type") == "apply_complete"]
        return Outcome({hook["resource"]["addr"] for hook in hooks}, _errors(output))

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return run(self.folder, *command, endpoint=self.endpoint)

    def _checked(self, *command: str) -> str:
        return checked(self.folder, *command, endpoint=self.endpoint)


def run(folder: Path, *command: str, endpoint: str = NOWHERE) -> subprocess.CompletedProcess[str]:
    """Run terraform in `folder` with nobody's credentials and, unless told of an emulator, nobody's endpoint."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "TF_"))}
    environment |= NOBODY | {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": endpoint,
        "CHECKPOINT_DISABLE": "1",
        # The provider's schema is large and lives long: collecting garbage less often saves a quarter of the time.
        "GOGC": "400",
        "TF_IN_AUTOMATION": "1",
    }
    return subprocess.run(
        ["terraform", *command], cwd=folder, env=environment, text=True, capture_output=True, check=False
    )


def checked(folder: Path, *command: str, endpoint: str = NOWHERE) -> str:
    """What a command prints. Raises TerraformError if it fails."""
    ended = run(folder, *command, endpoint=endpoint)
    if ended.returncode != 0:
        raise TerraformError(f"terraform {' '.join(command[:2])}: {ended.stderr.strip() or ended.stdout.strip()}")
    return ended.stdout


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

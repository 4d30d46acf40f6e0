"""`mrgc worker manifest` and `mrgc worker configuration`: what an operator publishes ahead."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from dataplane.worker.cli import UNIT, app, unit_environment
from dataplane.worker.manifest import Manifest
from dataplane.worker.modelfolder import MANIFEST_FILE
from dataplane.worker.pool import model_digest

RUN = CliRunner()


def test_manifest_writes_the_file_and_prints_the_digest(mount: Path) -> None:
    folder = mount / "models" / "tiny"
    done = RUN.invoke(app, ["manifest", str(folder)])
    assert done.exit_code == 0, done.output
    written = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    assert done.stdout.split()[0] == written.digest == model_digest(folder), "what receipts will name"


def test_manifest_of_nothing_is_a_sentence(tmp_path: Path) -> None:
    done = RUN.invoke(app, ["manifest", str(tmp_path)])
    assert (done.exit_code, "no files" in done.stderr) == (1, True), "nothing to name"
    assert RUN.invoke(app, ["manifest", str(tmp_path / "none")]).exit_code == 1, "nor where there is no folder"


def test_configuration_is_printed_with_its_digest(tmp_path: Path) -> None:
    host, worker = tmp_path / "host.env", tmp_path / "worker.env"
    host.write_text("# the host\nDEFAULT_MODEL_POOL=tiny\nTPM=none\n")
    worker.write_text("TPM=\"nitro\"\nVLLM_PLUGINS=''\n")
    arguments = ["configuration", "--engine-version", "0.32.0", "--env-file", str(host), "--env-file", str(worker)]
    done = RUN.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert shown["configuration"]["tpm"] == "nitro", "the later file counts"
    assert shown["configuration"]["version"] == "0.32.0", "of the hosts"
    assert shown["configuration"]["environment"]["VLLM_CACHE_ROOT"] == "/var/cache/mrgc-worker", "the unit's"
    assert len(bytes.fromhex(shown["digest"])) == 32, "as the image's list takes it"
    assert json.loads(RUN.invoke(app, arguments).stdout) == shown, "the same every time"


def test_a_configuration_that_makes_no_sense_exits_as_the_worker_would(tmp_path: Path) -> None:
    (tmp_path / "e").write_text("MAX_QUEUE=-1\nDEFAULT_MODEL_POOL=tiny\n")
    done = RUN.invoke(app, ["configuration", "--engine-version", "1", "--env-file", str(tmp_path / "e")])
    assert done.exit_code == 64, "a wrong configuration"
    assert "MAX_QUEUE" in done.stderr, "named"


def test_the_units_own_variables_are_read() -> None:
    assert unit_environment(UNIT.read_text(), [])["TPM"] == "nitro", "as systemd gives them"

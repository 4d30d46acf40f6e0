"""Every program with a file that its settings name and that it cannot read: one sentence, the file in it, exit code 64.

And the same for a port that somebody else has, where no test of the program itself holds it already.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from stacks.local.pki import create_ca, create_nsm_root, create_server_certificate
from tests.unit.router.harness import write_tenants

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
START_S = 60
BAD = "bad-settings-file"


@dataclass(frozen=True)
class Program:
    """A program, started as `python -m module`; `settings` are its variables, with the bad file among them."""

    module: str
    settings: Callable[[Path, str], Mapping[str, str]]
    arguments: Callable[[str], tuple[str, ...]] = lambda _: ()


def router(variable: str) -> Program:
    def settings(folder: Path, bad: str) -> Mapping[str, str]:
        certificate, key = create_server_certificate(create_ca()).save(folder, "router")
        files = {
            "TENANTS_FILE": str(write_tenants(folder / "tenants.json")),
            "TLS_CERT_FILE": str(certificate),
            "TLS_KEY_FILE": str(key),
            "HOSTS_CA_FILE": str(certificate),
            "HOSTS_CERT_FILE": str(certificate),
            "HOSTS_KEY_FILE": str(key),
        }
        return files | {variable: bad}

    return Program("dataplane.router", settings)


def parent(variable: str) -> Program:
    def settings(folder: Path, bad: str) -> Mapping[str, str]:
        certificate, key = create_server_certificate(create_ca()).save(folder, "parent")
        files = {"TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(key), "TLS_CLIENT_CA_FILE": str(certificate)}
        return files | {"REGISTRY": "none", variable: bad}

    return Program("dataplane.parent", settings)


def local_enclave(folder: Path, bad: str) -> Mapping[str, str]:
    _, key = create_nsm_root().save(folder, "nsm")
    registers = {f"PCR{number}": "10" * 48 for number in range(3)}
    return {"NSM_ROOT_FILE": bad, "NSM_ROOT_KEY_FILE": str(key), **registers}


def embedded_aws(folder: Path, bad: str) -> Mapping[str, str]:
    root, _ = create_nsm_root().save(folder, "nsm")
    spans = str(folder / "spans.jsonl")
    return {"PRINCIPALS_FILE": bad, "NSM_ROOT_FILE": str(root), "SPANS_FILE": spans, "AWS_HTTP_PORT": "1"}


PROGRAMS = {
    "router-tenants": router("TENANTS_FILE"),
    "router-certificate": router("TLS_CERT_FILE"),
    "router-hosts-authority": router("HOSTS_CA_FILE"),
    "parent-certificate": parent("TLS_CERT_FILE"),
    "parent-client-authority": parent("TLS_CLIENT_CA_FILE"),
    "enclave-root": Program("stacks.local.enclave", local_enclave),
    "aws-principals": Program("stacks.local.aws", embedded_aws),
    "accelerator": Program("stacks.local.accelerator", lambda _folder, _bad: {}, lambda bad: (bad,)),
}


def start(module: str, *arguments: str, environ: Mapping[str, str]) -> subprocess.Popen[str]:
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments], env={**clean, **environ}, stderr=subprocess.PIPE, text=True
    )


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    with process:
        try:
            _, errors = process.communicate(timeout=START_S)
        finally:
            process.kill()
    return process.returncode, errors


def make_bad(folder: Path, kind: str) -> str:
    path = folder / BAD
    if kind == "folder":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(bytes(range(256)) * 16)
    return str(path)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_file_that_can_not_be_read_is_named_and_nothing_starts(tmp_path: Path, name: str) -> None:
    program = PROGRAMS[name]
    started = []
    for kind in ("missing", "folder", "binary"):
        folder = tmp_path / kind
        folder.mkdir()
        bad = make_bad(folder, kind)
        environ = program.settings(folder, bad)
        started.append((kind, start(program.module, *program.arguments(bad), environ=environ)))
    for kind, process in started:
        code, errors = end_of(process)
        assert code == 64, f"a {kind} file is a bad configuration: {errors}"
        assert BAD in errors, f"a {kind} file is named: {errors}"
        assert "Traceback" not in errors, f"a {kind} file is a sentence"


def test_a_port_in_use_ends_the_accelerator_with_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        endpoint = {"name": "us-east-1", "port": 1, "health_url": "http://127.0.0.1:1/health"}
        group = {"region": "us-east-1", "endpoints": [endpoint]}
        path = tmp_path / "accelerator.json"
        path.write_text(json.dumps({"listen_port": port, "admin_port": 1, "groups": [group]}))
        code, errors = end_of(start("stacks.local.accelerator", str(path), environ={}))
    assert code == 1, errors
    assert f"127.0.0.1:{port}" in errors, f"the port is named: {errors}"
    assert "Traceback" not in errors, "and it is a sentence"

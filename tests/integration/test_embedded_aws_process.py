"""The embedded AWS as a process: HTTPS with the local authority, a port in use, settings that can't be used."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, SSLError

from stacks.local.aws.principals import PrincipalsFile, new_principal
from stacks.local.pki import create_ca, create_nsm_root, create_server_certificate
from stacks.local.ports import HeldPorts

PROJECT_ROOT = Path(__file__).resolve().parents[2]
ADMIN = new_principal("arn:aws:iam::111122223333:root")
ROLE = "arn:aws:iam::999900001111:role/mrgc-host"

pytestmark = pytest.mark.processes


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    ca = create_ca()
    ca.save(tmp_path, "ca")
    certificate, key = create_server_certificate(ca).save(tmp_path, "server")
    root, _ = create_nsm_root().save(tmp_path, "nsm-root")
    principals = tmp_path / "principals.json"
    PrincipalsFile(principals=(ADMIN,), role_arn=ROLE).write(principals)
    held = HeldPorts(2)
    http, https = held.numbers
    held.close()
    return {
        "AWS_HTTP_PORT": str(http),
        "AWS_HTTPS_PORT": str(https),
        "TLS_CERT_FILE": str(certificate),
        "TLS_KEY_FILE": str(key),
        "PRINCIPALS_FILE": str(principals),
        "NSM_ROOT_FILE": str(root),
        "SPANS_FILE": str(tmp_path / "spans.jsonl"),
    }


def start(environment: Mapping[str, str]) -> subprocess.Popen[str]:
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT_ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "stacks.local.aws"], env={**clean, **environment}, stderr=subprocess.PIPE, text=True
    )


def ends(environment: Mapping[str, str]) -> tuple[int, str]:
    """Start it, wait for its end, and return exit code and standard error."""
    with start(environment) as process:
        try:
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    return process.returncode, errors


@pytest.fixture
def served(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with start(environment) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", int(environment["AWS_HTTPS_PORT"])), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, process.stderr.read() if process.stderr else ""
                    assert time.monotonic() < deadline, "it does not listen"
                    time.sleep(0.05)
            yield process
        finally:
            process.kill()


def client(environment: Mapping[str, str], **more: Any) -> Any:
    session: Any = boto3.session.Session()
    return session.client(
        "kms",
        region_name="us-east-1",
        endpoint_url=f"https://127.0.0.1:{environment['AWS_HTTPS_PORT']}",
        aws_access_key_id=ADMIN.access_key_id,
        aws_secret_access_key=ADMIN.secret_access_key,
        config=Config(retries={"total_max_attempts": 1}),
        **more,
    )


def test_it_serves_https_under_the_local_authority_and_ends_at_sigterm(
    environment: dict[str, str], served: subprocess.Popen[str], tmp_path: Path
) -> None:
    kms = client(environment, verify=str(tmp_path / "ca.pem"))
    arn = kms.create_key()["KeyMetadata"]["Arn"]
    with pytest.raises(ClientError) as caught:
        kms.describe_key(KeyId=arn.replace("key/", "key/x"))
    assert caught.value.response["Error"]["Code"] == "NotFoundException"
    with pytest.raises(SSLError):
        client(environment).describe_key(KeyId=arn)
    served.send_signal(signal.SIGTERM)
    _, errors = served.communicate(timeout=15)
    assert served.returncode == 0, errors
    assert ADMIN.secret_access_key not in errors


def test_a_port_in_use_is_a_sentence(environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, errors = ends(environment | {"AWS_HTTP_PORT": str(taken.getsockname()[1])})
    assert code == 1
    assert "can't be listened on" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"PRINCIPALS_FILE": "/nowhere/principals.json"}, "PRINCIPALS_FILE /nowhere/principals.json can't be read"),
        ({"PRINCIPALS_FILE": "pyproject.toml"}, "is not a principals file"),
        ({"NSM_ROOT_FILE": "/nowhere/root.pem"}, "NSM_ROOT_FILE"),
        ({"NSM_ROOT_FILE": ""}, "NSM_ROOT_FILE is not set"),
        ({"TLS_KEY_FILE": ""}, "AWS_HTTPS_PORT needs TLS_CERT_FILE and TLS_KEY_FILE"),
        ({"AWS_HTTP_PORT": "no"}, "AWS_HTTP_PORT is 'no'"),
    ],
)
def test_settings_that_can_not_be_used_end_it_with_64(
    environment: dict[str, str], change: dict[str, str], sentence: str
) -> None:
    if change.get("PRINCIPALS_FILE") == "pyproject.toml":
        change = {"PRINCIPALS_FILE": str(PROJECT_ROOT / "pyproject.toml")}
    code, errors = ends(environment | change)
    assert code == 64
    assert sentence in errors
    assert "Traceback" not in errors

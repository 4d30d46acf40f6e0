"""The router as a process: TLS, signals, exit codes, and one sentence for what is wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stacks.local.pki import create_ca, create_server_certificate
from tests.unit.router.harness import API_KEY, write_tenants

pytestmark = pytest.mark.processes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    authority = create_ca()
    authority.save(tmp_path, "ca")
    certificate, key = create_server_certificate(authority).save(tmp_path, "router")
    return {
        "PATH": os.environ["PATH"],
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(free_port()),
        "ADMIN_PORT": str(free_port()),
        "TLS_CERT_FILE": str(certificate),
        "TLS_KEY_FILE": str(key),
        "TENANTS_FILE": str(write_tenants(tmp_path / "tenants.json")),
        "DRAIN_DELAY_S": "0.1",
        "DRAIN_TIMEOUT_S": "5",
        # Nobody answers there: the router must come up all the same, and say that it has no hosts.
        "AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
    }


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def start(environment: dict[str, str], processes: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "dataplane.router"], env=environment, stderr=subprocess.PIPE, text=True
    )
    processes.append(process)
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def get(url: str, tls: ssl.SSLContext | None = None, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(url, headers={k.replace("_", "-"): v for k, v in headers.items()})  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, context=tls, timeout=5) as answer:  # noqa: S310 - loopback
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def wait_until_up(url: str, process: subprocess.Popen[str], tls: ssl.SSLContext | None = None) -> tuple[int, Any]:
    deadline = time.monotonic() + 30
    while True:
        try:
            return get(url, tls)
        except OSError:
            assert process.poll() is None, f"the router ended: {process.communicate()[1]}"
            assert time.monotonic() < deadline, "the router did not come up within 30 s"
            time.sleep(0.05)


def test_a_router_serves_over_tls_reloads_tenants_and_leaves_in_order(
    tmp_path: Path, environment: dict[str, str], processes: list[subprocess.Popen[str]]
) -> None:
    process = start(environment, processes)
    base = f"https://127.0.0.1:{environment['HTTP_PORT']}"
    admin = f"http://127.0.0.1:{environment['ADMIN_PORT']}"
    tls = ssl.create_default_context(cafile=str(next(tmp_path.glob("ca*.pem"))))
    status, page = wait_until_up(base + "/health", process, tls)
    assert (status, page["ready"], page["status"]) == (503, False, "starting"), "without a registry it is not ready"
    assert get(admin + "/health")[0] == 503, "the admin listener says the same, without TLS"
    status, page = get(base + "/models", tls, Authorization=f"Bearer {API_KEY}", X_Tenant_ID="tenant-a")
    assert (status, page) == (200, {"models": []}), "the tenant is known"
    write_tenants(Path(environment["TENANTS_FILE"]), id="tenant-z")
    process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while get(base + "/models", tls, Authorization=f"Bearer {API_KEY}", X_Tenant_ID="tenant-z")[0] != 200:
        assert time.monotonic() < deadline, "SIGHUP did not bring the new tenants into force"
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, errors = finish(process)
    assert code == 0, errors
    assert "draining" in errors, "it says that it leaves"
    assert API_KEY not in errors, "no key is in any log"
    assert "the registry can't be read" in errors, "and why it had no hosts"


def test_a_port_in_use_is_one_sentence_and_exit_code_1(
    environment: dict[str, str], processes: list[subprocess.Popen[str]]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(environment["HTTP_PORT"])))
        taken.listen()
        code, errors = finish(start(environment, processes))
    assert code == 1, errors
    assert f"can't listen on 127.0.0.1:{environment['HTTP_PORT']} (it is in use)" in errors, "the port is named"
    assert "Traceback" not in errors, "and nothing but the sentence"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"TENANTS_FILE": "/nowhere/tenants.json"}, "TENANTS_FILE is '/nowhere/tenants.json'"),
        ({"TENANTS_FILE": ""}, "TENANTS_FILE is not set"),
        ({"HTTP_PORT": "eighty"}, "HTTP_PORT is 'eighty'"),
        ({"TLS_KEY_FILE": ""}, "TLS_CERT_FILE and TLS_KEY_FILE come together"),
        ({"TLS_CERT_FILE": "/nowhere.pem"}, "/nowhere.pem cannot be read"),
        ({"TLS_CERT_FILE": "", "TLS_KEY_FILE": "", "HTTP_HOST": "0.0.0.0"}, "would cross the network in clear"),
        ({"HOSTS_CA_FILE": "/ca.pem"}, "HOSTS_CA_FILE, HOSTS_CERT_FILE and HOSTS_KEY_FILE come together"),
        (
            {"HOSTS_CA_FILE": "/nowhere.pem", "HOSTS_CERT_FILE": "/nowhere.pem", "HOSTS_KEY_FILE": "/nowhere.pem"},
            "/nowhere.pem cannot be read",
        ),
        ({"DRAIN_DELAY_S": "5"}, "DRAIN_DELAY_S must be less than DRAIN_TIMEOUT_S"),
    ],
)
def test_bad_configuration_is_exit_code_64_and_names_the_variable(
    environment: dict[str, str], processes: list[subprocess.Popen[str]], changes: dict[str, str], words: str
) -> None:
    code, errors = finish(start({**environment, **changes}, processes))
    assert code == 64, errors
    assert words in errors, "the sentence names the variable"
    assert "Traceback" not in errors, "and nothing but the sentence"

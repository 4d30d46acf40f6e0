"""The local stack as a person uses it: `mrgc local up`, `status`, `down`, and what happens when things go wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stacks.local.procfs import marked

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

MRGC = str(Path(sys.executable).with_name("mrgc"))
START_S = 120


def mrgc(*arguments: str, timeout: float = START_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MRGC, *arguments], capture_output=True, text=True, check=False, timeout=timeout)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def small(directory: Path, port: int) -> list[str]:
    shape = ["--regions", "2", "--hosts", "1", "--engine", "synthetic"]
    return ["local", "up", *shape, "--port", str(port), "--dir", str(directory)]


def wait_until(condition: Callable[[], bool], what: str, *, within_s: float = 30) -> None:
    limit = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < limit, f"waited {within_s} s until {what}"
        time.sleep(0.05)


def state(directory: Path) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        document: dict[str, Any] = json.loads((directory / "state.json").read_text())
        return document
    return {}


def log_of(directory: Path) -> str:
    return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted((directory / "logs").glob("*.log")))


class Running:
    """A detached cluster of two regions, one host each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        done = mrgc(*small(directory, self.port), "--detach")
        assert done.returncode == 0, f"up failed: {done.stderr}\n{log_of(directory)}"
        self.cluster: dict[str, Any] = json.loads((directory / "cluster.json").read_text())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("cluster")
    try:
        yield Running(directory)
    finally:
        mrgc("local", "down", "--dir", str(directory))
        cluster = state(directory).get("cluster")
        assert not cluster or marked(cluster) == [], "down leaves nothing of the cluster"


def status(running: Running) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(mrgc("local", "status", "--json", "--dir", str(running.directory)).stdout)
    return document


def test_cluster_json_holds_what_a_client_needs_and_is_private(running: Running) -> None:
    cluster, path = running.cluster, running.directory / "cluster.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "it holds API keys"
    expected = {"endpoint", "ca_file", "aws_endpoint_url", "otlp_endpoint", "spans_file", "console", "regions"}
    expected |= {"model", "tenants", "attestation_root", "pcrs"}
    assert expected <= cluster.keys(), f"missing: {expected - cluster.keys()}"
    assert cluster["endpoint"] == f"https://127.0.0.1:{running.port}"
    assert list(cluster["regions"]) == ["us-east-1", "us-east-2"]
    for region in cluster["regions"].values():
        assert region["router"].startswith("https://127.0.0.1:")
        for host in region["hosts"]:
            assert set(host["pids"]) == {"parent", "proxy", "enclave", "worker"}
            for pid in host["pids"].values():
                os.kill(pid, 0)  # It runs, or this raises.
    tenants = {tenant["id"]: tenant for tenant in cluster["tenants"]}
    assert set(tenants) == {"tenant-a", "tenant-b"}
    assert tenants["tenant-a"]["region"] == "us-east-1"
    assert ":key/mrk-" in tenants["tenant-a"]["kms_key_arn"], "multi-region, so every region can decrypt"
    assert {number: len(value) for number, value in cluster["pcrs"].items()} == {"0": 96, "1": 96, "2": 96}


def test_status_says_that_all_is_well(running: Running) -> None:
    document = status(running)
    assert document["healthy"], f"everything runs: {document}"
    assert {process["state"] for process in document["processes"]} == {"running"}


def test_both_tenants_are_answered_through_the_endpoint(running: Running) -> None:
    for tenant in ("tenant-a", "tenant-b"):
        arguments = ["--cluster", str(running.directory / "cluster.json"), "--tenant", tenant, "--max-tokens", "8"]
        done = mrgc("tenant", "ask", "Where are you?", *arguments)
        assert done.returncode == 0, f"{tenant} got no answer: {done.stderr}"
        assert done.stdout.strip(), "tokens came"
        assert "us-east-1" in done.stderr, "from the region nearest to this client"
        assert "synthetic" in done.stderr, "which says that it is synthetic"


def test_a_receipt_of_the_local_stack_holds_and_says_that_it_is_software(running: Running, tmp_path: Path) -> None:
    file = str(tmp_path / "receipt.json")
    arguments = ["--cluster", str(running.directory / "cluster.json"), "--max-tokens", "4"]
    done = mrgc("tenant", "ask", "Where are you?", *arguments, "--receipt", file, "--disclose")
    assert done.returncode == 0, done.stderr
    root = str(running.directory / running.cluster["attestation_root"])
    judged = mrgc("tenant", "receipt", "verify", file, "--root", root, "--json")
    assert judged.returncode == 0, judged.stdout + judged.stderr
    verdict = json.loads(judged.stdout)
    assert (verdict["holds"], verdict["assurance"]) == (True, 0), "the whole way works, and proves nothing of hardware"
    assert any("software security module" in sentence for sentence in verdict["not_proved"]), "which is said"
    assert mrgc("tenant", "receipt", "verify", file).returncode == 1, "it is not AWS's"


def test_its_own_measurement_log_is_read_over_http_and_called_mock(running: Running) -> None:
    log = running.cluster["log"]
    done = mrgc("tenant", "attest", "--cluster", str(running.directory / "cluster.json"), "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["log"]
    assert (facts["name"], facts["index"], facts["assurance"]) == ("mrgc.local/log", 0, "mock"), "the enclave is logged"
    done = mrgc("log", "verify", log["url"], "--key", log["key"], "--json")
    assert (done.returncode, json.loads(done.stdout)["size"]) == (0, 2), "the enclave and the model"


def test_a_second_up_says_what_is_in_the_way(running: Running, tmp_path: Path) -> None:
    supervisor = status(running)["supervisor"]
    same_directory = mrgc(*small(running.directory, free_port()))
    assert same_directory.returncode == 1, "it does not start"
    assert str(supervisor) in same_directory.stderr, "the supervisor's pid is named"
    assert str(running.directory) in same_directory.stderr, "and the directory"
    same_port = mrgc(*small(tmp_path, running.port))
    assert same_port.returncode == 1, "it does not start"
    assert f"Port {running.port} on 127.0.0.1 is taken by pid" in same_port.stderr, "the port and its holder are named"
    assert status(running)["healthy"], "and the first one runs on"


def test_two_clusters_live_side_by_side(running: Running, tmp_path: Path) -> None:
    try:
        other = Running(tmp_path)
        assert other.cluster["aws_endpoint_url"] != running.cluster["aws_endpoint_url"], "no port is shared"
    finally:
        down = mrgc("local", "down", "--dir", str(tmp_path))
    assert down.returncode == 0, down.stderr
    assert status(running)["healthy"], "taking one down leaves the other alone"


def test_a_killed_process_is_reported_with_its_end_and_its_log(running: Running) -> None:
    victim = running.cluster["regions"]["us-east-2"]["hosts"][0]["pids"]["worker"]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not status(running)["healthy"], "status notices")
    done = mrgc("local", "status", "--dir", str(running.directory))
    assert done.returncode == 1, "a script sees it in the exit code"
    assert "1 ended unasked" in done.stdout
    assert "crashed (SIGKILL)" in done.stdout, "how it ended"
    assert "worker-use2-0" in done.stdout, "which it was"
    crashed = [process for process in status(running)["processes"] if process["state"] == "crashed"]
    assert [process["pid"] for process in crashed] == [victim], "and no other"
    assert crashed[0]["tail"], "its last log lines are given"


def test_ctrl_c_takes_a_foreground_cluster_down(tmp_path: Path) -> None:
    process = subprocess.Popen([MRGC, *small(tmp_path, free_port())], stderr=subprocess.PIPE, text=True)
    try:
        wait_until((tmp_path / "cluster.json").exists, "the cluster is ready", within_s=START_S)
        cluster = state(tmp_path)["cluster"]
        assert len(marked(cluster)) >= 13, "two hosts of four, two routers, aws, accelerator, console"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, f"stopping is how a foreground cluster ends: {errors}"
    assert marked(cluster) == [], "no orphan is left"
    assert not (tmp_path / "cluster.json").exists(), "and no file that promises a cluster"


@pytest.mark.parametrize("who", ["command", "supervisor"])
def test_a_kill_that_nobody_can_catch_leaves_no_orphan(tmp_path: Path, who: str) -> None:
    process = subprocess.Popen([MRGC, *small(tmp_path, free_port())], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(state(tmp_path).get("processes", [])) >= 6, "half of it is up", within_s=START_S)
        document = state(tmp_path)
        pid = process.pid if who == "command" else document["supervisor"]["pid"]
        os.kill(pid, signal.SIGKILL)
        process.wait(60)
        wait_until(lambda: marked(document["cluster"]) == [], "every process is gone")
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: start_is_free(document["supervisor"]["pid"]), "the supervisor is gone")
    again = mrgc("local", "down", "--dir", str(tmp_path))
    assert (again.returncode, "No cluster is running" in again.stderr) == (0, True), "down has nothing to do"


def start_is_free(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_process_that_dies_while_coming_up_fails_up_with_its_name(tmp_path: Path) -> None:
    process = subprocess.Popen([MRGC, *small(tmp_path, free_port()), "--detach"], stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: len(state(tmp_path).get("processes", [])) >= 3, "some of it is up", within_s=START_S)
        document = state(tmp_path)
        proxy = next(each for each in document["processes"] if each["role"] == "proxy")
        os.kill(proxy["pid"], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1, "it must not claim to be up"
    assert f"{proxy['name']} ended with SIGKILL while the cluster came up" in errors, errors
    assert marked(document["cluster"]) == [], "and what had started is taken down"


def test_files_that_cannot_be_made_fail_up_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "fsx").write_text("a file where the model store should be")
    done = mrgc(*small(tmp_path, free_port()), "--detach")
    assert done.returncode == 1, "it must not claim to be up"
    assert f"{tmp_path}/fsx" in done.stderr, f"the sentence leads to the cause: {done.stderr}"
    assert "Traceback" not in done.stderr, "and it is a sentence"
    assert marked(state(tmp_path).get("cluster", "none")) == [], "and nothing is left running"

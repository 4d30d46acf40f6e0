"""A local stack of one region and one host with the synthetic engine, shared by the tests that only look."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dataplane.tenant.config import TenantConfig, load_cluster

MRGC = (str(Path(sys.executable).with_name("mrgc")),)
UP_TIMEOUT_S = 120


@dataclass(frozen=True)
class LocalCluster:
    """A running local stack: its folder, its `cluster.json`, and how a tenant reaches it."""

    folder: Path
    document: dict[str, Any]

    def tenant(self, name: str = "tenant-a") -> TenantConfig:
        return load_cluster(self.folder / "cluster.json", name)

    @property
    def region(self) -> dict[str, Any]:
        (region,) = self.document["regions"].values()
        assert isinstance(region, dict), "one region"
        return region

    @property
    def host(self) -> dict[str, Any]:
        host = self.region["hosts"][0]
        assert isinstance(host, dict), "one host"
        return host

    def spans(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in Path(self.document["spans_file"]).read_text().splitlines()]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    # A short folder: the path of a Unix socket has 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="mrgc-"))
    up = [*MRGC, "local", "up", "--detach", "--engine", "synthetic", "--regions", "1", "--hosts", "1"]
    up += ["--port", str(free_port()), "--dir", str(folder)]
    try:
        done = subprocess.run(up, capture_output=True, text=True, timeout=UP_TIMEOUT_S, check=False)
        assert done.returncode == 0, f"mrgc local up failed:\n{done.stdout}\n{done.stderr}"
        yield LocalCluster(folder, json.loads((folder / "cluster.json").read_text()))
    finally:
        subprocess.run([*MRGC, "local", "down", "--dir", str(folder)], check=False, timeout=60, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)

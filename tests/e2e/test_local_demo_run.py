"""`mrgc local demo` as `make demo` runs it, with the synthetic engine: every claim must hold."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stacks.local.procfs import marked

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

MRGC = str(Path(sys.executable).with_name("mrgc"))


def test_the_demo_holds_what_it_claims_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    arguments = ["--engine", "synthetic", "--regions", "2", "--hosts", "1", "--port", port, "--dir", str(tmp_path)]
    done = subprocess.run(
        [MRGC, "local", "demo", "--json", *arguments], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.stdout, f"a summary is printed, whatever happened: {done.stderr}"
    summary = json.loads(done.stdout)
    broken = [claim for claim in summary["claims"] if not claim["held"]]
    assert not broken, f"every claim holds:\n{done.stderr}"
    assert len(summary["claims"]) == 12, "and every claim was made"
    assert (done.returncode, summary["held"]) == (0, True), "the exit code says so"
    outage = summary["outage"]
    assert outage["killed_processes"] == 9, "one router, one host of four, and the tampered host of four"
    assert outage["failed"] == 0, "no request was lost"
    assert outage["retried"] > 0, "the kill was felt: requests in flight were sent again"
    assert outage["by_region"].keys() == {"us-east-1", "us-east-2"}, "both regions answered"
    state = json.loads((tmp_path / "state.json").read_text())
    assert marked(state["cluster"]) == [], "nothing is left running"

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


def demo(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    arguments = ["--engine", "synthetic", "--regions", "2", "--hosts", "1", "--port", port, "--dir", str(folder)]
    return subprocess.run(
        [MRGC, "local", "demo", "--json", *arguments, *more], capture_output=True, text=True, check=False, timeout=240
    )


def test_the_demo_holds_what_it_claims_and_leaves_nothing(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.stdout, f"a summary is printed, whatever happened: {done.stderr}"
    summary = json.loads(done.stdout)
    broken = [claim for claim in summary["claims"] if not claim["held"]]
    assert not broken, f"every claim holds:\n{done.stderr}"
    assert len(summary["claims"]) == 12, "and every claim was made"
    assert [claim["number"] for claim in summary["claims"]] == list(range(1, 13))
    times = [claim["seconds"] for claim in summary["claims"]]
    assert times == sorted(times), "each was made when it says"
    assert 0 < times[0] <= times[-1] <= summary["seconds"]
    assert all(claim["rests_on"] for claim in summary["claims"]), "and each says what it rests on"
    assert (done.returncode, summary["held"]) == (0, True), "the exit code says so"
    outage = summary["outage"]
    assert outage["killed_processes"] == 9, "one router, one host of four, and the tampered host of four"
    assert outage["failed"] == 0, "no request was lost"
    assert outage["retried"] > 0, "the kill was felt: requests in flight were sent again"
    assert outage["by_region"].keys() == {"us-east-1", "us-east-2"}, "both regions answered"
    state = json.loads((tmp_path / "state.json").read_text())
    assert marked(state["cluster"]) == [], "nothing is left running"


def test_a_demo_that_is_kept_leaves_what_survives_running_and_says_how_to_use_and_stop_it(tmp_path: Path) -> None:
    try:
        done = demo(tmp_path, "--keep")
        assert done.stdout, f"a summary is printed, whatever happened: {done.stderr}"
        summary = json.loads(done.stdout)
        assert (done.returncode, len(summary["claims"])) == (0, 11), f"all but the last: nothing is left\n{done.stderr}"
        cluster = tmp_path / "cluster.json"
        for hint in (f"tenant ask --cluster {cluster}", "tenant proxy", "console  http://", f"down --dir {tmp_path}"):
            assert hint in done.stderr.split("is left running")[1], hint
        asked = subprocess.run(
            [MRGC, "tenant", "ask", "--cluster", str(cluster), "Still there?"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert asked.returncode == 0, asked.stderr
        assert "us-east-2" in asked.stderr, "the region that was not killed answers"
    finally:
        down = subprocess.run(
            [MRGC, "local", "down", "--dir", str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
        )
    assert down.returncode == 0, down.stderr
    state = json.loads((tmp_path / "state.json").read_text())
    assert marked(state["cluster"]) == [], "and stopping it leaves nothing"

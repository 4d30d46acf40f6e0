"""The supervisor with tiny children: crashes are told, nothing outlives it, and it kills nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from stacks.local.procfs import MARKER, is_alive, marked, start_ticks, sweep
from stacks.local.supervisor import (
    LEASH,
    Child,
    ProcessSpec,
    Supervisor,
    SupervisorError,
    describe_exit,
    log_tail,
)

ROOT = Path(__file__).parents[3]


def spec(tmp_path: Path, name: str, code: str) -> ProcessSpec:
    return ProcessSpec(name=name, argv=(sys.executable, "-S", "-c", code), log=tmp_path / f"{name}.log")


async def until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - another process's state has no event
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"waited 10 s until {what}")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit, f"waited 10 s until {what}"
        time.sleep(0.02)


SLEEP = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PARENT = (
    f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {SLEEP!r}]); import time; time.sleep(60)"
)


async def test_a_crash_is_told_with_its_code_and_log(tmp_path: Path) -> None:
    told: list[Child] = []
    supervisor = Supervisor(cluster=uuid4().hex, on_exit=told.append)
    await supervisor.start(spec(tmp_path, "fine", SLEEP))
    child = await supervisor.start(spec(tmp_path, "broken", "print('no such model'); raise SystemExit(3)"))
    await until(lambda: bool(told), "the crash was told")
    assert told == [child], "one crash, told once; the other child runs on"
    assert (child.state, child.exit_code) == ("crashed", 3)
    assert log_tail(child.spec.log) == ["no such model"], "the log says why"
    await supervisor.close([], grace_s=2)
    assert told == [child], "what was asked to stop did not crash"
    assert supervisor.children["fine"].state == "stopped"


async def test_close_ends_the_stubborn_too_and_their_children(tmp_path: Path) -> None:
    supervisor = Supervisor(cluster=uuid4().hex, on_exit=lambda _: None)
    await supervisor.open()
    await supervisor.start(spec(tmp_path, "stubborn", STUBBORN))
    await supervisor.start(spec(tmp_path, "parent", PARENT))
    await until(lambda: len(marked(supervisor.cluster)) == 3, "both and the grandchild run")
    await until(lambda: log_tail(tmp_path / "stubborn.log") == ["up"], "the stubborn one ignores SIGTERM")
    await supervisor.close([["stubborn"]], grace_s=0.2)
    assert supervisor.children["stubborn"].exit_code == -signal.SIGKILL, "it ignored SIGTERM"
    assert marked(supervisor.cluster) == [], "nothing carries the marker any more"


async def test_what_a_killed_child_started_goes_with_it(tmp_path: Path) -> None:
    told: list[Child] = []
    supervisor = Supervisor(cluster=uuid4().hex, on_exit=told.append)
    parent = await supervisor.start(spec(tmp_path, "parent", PARENT))
    await supervisor.start(spec(tmp_path, "other", SLEEP))
    await until(lambda: len(marked(supervisor.cluster)) == 3, "all run")
    os.kill(parent.pid, signal.SIGKILL)
    await until(lambda: bool(told), "its death was told")
    assert len(marked(supervisor.cluster)) == 1, "the grandchild went too, the other stayed"
    await supervisor.close([], grace_s=2)


async def test_a_name_is_used_once_and_nothing_starts_while_stopping(tmp_path: Path) -> None:
    supervisor = Supervisor(cluster=uuid4().hex, on_exit=lambda _: None)
    await supervisor.start(spec(tmp_path, "a", SLEEP))
    with pytest.raises(SupervisorError, match="one of that name"):
        await supervisor.start(spec(tmp_path, "a", SLEEP))
    await supervisor.close([], grace_s=2)
    with pytest.raises(SupervisorError, match="stopping"):
        await supervisor.start(spec(tmp_path, "b", SLEEP))


ORCHESTRATOR = """
import asyncio, json, sys
from pathlib import Path
from stacks.local.supervisor import ProcessSpec, Supervisor

async def main(cluster, log, code):
    supervisor = Supervisor(cluster=cluster, on_exit=lambda child: None)
    await supervisor.open()
    await supervisor.start(ProcessSpec(name="parent", argv=(sys.executable, "-S", "-c", code), log=Path(log)))
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_killed_orchestrator_leaves_no_orphan(tmp_path: Path) -> None:
    cluster = uuid4().hex
    orchestrator = subprocess.Popen(
        [sys.executable, "-c", ORCHESTRATOR, cluster, str(tmp_path / "log"), PARENT], cwd=ROOT
    )
    try:
        wait_until(lambda: len(marked(cluster)) == 2, "child and grandchild run")
    finally:
        orchestrator.kill()
        orchestrator.wait()
    wait_until(lambda: marked(cluster) == [], "leash and guard ended both")


def test_the_leash_starts_nothing_for_a_parent_that_is_gone() -> None:
    argv = [sys.executable, "-I", "-S", str(LEASH), "9", "1", sys.executable, "-c", "print('started')"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (0, ""), "pid 1 is not its parent, so its parent must have died"


def test_the_leash_names_a_program_that_is_missing() -> None:
    argv = [sys.executable, "-I", "-S", str(LEASH), "9", str(os.getpid()), "/no/such/program"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 127, "as a shell says it"
    assert "/no/such/program could not be started: No such file" in done.stderr


def test_a_sweep_takes_the_marked_and_nobody_else() -> None:
    cluster = uuid4().hex
    ours = subprocess.Popen(
        [sys.executable, "-S", "-c", SLEEP], env={MARKER: f"{cluster}/a"}, stdout=subprocess.DEVNULL
    )
    other = subprocess.Popen(
        [sys.executable, "-S", "-c", SLEEP], env={MARKER: f"{cluster}x/a"}, stdout=subprocess.DEVNULL
    )
    try:
        ticks = start_ticks(ours.pid)
        assert ticks is not None, "a running process has a start time"
        wait_until(lambda: marked(cluster) == [ours.pid], "the marker shows")
        assert sweep(cluster, "b") == [], "another process's name matches nothing"
        assert sweep(cluster) == [ours.pid]
        assert ours.wait() == -signal.SIGKILL
        assert not is_alive(ours.pid, ticks), "gone"
        assert other.poll() is None, "a marker that merely begins alike is another cluster's"
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()


def test_an_exit_is_described_in_words() -> None:
    words = [describe_exit(code) for code in (None, 0, 3, -9, -200)]
    assert words == ["still running", "exit code 0", "exit code 3", "SIGKILL", "exit code -200"], json.dumps(words)

"""Events, files and status of a local cluster, without starting one."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from rich.console import Console

from dataplane.protocol.errors import MrgcError
from stacks.local.events import EventLog, EventReader
from stacks.local.files import read_json, write_json
from stacks.local.launch import clean_environment, in_the_way
from stacks.local.options import ClusterOptions
from stacks.local.ports import HeldPorts, PortError, holder, is_free
from stacks.local.procfs import start_ticks
from stacks.local.report import Reporter
from stacks.local.status import ClusterStatus, read_status, summarize, take_down


def write_state(root: Path, *, supervisor: tuple[int, int | None], processes: list[dict[str, object]]) -> None:
    write_json(
        root / "state.json",
        {
            "cluster": uuid4().hex,
            "supervisor": {"pid": supervisor[0], "ticks": supervisor[1]},
            "began": 0.0,
            "ready": True,
            "error": None,
            "endpoint": "https://127.0.0.1:8443",
            "options": {},
            "processes": processes,
        },
    )


def process(name: str, pid: int, ticks: int, state: str = "running", code: int | None = None) -> dict[str, object]:
    return {
        "name": name,
        "role": name,
        "region": "",
        "host": "",
        "pid": pid,
        "ticks": ticks,
        "state": state,
        "exit_code": code,
        "log": f"/nowhere/{name}.log",
    }


def alive() -> tuple[int, int]:
    ticks = start_ticks(os.getpid())
    assert ticks is not None, "this process runs"
    return os.getpid(), ticks


def test_events_are_read_once_and_half_a_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    assert reader.read() == [], "no file yet, no events"
    with EventLog(path) as log:
        with log.stage("hosts", "engines", total=2) as step:
            step()
        assert [event["kind"] for event in reader.read()] == ["stage", "progress", "done"]
        with path.open("a") as file:
            file.write('{"kind": "rea')
        assert reader.read() == [], "half a line is no event"
        with path.open("a") as file:
            file.write('dy"}\n')
        assert reader.read() == [{"kind": "ready"}], "until its other half comes"


def test_a_failed_stage_is_not_called_done(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log, pytest.raises(MrgcError), log.stage("hosts", "engines"):
        raise MrgcError("no")
    assert [event["kind"] for event in EventReader(path).read()] == ["stage"]


def test_files_with_secrets_are_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    write_json(path, {"api_key": "x"})
    assert path.stat().st_mode & 0o777 == 0o600, "only its owner reads it"
    with pytest.raises(TypeError):
        write_json(path, {"api_key": object()})
    assert read_json(path) == {"api_key": "x"}, "a failed write leaves the old file"
    assert [each.name for each in tmp_path.iterdir()] == ["cluster.json"], "and no other"
    path.write_text("[1]")
    with pytest.raises(MrgcError, match="no JSON object"):
        read_json(path)


def test_a_process_that_ended_is_crashed_or_lost_but_never_running(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-S", "-c", ""])
    dead.wait()
    pid, ticks = alive()
    entries = [process("here", pid, ticks), process("gone", dead.pid, 1), process("bad", 1, 1, "crashed", 3)]
    write_state(tmp_path, supervisor=(pid, ticks), processes=entries)
    status = read_status(tmp_path)
    assert status is not None, "there is a state file"
    assert [(each.name, each.state) for each in status.processes] == [
        ("here", "running"),
        ("gone", "crashed"),
        ("bad", "crashed"),
    ], "whatever the file says, a dead pid does not run"
    assert not status.healthy, "with two crashes"
    assert "1 of 3 processes run, 2 ended unasked" in summarize(status)
    write_state(tmp_path, supervisor=(dead.pid, 1), processes=entries)
    status = read_status(tmp_path)
    assert status is not None, "still there"
    assert (status.running, status.ready) == (False, False), "without a supervisor nothing counts as running"
    assert [each.state for each in status.processes] == ["running", "lost", "crashed"]


def test_a_reused_pid_is_not_taken_for_the_process(tmp_path: Path) -> None:
    pid, ticks = alive()
    write_state(tmp_path, supervisor=(pid, ticks + 1), processes=[])
    status = read_status(tmp_path)
    assert status is not None, "there is a state file"
    assert not status.running, "this process has the pid, but started at another time"
    assert take_down(tmp_path, timeout_s=1) == [], "so it is not killed either, or this test would not end"


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        sentence = in_the_way(ClusterOptions(directory=tmp_path, port=port)) or ""
        assert f"Port {port}" in sentence, "which port"
        assert f"pid {os.getpid()}" in sentence, "and whose"
        assert holder(port).startswith(f"pid {os.getpid()}")
    assert in_the_way(ClusterOptions(directory=tmp_path, port=port)) is None, "gone, nothing is in the way"
    write_state(tmp_path, supervisor=alive(), processes=[])
    sentence = in_the_way(ClusterOptions(directory=tmp_path, port=port)) or ""
    assert f"supervisor pid {os.getpid()}" in sentence, "a running cluster is named by its pid"
    assert str(tmp_path) in sentence, "and its directory"


def test_held_ports_are_ours_until_a_listener_takes_them() -> None:
    with pytest.raises(PortError, match="Only"):
        HeldPorts(3, first=31_998 + 1)
    held = HeldPorts(2, first=28_000)
    other = HeldPorts(2, first=28_000)
    try:
        assert set(held.numbers).isdisjoint(other.numbers), "two clusters never hold the same port"
        with socket.create_server(("127.0.0.1", held.numbers[0])):
            assert not is_free(held.numbers[0]), "a listener that shares addresses, as ours do, gets it"
    finally:
        held.close()
        other.close()


def test_nothing_of_the_shell_leads_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "HTTPS_PROXY", "OTEL_EXPORTER_OTLP_ENDPOINT", "MRGC_API_KEY"):
        monkeypatch.setenv(name, "secret")
    environment = clean_environment()
    assert "secret" not in environment.values(), "a real account's credentials never reach a local process"
    assert environment["AWS_CONFIG_FILE"] == "/dev/null"


def test_a_crash_is_shown_with_its_log_as_plain_text() -> None:
    console = Console(file=io.StringIO(), width=40)
    reporter = Reporter(console)
    reporter.show({"kind": "stage", "name": "hosts", "detail": "engines", "total": 1, "t": 0})
    reporter.show({"kind": "progress", "name": "hosts", "done": 1, "total": 1, "t": 1.0})
    reporter.show({"kind": "done", "name": "hosts", "seconds": 1.5, "t": 1.5})
    crash = {"kind": "crash", "name": "worker-use1-0", "pid": 7, "how": "SIGKILL", "tail": ["[bold]why[/bold]"], "t": 2}
    reporter.show(crash)
    reporter.close()
    output = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO, given above
    assert "hosts 1/1" in output, "without a terminal each step is a line"
    assert "worker-use1-0 (pid 7): SIGKILL" in output
    assert "[bold]why[/bold]" in output, "a log's brackets are not markup"
    assert "\x1b" not in output, "no control characters in a file"


def test_status_is_json_all_the_way(tmp_path: Path) -> None:
    write_state(tmp_path, supervisor=alive(), processes=[process("gone", 2**22 - 1, 1)])
    status = read_status(tmp_path)
    assert isinstance(status, ClusterStatus), "there is a state file"
    document = json.loads(json.dumps(status.as_json()))
    assert document["healthy"] is False, "a script sees the crash"
    assert document["processes"][0]["state"] == "crashed"

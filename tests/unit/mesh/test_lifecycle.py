from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dataplane.mesh import lifecycle
from dataplane.mesh.lifecycle import Stop, supervise
from dataplane.mesh.logs import JsonFormatter
from dataplane.mesh.settings import SidecarSettings, load_settings
from dataplane.protocol.errors import MrgcError

PROGRAM = """
from dataplane.mesh.lifecycle import Stop, run_sidecar
from dataplane.mesh.settings import SidecarSettings
from dataplane.protocol.errors import MrgcError, SettingsError
class Failing(MrgcError): pass
async def main(settings: SidecarSettings, stop: Stop) -> None:
    {body}
run_sidecar(SidecarSettings, main, service="probe")
"""


def run(body: str, **environ: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(body=body)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[3])} | environ
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_bad_configuration_exits_64_before_anything_runs() -> None:
    done = run("print('ran')", LOG_LEVEL="LOUD")
    assert done.returncode == 64, done.stderr
    assert "LOG_LEVEL is 'LOUD'; expected one of" in done.stderr, "the sentence names variable, value, expectation"
    assert done.stdout == "", "nothing ran"


def test_a_file_that_configuration_names_and_is_unusable_also_exits_64() -> None:
    done = run("raise SettingsError('TENANTS_FILE is /x; expected a readable file')")
    assert done.returncode == 64, done.stderr
    assert "Traceback" not in done.stderr, "a person gets a sentence"


def test_a_known_failure_exits_1_with_one_sentence() -> None:
    done = run("raise Failing('The port is taken.')")
    assert (done.returncode, done.stderr) == (1, "mrgc probe: The port is taken.\n"), "one sentence, no traceback"


def test_a_signal_that_comes_while_the_process_ends_does_not_make_an_orderly_end_a_death() -> None:
    done = run("""import asyncio, os, signal, time
    def late():
        while signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN): time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)
    asyncio.get_running_loop().run_in_executor(None, late)""")
    assert done.returncode == 0, "main has ended, and only its threads are waited for"


async def test_a_signal_asks_the_sidecar_to_stop_and_it_drains() -> None:
    drained = asyncio.Event()

    async def main(_settings: SidecarSettings, stop: Stop) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        drained.set()

    await asyncio.wait_for(supervise(main, load_settings(SidecarSettings, {})), 5)
    assert drained.is_set(), "main ran to its own end"


async def test_a_drain_that_never_ends_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "DRAIN_MARGIN_S", 0.01)
    cancelled = asyncio.Event()

    async def main(_settings: SidecarSettings, stop: Stop) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    await asyncio.wait_for(supervise(main, load_settings(SidecarSettings, {"DRAIN_TIMEOUT_S": "0.01"})), 5)
    assert cancelled.is_set(), "the drain is bounded"


async def test_a_second_signal_ends_the_drain_at_once() -> None:
    async def main(_settings: SidecarSettings, stop: Stop) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    await asyncio.wait_for(supervise(main, load_settings(SidecarSettings, {"DRAIN_TIMEOUT_S": "500"})), 5)


def test_a_log_line_is_one_json_object_with_its_extras() -> None:
    record = logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": "two\nlines", "request_id": "r1"})
    line = JsonFormatter(service="router").format(record)
    assert "\n" not in line, "a log line is one line"
    assert json.loads(line) | {"ts": 0} == {
        "ts": 0,
        "level": "INFO",
        "service": "router",
        "logger": "x",
        "message": "two\nlines",
        "request_id": "r1",
    }, "fields and extras"


def failing(error: Exception) -> logging.LogRecord:
    try:
        raise error
    except type(error):
        return logging.makeLogRecord({"msg": "it failed", "exc_info": sys.exc_info()})


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_a_librarys_error_is_logged_by_type_and_place_and_never_with_its_text(level: int) -> None:
    root = logging.getLogger()
    before = root.level
    root.setLevel(level)
    try:
        line = json.loads(JsonFormatter(service="worker").format(failing(ValueError("a tenant's prompt"))))
        ours = json.loads(JsonFormatter(service="worker").format(failing(MrgcError("A sentence of ours."))))
    finally:
        root.setLevel(before)
    assert "prompt" not in json.dumps({**line, "traceback": ""}), "the text may quote what was worked on"
    assert line["error"].startswith("ValueError at test_lifecycle.py:"), "where it was raised is enough to find it"
    assert ours["error"] == "MrgcError: A sentence of ours.", "our own sentences carry no secret"
    if level == logging.DEBUG:
        assert "ValueError" not in line["traceback"], "frames, and not the error's own line"


async def test_an_error_that_no_task_took_care_of_is_logged_by_its_kind(caplog: pytest.LogCaptureFixture) -> None:
    async def main(_settings: SidecarSettings, _stop: Stop) -> None:
        loop = asyncio.get_running_loop()

        async def fail() -> None:
            raise ValueError("a tenant's prompt")

        task = loop.create_task(fail())
        await asyncio.wait({task})
        del task
        gc.collect()

    await supervise(main, load_settings(SidecarSettings, {}))
    assert "never retrieved: ValueError at" in caplog.text, "it is told"
    assert "prompt" not in caplog.text, "without its text"

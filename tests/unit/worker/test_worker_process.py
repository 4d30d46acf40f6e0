"""The worker as a process: settings, exit codes, and what happens to children when a parent is killed."""

from __future__ import annotations

import contextlib
import json
import logging.config
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from dataplane.mesh.settings import load_settings
from dataplane.protocol.errors import SettingsError
from dataplane.worker.settings import WorkerSettings
from dataplane.worker.vllm_engine import VllmFactory, VllmOptions
from stacks.local.worker import LocalWorkerSettings, make_factory

ROOT = Path(__file__).resolve().parents[3]
PARENT = """
import multiprocessing, os, sys, time
from dataplane.worker.parent_death import children_die_with_us, die_with_parent

way, when = sys.argv[1:3]
os.environ.setdefault("TEST_PARENT", str(os.getpid()))

def late():
    # A child that gets no processor until its parent is dead.
    while when == "late" and os.getppid() == int(os.environ["TEST_PARENT"]):
        time.sleep(0.001)

if __name__ == "__main__":
    if way == "fork":
        os.register_at_fork(after_in_child=late)
    children_die_with_us()
    if way == "fork":
        child = os.fork()
        if child == 0:
            time.sleep(60)
    else:
        if way == "grandchild" and os.fork():
            time.sleep(60)
        os.environ["TEST_PARENT"] = str(os.getpid())
        process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
        process.start()
        child = process.pid
    print(os.getpid(), child, flush=True)
    time.sleep(60)
elif __name__ == "__mp_main__":
    late()
    die_with_parent()
    print("armed", flush=True)
"""


def kill_the_parent_of_a_child(folder: Path, way: str, when: str) -> None:
    """Kill a parent, at once after its fork or (`armed`) once its child has asked for the signal; the child must die.

    With `late` the child comes to its asking only when the parent is dead: the race that is lost, every time.
    """
    script = folder / "parent.py"
    script.write_text(PARENT)
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), way, when]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        family: list[psutil.Process] = []
        armed = when != "armed"
        try:
            while not family or not armed:
                line = started.stdout.readline()
                assert line, "the parent ended by itself"
                armed |= line == "armed\n"
                if line != "armed\n":
                    family = [psutil.Process(int(pid)) for pid in line.split()]
            parent, child = family
            parent.send_signal(signal.SIGKILL)
            _, alive = psutil.wait_procs([child], timeout=10)
            assert not alive, "SIGKILL of the worker must reach its engine"
        finally:
            started.kill()
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.mark.processes
@pytest.mark.parametrize("when", ["at once", "late"])
@pytest.mark.parametrize("way", ["fork", "spawn", "grandchild"])
def test_a_child_dies_with_a_parent_that_is_killed(tmp_path: Path, way: str, when: str) -> None:
    kill_the_parent_of_a_child(tmp_path, way, when)


@pytest.mark.processes
@pytest.mark.parametrize("way", ["spawn", "grandchild"])
def test_a_child_that_asked_for_the_signal_lives_until_its_parent_dies(tmp_path: Path, way: str) -> None:
    kill_the_parent_of_a_child(tmp_path, way, "armed")


FORKING = """
import asyncio, os, signal, sys, threading
from dataplane.worker.parent_death import children_die_with_us

async def main():
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    children_die_with_us()
    children = []

    def load():
        # As an engine's process does, in a thread as the loader is one: it handles SIGTERM and ends.
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        children.append(child)

    await asyncio.to_thread(load)
    await asyncio.to_thread(os.waitpid, children[0], 0)
    await asyncio.sleep(0.05)
    sys.exit(1 if stopped.is_set() else 0)

asyncio.run(main())
"""


@pytest.mark.processes
def test_an_engine_that_is_told_to_end_does_not_end_its_worker(tmp_path: Path) -> None:
    script = tmp_path / "forking.py"
    script.write_text(FORKING)
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], env=environ, check=False, capture_output=True, timeout=30)
    assert done.returncode == 0, f"the parent took its child's signal for its own: {done.stderr.decode()[-300:]}"


def run_module(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "stacks.local.worker"],
        cwd=ROOT,
        env=base | environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.processes
def test_bad_settings_exit_with_64_and_name_every_fault() -> None:
    done = run_module({"DEFAULT_MODEL_POOL": "../etc", "MAX_QUEUE": "-1", "WORKER_LISTEN_ADDRESS": "tcp:127.0.0.1:1"})
    assert done.returncode == 64
    for word in ("DEFAULT_MODEL_POOL", "MAX_QUEUE", "WORKER_LISTEN_ADDRESS"):
        assert word in done.stderr, "every fault at once"


@pytest.mark.processes
def test_a_pool_that_is_not_there_exits_with_1_and_a_sentence(tmp_path: Path) -> None:
    done = run_module(
        {
            "ENGINE": "synthetic",
            "DEFAULT_MODEL_POOL": "tiny",
            "FSX_MOUNT_POINT": str(tmp_path),
            "WORKER_LISTEN_ADDRESS": f"unix:{tmp_path}/w.sock",
        }
    )
    assert done.returncode == 1
    assert "no model pool 'tiny'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.processes
def test_a_socket_in_use_exits_with_1_and_a_sentence(tmp_path: Path, mount: Path) -> None:
    path = tmp_path / "w.sock"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        done = run_module(
            {
                "ENGINE": "synthetic",
                "DEFAULT_MODEL_POOL": "tiny",
                "FSX_MOUNT_POINT": str(mount),
                "WORKER_LISTEN_ADDRESS": f"unix:{path}",
            }
        )
    assert done.returncode == 1
    assert "another process answers" in done.stderr


@pytest.mark.processes
def test_vllm_without_its_environment_says_how_to_install_it(tmp_path: Path, mount: Path) -> None:
    done = run_module(
        {
            "ENGINE": "vllm",
            "DEFAULT_MODEL_POOL": "tiny",
            "FSX_MOUNT_POINT": str(mount),
            "WORKER_LISTEN_ADDRESS": f"unix:{tmp_path}/w.sock",
        }
    )
    assert done.returncode == 1
    assert "make engine" in done.stderr


def test_an_empty_environment_names_the_one_variable_that_must_be_set() -> None:
    with pytest.raises(SettingsError, match="DEFAULT_MODEL_POOL is not set"):
        load_settings(WorkerSettings, {})


def test_no_environment_makes_vllm_record_requests() -> None:
    environ = {
        "VLLM_CONFIGURE_LOGGING": "1",
        "VLLM_LOGGING_CONFIG_PATH": "/etc/mrgc/mine.json",
        "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "true",
        "VLLM_TRACE_FUNCTION": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_DO_NOT_TRACK": "0",
        "VLLM_DEBUG_DUMP_PATH": "/tmp/dump",
        "VLLM_TORCH_PROFILER_DIR": "/tmp/profile",
        "NCCL_SOCKET_IFNAME": "ens5",
    }
    VllmFactory(options=VllmOptions(), environ=environ)
    assert environ["VLLM_DEBUG_LOG_API_SERVER_RESPONSE"] == "False", "whoever runs the host may not have answers logged"
    assert not {"VLLM_DEBUG_DUMP_PATH", "VLLM_TORCH_PROFILER_DIR"} & environ.keys(), "nor dumped"
    config = json.loads(Path(environ["VLLM_LOGGING_CONFIG_PATH"]).read_text())
    assert "handlers" not in config, "vLLM gets no handler that the guard does not see"
    logging.config.dictConfig(config)
    dump = logging.getLogger("vllm.logging_utils.dump_input")
    assert not dump.isEnabledFor(logging.ERROR), "what vLLM dumps of a failed step has prompts' lengths in it"
    assert (environ["VLLM_TRACE_FUNCTION"], environ["VLLM_SERVER_DEV_MODE"]) == ("0", "0"), "no tracing, no debug pages"
    assert environ["NCCL_SOCKET_IFNAME"] == "lo", "tensors of prompts go over no network"


def test_the_local_worker_fits_vllm_to_a_small_machine() -> None:
    environ: dict[str, str] = {"OMP_NUM_THREADS": "3"}
    settings = load_settings(LocalWorkerSettings, {"DEFAULT_MODEL_POOL": "tiny"})
    assert make_factory(settings, environ).kind == "vllm"
    assert environ["VLLM_TARGET_DEVICE"] == "cpu"
    assert environ["OMP_NUM_THREADS"] == "3", "what a person set stays"
    settings = load_settings(LocalWorkerSettings, {"DEFAULT_MODEL_POOL": "tiny", "ENGINE": "synthetic"})
    assert make_factory(settings, environ).kind == "synthetic"

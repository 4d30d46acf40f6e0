"""The worker as a process: settings, exit codes, and what happens to children when a parent is killed."""

from __future__ import annotations

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
from dataplane.worker.settings import WorkerSettings, config_digest
from dataplane.worker.vllm_engine import VllmFactory, VllmOptions
from stacks.local.worker import LocalWorkerSettings, make_factory

ROOT = Path(__file__).resolve().parents[3]
PARENT = """
import multiprocessing, os, sys, time
from dataplane.worker.parent_death import children_die_with_us, die_with_parent
children_die_with_us()
if __name__ == "__main__":
    if sys.argv[1] == "fork":
        child = os.fork()
        if child == 0:
            time.sleep(60)
    else:
        process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
        process.start()
        child = process.pid
    print(child, flush=True)
    time.sleep(60)
elif __name__ == "__mp_main__":
    die_with_parent()
    print("armed", flush=True)
"""


@pytest.mark.processes
@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_a_child_dies_with_a_parent_that_is_killed(tmp_path: Path, way: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(script), way], env=environ, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        lines = [parent.stdout.readline() for _ in range(1 if way == "fork" else 2)]
        child = psutil.Process(int(next(line for line in lines if line.strip().isdigit())))
        parent.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs([child], timeout=5)
        assert not alive, "SIGKILL of the worker must reach its engine"


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


def test_the_configuration_digest_changes_with_what_shapes_answers_and_with_nothing_else() -> None:
    base = {"DEFAULT_MODEL_POOL": "tiny"}
    digests = {
        config_digest(load_settings(WorkerSettings, base | more), engine=engine, version=version)
        for more, engine, version in (
            ({}, "vllm", "1"),
            ({}, "synthetic", "1"),
            ({}, "vllm", "2"),
            ({"MAX_NUM_SEQS": "7"}, "vllm", "1"),
            ({"TPM": "nitro"}, "vllm", "1"),
        )
    }
    assert len(digests) == 5
    quiet = load_settings(WorkerSettings, base | {"LOG_LEVEL": "ERROR"})
    assert config_digest(quiet, engine="vllm", version="1") in digests, "how it logs is not part of it"


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
    assert environ["NCCL_SOCKET_IFNAME"] == "ens5", "control: what is a matter of machines stays"


def test_the_local_worker_fits_vllm_to_a_small_machine() -> None:
    environ: dict[str, str] = {"OMP_NUM_THREADS": "3"}
    settings = load_settings(LocalWorkerSettings, {"DEFAULT_MODEL_POOL": "tiny"})
    assert make_factory(settings, environ).kind == "vllm"
    assert environ["VLLM_TARGET_DEVICE"] == "cpu"
    assert environ["OMP_NUM_THREADS"] == "3", "what a person set stays"
    settings = load_settings(LocalWorkerSettings, {"DEFAULT_MODEL_POOL": "tiny", "ENGINE": "synthetic"})
    assert make_factory(settings, environ).kind == "synthetic"

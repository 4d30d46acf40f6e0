"""The parent as a process: what it says and how it exits when it cannot start, and when it is told to stop."""

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from tests.support.parent_host import PATIENCE_S, FakeEnclave, FakeWorker

START_S = 30.0
"""A fresh interpreter imports aiohttp, boto3 and OpenTelemetry, on a machine that others use too."""


async def start(**environ: str) -> asyncio.subprocess.Process:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dataplane.parent", env=inherited | environ, stderr=asyncio.subprocess.PIPE
    )


async def end_of(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    async with asyncio.timeout(START_S):
        _, errors = await process.communicate()
    return process.returncode, errors.decode()


async def test_settings_that_make_no_sense_are_all_named_before_anything_binds() -> None:
    process = await start(
        HTTP_PORT="eighty", WORKER_ADDRESS="worker.sock", GPU_MEMORY_UTILIZATION="90", ENCLAVE_CID="2"
    )
    status, errors = await end_of(process)
    assert status == 64, "EX_USAGE: configured wrongly"
    for name in (
        "HTTP_PORT is 'eighty'",
        "WORKER_ADDRESS is 'worker.sock'",
        "GPU_MEMORY_UTILIZATION is '90'",
        "ENCLAVE_CID",
    ):
        assert name in errors, "each fault is named with its value"
    assert "Traceback" not in errors, "in sentences"


async def test_a_port_in_use_ends_the_process_with_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, errors = await end_of(await start(HTTP_HOST="127.0.0.1", HTTP_PORT=port, REGISTRY="none"))
    assert status == 1, "failed"
    assert f"Could not listen at 127.0.0.1:{port}" in errors, "the sentence names the port"
    assert "Traceback" not in errors, "and is all there is"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_parent_that_is_told_to_stop_exits_with_0(tmp_path: Path, free_port: int, number: int) -> None:
    enclave, worker = FakeEnclave(tmp_path / "enclave.sock"), FakeWorker(tmp_path / "worker.sock")
    await enclave.start()
    await worker.start()
    process = await start(
        HTTP_HOST="127.0.0.1",
        HTTP_PORT=str(free_port),
        REGISTRY="none",
        ENCLAVE_PROXY_ADDRESS=str(enclave.address),
        WORKER_ADDRESS=str(worker.address),
        AWS_ACCESS_KEY_ID="AKIATEST",
        AWS_SECRET_ACCESS_KEY="not-to-be-logged",
        POLL_S="0.05",
        LOG_LEVEL="DEBUG",
    )
    try:
        async with aiohttp.ClientSession() as session:
            until = time.monotonic() + START_S
            while True:
                assert time.monotonic() < until, "the process never became ready"
                try:
                    async with session.get(f"http://127.0.0.1:{free_port}/health") as response:
                        if response.status == 200:
                            break
                except aiohttp.ClientConnectionError:
                    pass
                await asyncio.sleep(0.05)
        process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            _, errors = await process.communicate()
        assert process.returncode == 0, "stopped as asked"
        assert b"not-to-be-logged" not in errors, "no log shows a secret, at any level"
        assert enclave.credentials is not None, "though the enclave has it"
        assert enclave.credentials["secret_access_key"] == "not-to-be-logged", "from the chain"
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
        await enclave.stop()
        await worker.stop()

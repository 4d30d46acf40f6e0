"""A host's processes killed while they answer, in a local stack of real ones: enclave, then worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dataplane.tenant.client import TenantClient
from dataplane.tenant.errors import BrokenStreamError, RequestError
from observability.tracing import Telemetry
from tests.e2e.conftest import MRGC, UP_TIMEOUT_S, LocalCluster, free_port

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

CHAT = "/v1/chat/completions"
LONG_TOKENS = 3_000
"""About 36 s at the synthetic engine's 12 ms a token: no test waits for its end."""
MUST_END_S = 15.0


@pytest.fixture
def pair() -> Iterator[LocalCluster]:
    """A stack of one region and two hosts, for one test: it does not survive."""
    folder = Path(tempfile.mkdtemp(prefix="mrgc-"))
    up = [*MRGC, "local", "up", "--detach", "--engine", "synthetic", "--regions", "1", "--hosts", "2"]
    up += ["--port", str(free_port()), "--dir", str(folder)]
    try:
        done = subprocess.run(up, capture_output=True, text=True, timeout=UP_TIMEOUT_S, check=False)
        assert done.returncode == 0, f"mrgc local up failed:\n{done.stdout}\n{done.stderr}"
        yield LocalCluster(folder, json.loads((folder / "cluster.json").read_text()))
    finally:
        subprocess.run([*MRGC, "local", "down", "--dir", str(folder)], check=False, timeout=60, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def chat(model: str, max_tokens: int) -> bytes:
    message = {"role": "user", "content": "Count as far as you can."}
    return json.dumps({"model": model, "messages": [message], "stream": True, "max_tokens": max_tokens}).encode()


async def gather(chunks: AsyncIterator[bytes], into: bytearray) -> None:
    async for piece in chunks:
        into += piece


async def kill_while_it_answers(client: TenantClient, cluster: LocalCluster, part: str) -> str:
    """Ask, wait for tokens, kill `part` of the host that answers; return the host. The stream must raise, soon."""
    model = cluster.document["model"]
    async with client.infer(CHAT, chat(model, LONG_TOKENS), model=model) as response:
        chunks = response.chunks()
        received = b""
        while received.count(b"\n\n") < 4:
            received += await anext(chunks)
        (host,) = [each for each in cluster.region["hosts"] if each["id"] == response.instance]
        os.kill(host["pids"][part], signal.SIGKILL)
        killed = time.monotonic()
        rest = bytearray()
        with pytest.raises(BrokenStreamError) as caught:
            await gather(chunks, rest)
        assert time.monotonic() - killed < MUST_END_S, "the tenant is not left waiting"
        assert b"[DONE]" not in rest, "and takes nothing for whole"
        assert str(caught.value).endswith("."), "it is told in a sentence"
        return str(host["id"])


async def test_a_stream_whose_host_loses_a_process_raises_and_the_next_goes_elsewhere(pair: LocalCluster) -> None:
    model = pair.document["model"]
    async with pair.tenant().client(Telemetry.from_environment("tenant", environ={})) as client:
        first = await kill_while_it_answers(client, pair, "enclave")
        async with client.infer(CHAT, chat(model, 4), model=model) as response:
            whole = b"".join([piece async for piece in response.chunks()])
            assert b"[DONE]" in whole, "the other host answers, whole"
            assert response.instance != first, "and it is another"
        second = await kill_while_it_answers(client, pair, "worker")
        assert second != first, "the host without an enclave was not asked"
        with pytest.raises(RequestError) as caught:
            async with client.infer(CHAT, chat(model, 4), model=model, deadline_s=4):
                pass
        assert caught.value.code in {"no-capacity", "host-failed", "deadline-exceeded"}, (
            "no host is left, and the tenant is told so"
        )

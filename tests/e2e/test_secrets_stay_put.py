"""Reads the sidecars' memory while a request with a known prompt runs, and every span that it left."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from pathlib import Path
from typing import Any

import pytest

from dataplane.tenant.client import TenantClient
from observability import names

pytestmark = pytest.mark.processes

MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r(.)")
BLOCK = 1 << 20


def memory_holds(pid: int, needles: dict[str, bytes]) -> set[str]:
    """Which needles stand in the writable memory of a process, by name."""
    found: set[str] = set()
    overlap = max(map(len, needles.values()))
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            match = MAPPING.match(line)
            if match is None or match[3] != "w" or "[v" in line:
                continue
            start, end = int(match[1], 16), int(match[2], 16)
            tail = b""
            for at in range(start, end, BLOCK):
                try:
                    memory.seek(at)
                    block = memory.read(min(BLOCK, end - at))
                except (OSError, ValueError):
                    break
                window = tail + block
                found |= {name for name, needle in needles.items() if needle in window}
                tail = window[-overlap:]
    return found


def pids_of(cluster: Any) -> dict[str, int]:
    router = cluster.region["pids"]["router"]
    return {"router": router, **cluster.host["pids"]}


async def ask_and_scan(client: TenantClient, model: str, pids: dict[str, int]) -> tuple[dict[str, set[str]], str]:
    """Stream one answer; midway, look for prompt, answer and keys in every process."""
    prompt = f"the known prompt {secrets.token_hex(16)}"
    message = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": True, "max_tokens": 200}
    key = await client.session.key()
    async with client.infer("/v1/chat/completions", json.dumps(message).encode(), model=model) as response:
        chunks = response.chunks()
        received = b""
        async with asyncio.timeout(30):
            while received.count(b"\n\n") < 4:
                received += await anext(chunks)
        events = [event for event in received.split(b"\n\n") if event.startswith(b"data: {")]
        # An event's start is its id, which the engine drew: unique to this answer, and 40 bytes of it are enough.
        needles = {
            "prompt": prompt.encode(),
            "answer": events[1][:60],
            "data key": key.cek,
            "data key in hex": key.cek.hex().encode(),
        }
        found = await asyncio.to_thread(lambda: {name: memory_holds(pid, needles) for name, pid in pids.items()})
        assert len(received) > 0, "the answer was still coming while memory was read"
        async for _ in chunks:
            pass
    return found, prompt


async def test_router_parent_and_proxy_never_hold_prompt_answer_or_keys(cluster: Any) -> None:
    config = cluster.tenant()
    telemetry = config.telemetry()
    try:
        async with config.client(telemetry) as client:
            found, _ = await ask_and_scan(client, cluster.document["model"], pids_of(cluster))
    finally:
        telemetry.shutdown()
    assert found["enclave"] >= {"prompt", "data key"}, "control: the scan finds secrets where they must be"
    assert found["worker"] >= {"prompt"}, "control: the worker runs the prompt"
    assert "data key" not in found["worker"], "the worker never has a data key"
    for blind in ("router", "parent", "proxy"):
        assert found[blind] == set(), f"the {blind} must hold neither prompt, nor answer, nor keys"


async def test_one_trace_spans_every_process_and_tells_no_secret(cluster: Any) -> None:
    config = cluster.tenant()
    telemetry = config.telemetry()
    async with config.client(telemetry) as client:
        _, prompt = await ask_and_scan(client, cluster.document["model"], {})
        key = await client.session.key()
    telemetry.shutdown()
    expected = set(names.SPANS)
    async with asyncio.timeout(15):
        while True:
            text = Path(cluster.document["spans_file"]).read_text()
            traces: dict[str, list[dict[str, Any]]] = {}
            for span in map(json.loads, text.splitlines()):
                traces.setdefault(span["trace_id"], []).append(span)
            whole = [spans for spans in traces.values() if {span["name"] for span in spans} >= expected]
            if whole:
                break
            await asyncio.sleep(0.05)
    spans = whole[-1]
    ids = {span["span_id"] for span in spans}
    roots = [span for span in spans if span["parent_id"] not in ids]
    assert [span["name"] for span in roots] == [names.TENANT_REQUEST], "one tree, and the tenant is its root"
    for span in spans:
        assert set(span["attributes"]) <= names.ALLOWED_ATTRIBUTES, f"{span['name']} carries only listed attributes"
    for what, secret in {"prompt": prompt, "API key": config.api_key, "data key": key.cek.hex()}.items():
        assert secret not in text, f"no span may carry the {what}"

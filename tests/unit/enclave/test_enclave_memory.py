"""What requests hold of an enclave's memory: accounted while they hold it, nothing while they are answered."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataplane.enclave.memory import ByteBudget
from dataplane.mesh.linkio import LinkStream
from dataplane.protocol.hop import HopHead, HopRequestOpener
from dataplane.protocol.link import LinkType
from dataplane.protocol.message import MAX_PATH
from tests.unit.enclave.harness import CONFIG_DIGEST, Enclave, Outcome, enclave

ROOT = Path(__file__).resolve().parents[3]
MIB = 1024 * 1024
BODY = MIB - 200


async def until_used(running: Enclave, least: int, most: int) -> None:
    """Wait until the budget says that between `least` and `most` bytes are held."""
    async with asyncio.timeout(5):
        while not least <= running.server.state.memory.used <= most:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.005)


async def test_a_request_is_accounted_as_it_comes_and_not_while_it_is_answered(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        running.kms.gate = asyncio.Event()
        running.worker.pause = asyncio.Event()
        outcome = Outcome(None)
        sealed = running.seal(b"x" * BODY)
        asking = asyncio.create_task(running.infer(sealed, outcome=outcome))
        await until_used(running, BODY, len(sealed[0]))
        running.kms.gate.set()
        await asyncio.wait_for(outcome.received.wait(), 5)
        assert running.server.state.memory.used == 0, "the worker has it, the enclave has nothing"
        running.worker.pause.set()
        assert (await asking).done, "and the answer's receipt still names the request"


async def test_a_message_that_the_parent_does_not_take_stays_accounted(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        data, _, header = running.seal(b"x" * BODY)
        async with running.link() as link:
            await link.send(LinkType.OPEN, running.opening(header), timeout_s=1)
            await link.send(LinkType.DATA, data, timeout_s=5)
            await link.send(LinkType.END, timeout_s=1)
            # Nothing is read: the hop ciphertext stands in the enclave, and with it the message that it is made from.
            await until_used(running, BODY, BODY + 1024 + MAX_PATH)
        await until_used(running, 0, 0)


async def test_requests_together_hold_no_more_than_the_budget(tmp_path: Path) -> None:
    async with enclave(tmp_path, memory=ByteBudget(3 * MIB)) as running:
        running.kms.gate = asyncio.Event()
        sealed = [running.seal(b"x" * (BODY - 10_000)) for _ in range(5)]
        asking = [asyncio.create_task(running.infer(each)) for each in sealed]
        done, _ = await asyncio.wait(asking, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 2:
            more, _ = await asyncio.wait(set(asking) - done, timeout=5, return_when=asyncio.FIRST_COMPLETED)
            assert more, "two of the five don't fit"
            done |= more
        assert {each.result().problem for each in done} == {"overloaded"}, "another host may take them"
        assert running.server.state.memory.used <= 3 * MIB, "never more than the budget"
        running.kms.gate.set()
        served = await asyncio.gather(*(each for each in asking if each not in done))
        assert all(each.done for each in served), "the three are served"


async def test_a_request_that_does_not_fit_is_refused_before_it_counts_as_served(tmp_path: Path) -> None:
    async with enclave(tmp_path, memory=ByteBudget(MIB + 4096)) as running:
        sealed = running.seal(b"x" * BODY)
        outcome = await running.infer(sealed)
        assert outcome.problem == "overloaded", "the message fits, and the worker's, which is longer, might not"
        running.server.state.memory._limit = 2 * MIB
        assert (await running.infer(sealed)).done, "so the same envelope may come again, and is no replay"


async def test_a_flood_of_the_smallest_frames_in_an_answer_lets_others_run(tmp_path: Path) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with enclave(tmp_path) as running, asyncio.timeout(10):
        data, _, header = running.seal(b"{}")
        async with running.link() as link:
            await link.send(LinkType.OPEN, running.opening(header), timeout_s=1)
            await link.send(LinkType.DATA, data, timeout_s=1)
            await link.send(LinkType.END, timeout_s=1)
            flood = await flood_of(running, link)
            assert len(flood) == 65_536, "one full message of frames with nothing in them"
            before = running.server.state.requests
            counting = asyncio.create_task(count_turns())
            await asyncio.sleep(0)
            began = turns
            await link.send(LinkType.HOP_DATA, flood, timeout_s=1)
            health = await running.call(op="health")
            counting.cancel()
        assert health.map()["requests"] == before, "another connection is served meanwhile"
        assert turns - began > 65_536 // 16_384, "the loop went round between the slices"


async def flood_of(running: Enclave, link: LinkStream) -> bytes:
    """Read the hop request and make an answer of 64 KiB whose frames after the head are all empty."""
    opener = HopRequestOpener({running.worker.epoch: running.worker.key}.get, CONFIG_DIGEST)
    while (message := await link.receive(5)) is not None and message.type is LinkType.HOP_DATA:
        opener.feed(message.payload)
    sealer = opener.response_sealer(os.urandom(32))
    head = HopHead(status=200, content_type="text/event-stream", engine="synthetic", model_digest="sha256:ab")
    out = sealer.prefix() + sealer.seal(head.encode())
    while len(out) + 2 * 25 <= 65_536:
        out += sealer.seal(b"")
    return out + sealer.seal(b"x" * (65_536 - len(out) - 25))


@pytest.mark.processes
def test_64_streams_of_the_largest_message_leave_no_plaintext_while_they_wait() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "benchmarks/enclave_memory.py",
            *("--streams", "64", "--scenario", "answering", "--json"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    found = json.loads(done.stdout)
    assert (found["taken"], found["refused"]) == (64, 0), "every message reached the worker"
    grown = found["held_mib"] - found["idle_mib"]
    assert grown < 32, f"64 MiB of messages were sent, and {grown:.0f} MiB are still resident"

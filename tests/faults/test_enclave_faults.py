"""An enclave that dies midway, as its parent sees it through the proxy; and the image's files on their own."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dataplane.mesh.address import UnixAddress
from dataplane.protocol.errors import OpenError
from dataplane.protocol.link import LinkType
from tests.integration.enclave_world import DEADLINE_S, ROOT, World, eventually, running_world, start_program
from tests.unit.enclave.harness import Outcome


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path) as made:
        yield made


@pytest.mark.processes
async def test_an_enclave_killed_midway_breaks_the_stream_and_a_new_one_starts_without_keys(
    world: World, tmp_path: Path
) -> None:
    key_arn = await world.key()
    session = await world.session(key_arn)
    enclave, proxy = UnixAddress(f"{tmp_path}/enclave.sock"), UnixAddress(f"{tmp_path}/proxy.sock")
    program = await start_program(world, address=enclave, visit=proxy)
    visitor = program.visitor
    try:
        await visitor.bind()
        await program.give_credentials(world.credentials())
        visitor.worker.pause = asyncio.Event()
        sealed = visitor.seal(session=session, kms=key_arn)
        outcome = Outcome(sealed[1].response_opener())
        request = asyncio.create_task(visitor.infer(sealed, outcome=outcome))
        async with asyncio.timeout(DEADLINE_S):
            await outcome.received.wait()
        program.process.kill()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(request, return_exceptions=True)
            await program.reading
        assert outcome.ended is not LinkType.END, "a dead enclave never ends a stream cleanly"
        assert outcome.body == b"to", "the tenant has what came"
        assert outcome.opener is not None, "there is an opener"
        with pytest.raises(OpenError, match="truncated"):
            outcome.opener.finish()
        assert world.proxy is not None, "there is a proxy"
        parents = world.proxy.parents.counters
        await eventually(lambda: parents.active == 0)

        async with visitor.link() as link:
            assert await link.receive(DEADLINE_S) is None, "nobody listens behind the proxy, which says so by closing"
        again = await start_program(world, address=enclave, visit=proxy)
        try:
            health = (await again.visitor.call(op="health")).map()
            assert health["ready"] is False, "it has neither worker nor credentials"
            assert health["data_keys"] == 0, "nor any key"
            refused = await again.visitor.infer(again.visitor.seal(session=session, kms=key_arn))
            assert refused.problem == "host-failed", "until its parent has bound it again"
            await again.visitor.bind()
            await again.give_credentials(world.credentials())
            served = await again.visitor.infer(again.visitor.seal(session=session, kms=key_arn))
            assert served.body == b"token", "then it serves the same session"
        finally:
            await again.stop()
    finally:
        await program.stop()


@pytest.mark.processes
async def test_an_enclave_asked_to_stop_lets_a_stream_end(world: World, tmp_path: Path) -> None:
    key_arn = await world.key()
    session = await world.session(key_arn)
    address = UnixAddress(f"{tmp_path}/enclave.sock")
    program = await start_program(world, address=address, visit=address, drain_s=10)
    visitor = program.visitor
    try:
        await visitor.bind()
        await program.give_credentials(world.credentials())
        visitor.worker.pause = asyncio.Event()
        sealed = visitor.seal(session=session, kms=key_arn)
        outcome = Outcome(sealed[1].response_opener())
        request = asyncio.create_task(visitor.infer(sealed, outcome=outcome))
        async with asyncio.timeout(DEADLINE_S):
            await outcome.received.wait()
            program.process.terminate()
            visitor.worker.pause.set()
            await request
        assert outcome.ended is LinkType.END, "what had begun is completed"
        assert outcome.body == b"token", "whole"
    finally:
        await program.stop()
    assert program.process.returncode == 0, "and then it stops"


@pytest.mark.skipif(Path("/dev/nsm").exists(), reason="runs where there is no Nitro Secure Module")
@pytest.mark.processes
async def test_the_files_of_the_image_are_all_that_its_program_needs(tmp_path: Path) -> None:
    """What the Dockerfile copies, in a folder of its own: a missing module would fail before the NSM is asked for."""
    for line in (ROOT / "dataplane/enclave/Dockerfile").read_text().splitlines():
        words = line.split()
        if words[:1] != ["COPY"] or len(words) != 3 or not words[2].startswith("/app/"):
            continue
        source, target = ROOT / words[1], tmp_path / words[2].removeprefix("/app/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "build.py"))
        else:
            shutil.copy(source, target)
    assert (tmp_path / "dataplane/enclave/server.py").exists(), "the enclave is copied"
    assert not (tmp_path / "stacks").exists(), "the software NSM is not"
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dataplane.enclave",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE_S):
        _, errors = await program.communicate()
    assert "/dev/nsm can't be opened" in errors.decode(), "everything imported, and then there is no NSM here"
    assert program.returncode == 1, "so it ends"

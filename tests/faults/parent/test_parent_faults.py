import asyncio
import contextlib
import io
import socket
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from dataplane.mesh.address import AddressError
from dataplane.protocol.attestation.nonces import expected_nonce
from dataplane.protocol.link import LinkType
from dataplane.protocol.suite import MAX_BODY_BYTES
from dataplane.registry.host import HostState
from tests.support.parent_host import HEADERS, PATIENCE_S, Host, Peer, eventually

HEAD = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())


class Latch:
    """A script's way to say that it got somewhere, and to wait for the test."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self.last_word: LinkType | None = None
        self.left = asyncio.Event()

    async def hold(self) -> None:
        self.reached.set()
        await self.go_on.wait()

    async def watch(self, peer: Peer) -> None:
        """Stay until the parent goes, and note how it went."""
        self.reached.set()
        self.last_word = await peer.last_word()
        self.left.set()


async def post(host: Host, **options: object) -> tuple[int, dict[str, object], dict[str, str]]:
    """One request that should be refused: status, problem and headers."""
    arguments: dict[str, object] = {"data": b"sealed", "headers": HEADERS} | options
    async with host.session.post(f"{host.url}/inference", **arguments) as response:  # type: ignore[arg-type]
        problem = await response.json(content_type="application/problem+json")
        return response.status, problem, dict(response.headers)


async def raw(host: Host, request: bytes) -> bytes:
    """Everything that the parent answers to bytes that no client library would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(request)
            await writer.drain()
        received = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(3):
                while data := await reader.read(65_536):
                    received += data
        return received
    finally:
        writer.close()


def code(problem: dict[str, object]) -> str:
    return str(problem["type"]).removeprefix("urn:mrgc:error:")


async def no_request_is_left(host: Host) -> None:
    """Whatever happened, both links are closed and the slot is free."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        async with host.session.get(f"{host.url}/metrics", headers={"Accept": "text/plain"}) as response:
            if "mrgc_parent_in_flight 0.0" in await response.text():
                break
        assert time.monotonic() < deadline, "a request still holds its slot"
        await asyncio.sleep(0.01)


# The enclave.


async def test_an_enclave_that_is_not_there_is_a_failed_host(host: Host) -> None:
    await host.enclave.stop()
    status, problem, headers = await post(host)
    assert (status, code(problem)) == (502, "host-failed"), "so that the router tries another"
    assert headers["Retry-After"] == "1", "and the tenant knows when"
    await eventually(lambda: host.registry._hosts["us-east-1", "i-test"].state is HostState.UNHEALTHY, "the report")
    status, page = await host.health()
    assert (status, page["enclave_healthy"], page["gpu_healthy"]) == (503, False, True), "health names the part"


async def test_an_enclave_killed_before_it_answers_is_a_failed_host(host: Host) -> None:
    async def die(peer: Peer) -> None:
        await peer.until(LinkType.END)
        peer.link.abort()

    host.enclave.scripts["infer"] = die
    status, problem, _ = await post(host)
    assert (status, code(problem)) == (502, "host-failed"), "nothing has been sent, so another host may try"
    await no_request_is_left(host)


@pytest.mark.parametrize("how", ["killed", "closed", "abort", "garbage", "problem"])
async def test_a_response_that_breaks_is_aborted_and_never_ended(host: Host, how: str) -> None:
    async def break_off(peer: Peer) -> None:
        await peer.until(LinkType.END)
        await peer.send(LinkType.DATA, b"the beginning")
        match how:
            case "killed":
                peer.link.abort()
            case "abort":
                await peer.send(LinkType.ABORT, {"reason": "broken"})
            case "garbage":
                peer.link._writer.write(b"\xff" * 100)
            case "problem":
                await peer.send(LinkType.PROBLEM, {"code": "overloaded", "detail": "Too late."})

    host.enclave.scripts["infer"] = break_off
    async with host.session.post(f"{host.url}/inference", data=b"sealed", headers=HEADERS) as response:
        assert response.status == 200, "the head had gone when it broke"
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    await no_request_is_left(host)


async def test_the_last_chunk_is_not_on_the_wire_of_a_broken_response(host: Host) -> None:
    async def break_off(peer: Peer) -> None:
        await peer.until(LinkType.END)
        await peer.send(LinkType.DATA, b"the beginning")
        await asyncio.sleep(0.05)  # so that it is on the wire
        await peer.send(LinkType.ABORT, {"reason": "broken"})

    host.enclave.scripts["infer"] = break_off
    received = await raw(host, f"POST /inference HTTP/1.1\r\nHost: x\r\n{HEAD}Content-Length: 6\r\n\r\nsealed".encode())
    assert b"the beginning" in received, "what was sent before arrives"
    assert b"\r\n0\r\n" not in received, "and no ending chunk makes it look whole"


async def test_an_enclave_that_ends_without_a_byte_is_a_failed_host(host: Host) -> None:
    async def say_nothing(peer: Peer) -> None:
        await peer.until(LinkType.END)
        await peer.send(LinkType.END)

    host.enclave.scripts["infer"] = say_nothing
    status, problem, _ = await post(host)
    assert (status, code(problem)) == (502, "host-failed"), "an empty answer is none"


async def test_an_enclave_that_never_answers_costs_the_deadline_and_no_more(host: Host) -> None:
    latch = Latch()
    host.enclave.scripts["infer"] = latch.watch
    status, problem, _ = await post(host, headers=HEADERS | {"X-Deadline-Ms": "150"})
    assert (status, code(problem)) == (504, "deadline-exceeded"), "a silent upstream must not hold a request"
    await asyncio.wait_for(latch.left.wait(), PATIENCE_S)
    assert latch.last_word is LinkType.ABORT, "and the enclave is told to stop"
    await no_request_is_left(host)


async def test_a_deadline_that_passes_midway_aborts(host: Host) -> None:
    async def stall(peer: Peer) -> None:
        await peer.until(LinkType.END)
        await peer.send(LinkType.DATA, b"the beginning")
        await peer.last_word()

    host.enclave.scripts["infer"] = stall
    with pytest.raises(aiohttp.ClientError):
        await host.infer(X_Deadline_Ms="200")
    await no_request_is_left(host)


async def test_a_problem_that_comes_while_the_body_is_still_coming_is_answered_at_once(host: Host) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.receive()
        await peer.send(LinkType.PROBLEM, {"code": "expired", "detail": "Too old."})
        await peer.last_word()

    async def endless() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.sleep(30)

    host.enclave.scripts["infer"] = refuse
    started = time.monotonic()
    status, problem, _ = await post(host, data=endless())
    assert (status, code(problem)) == (400, "expired"), "the enclave's word counts"
    assert time.monotonic() - started < 5, "without waiting for a body that nobody wants"


@pytest.mark.parametrize("content", [b"\x00", {"code": "no-such-code", "detail": "?"}, {"code": "expired"}])
async def test_a_problem_that_makes_no_sense_is_a_failed_host(host: Host, content: bytes | dict[str, object]) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.until(LinkType.END)
        await peer.send(LinkType.PROBLEM, content)

    host.enclave.scripts["infer"] = refuse
    status, problem, _ = await post(host)
    assert (status, code(problem)) == (502, "host-failed"), "nothing unknown is passed on to a tenant"


async def test_an_enclave_that_gives_no_document_is_a_failed_host(host: Host) -> None:
    async def nothing(peer: Peer) -> None:
        await peer.send(LinkType.REPLY, {})

    host.enclave.scripts["attest"] = nothing
    async with host.session.get(f"{host.url}/attestation", params={"nonce": "ab" * 16}) as response:
        problem = await response.json(content_type="application/problem+json")
    assert (response.status, code(problem)) == (502, "host-failed"), "a tenant is told, not left waiting"


# The worker.


async def hop_and_tell(peer: Peer) -> None:
    """An enclave that answers a failed hop with its reason, as the real one does."""
    await peer.until(LinkType.END)
    await peer.send(LinkType.HOP_DATA, b"hop")
    await peer.send(LinkType.HOP_END)
    while (message := await peer.receive()) is not None:
        if message.type is LinkType.HOP_ABORT:
            await peer.send(LinkType.PROBLEM, {"code": message.map()["reason"], "detail": "The hop failed."})
            return


async def test_a_worker_that_is_not_there_reaches_the_enclave_as_a_failed_hop(host: Host) -> None:
    await host.worker.stop()
    host.enclave.scripts["infer"] = hop_and_tell
    status, problem, _ = await post(host)
    assert (status, code(problem)) == (502, "host-failed"), "the router may try another host"


@pytest.mark.parametrize("how", ["killed", "abort", "garbage"])
async def test_a_worker_killed_midway_reaches_the_enclave_as_a_failed_hop(host: Host, how: str) -> None:
    async def die(peer: Peer) -> None:
        await peer.until(LinkType.HOP_END)
        await peer.send(LinkType.HOP_DATA, b"the beginning")
        if how == "abort":
            await peer.send(LinkType.ABORT, {"reason": "the engine died"})
        elif how == "garbage":
            peer.link._writer.write(b"\xff" * 100)
        else:
            peer.link.abort()

    host.worker.scripts["infer"] = die
    host.enclave.scripts["infer"] = hop_and_tell
    status, problem, _ = await post(host)
    assert (status, code(problem)) == (502, "host-failed"), "whatever way it died"
    await no_request_is_left(host)


@pytest.mark.parametrize(
    ("said", "passed"),
    [("overloaded", "overloaded"), ("unknown-model-pool", "unknown-model-pool"), ("replayed", "host-failed")],
)
async def test_a_workers_refusal_reaches_the_enclave_as_its_code(host: Host, said: str, passed: str) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.until(LinkType.HOP_END)
        await peer.send(LinkType.PROBLEM, {"code": said, "detail": "No."})

    host.worker.scripts["infer"] = refuse
    host.enclave.scripts["infer"] = hop_and_tell
    _, problem, _ = await post(host)
    assert code(problem) == passed, "only codes that a worker may say are passed on"


async def test_an_enclave_that_gives_up_the_hop_ends_the_worker(host: Host) -> None:
    latch = Latch()

    async def give_up(peer: Peer) -> None:
        await peer.until(LinkType.END)
        await peer.send(LinkType.HOP_DATA, b"hop")
        await latch.reached.wait()
        await peer.send(LinkType.HOP_ABORT, {"reason": "bad"})
        await latch.left.wait()
        await peer.send(LinkType.DATA, b"a sealed error")
        await peer.send(LinkType.END)

    host.worker.scripts["infer"] = latch.watch
    host.enclave.scripts["infer"] = give_up
    assert await host.infer() == (200, b"a sealed error"), "the enclave's own answer goes to the tenant"


# The client.


async def test_a_client_that_goes_stops_enclave_and_worker_at_once(host: Host) -> None:
    enclave, worker = Latch(), Latch()

    async def long_answer(peer: Peer) -> None:
        await peer.until(LinkType.END)
        await peer.send(LinkType.HOP_DATA, b"hop")
        await peer.send(LinkType.HOP_END)
        await peer.send(LinkType.DATA, b"the beginning")
        await enclave.watch(peer)

    host.enclave.scripts["infer"] = long_answer
    host.worker.scripts["infer"] = worker.watch
    async with host.session.post(f"{host.url}/inference", data=b"sealed", headers=HEADERS) as response:
        await response.content.readany()
        await worker.reached.wait()
        gone = time.monotonic()
        response.close()
        await asyncio.wait_for(asyncio.gather(enclave.left.wait(), worker.left.wait()), PATIENCE_S)
    assert time.monotonic() - gone < 1, "not at the next token, at once"
    assert enclave.last_word is LinkType.ABORT, "the enclave was told"
    await no_request_is_left(host)


async def test_a_client_that_goes_before_the_answer_stops_the_enclave(host: Host) -> None:
    latch = Latch()
    host.enclave.scripts["infer"] = latch.watch
    task = asyncio.create_task(host.infer())
    await latch.reached.wait()
    task.cancel()
    await asyncio.wait_for(latch.left.wait(), PATIENCE_S)
    await no_request_is_left(host)


async def test_a_body_that_ends_midway_is_never_taken_for_whole(host: Host) -> None:
    latch = Latch()
    host.enclave.scripts["infer"] = latch.watch
    reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
    writer.write(f"POST /inference HTTP/1.1\r\nHost: x\r\n{HEAD}Content-Length: 100\r\n\r\nhalf".encode())
    await latch.reached.wait()
    writer.close()
    await asyncio.wait_for(latch.left.wait(), PATIENCE_S)
    assert latch.last_word is LinkType.ABORT, "END would have said that the body is complete"
    del reader
    await no_request_is_left(host)


async def test_a_slow_writer_is_served(host: Host) -> None:
    async def dribble() -> AsyncIterator[bytes]:
        for letter in b"sealed":
            yield bytes([letter])
            await asyncio.sleep(0.01)

    assert await host.infer(dribble()) == (200, b"<hop:sealed>|receipt"), "slowness alone is no fault"


@pytest.mark.parametrize("kind", ["length", "chunked"])
async def test_a_body_over_the_limit_is_refused(host: Host, kind: str) -> None:
    taken = 0

    async def swallow(peer: Peer) -> None:
        nonlocal taken
        while (message := await peer.receive()) is not None:
            taken += len(message.payload)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield bytes(65_536)

    host.enclave.scripts["infer"] = swallow
    data = io.BytesIO(bytes(MAX_BODY_BYTES + 1)) if kind == "length" else endless()
    status, problem, _ = await post(host, data=data)
    assert (status, code(problem)) == (413, "too-large"), "over the limit is over the limit"
    assert taken < MAX_BODY_BYTES + 65_536 * 4, "and what goes beyond is not passed on"
    await no_request_is_left(host)


async def test_a_body_at_the_limit_passes(host: Host) -> None:
    async def count(peer: Peer) -> None:
        body = bytearray()
        while (message := await peer.receive()) is not None and message.type is not LinkType.END:
            if message.type is LinkType.DATA:
                body += message.payload
        await peer.send(LinkType.DATA, str(len(body)).encode())
        await peer.send(LinkType.END)

    host.enclave.scripts["infer"] = count
    assert await host.infer(io.BytesIO(bytes(MAX_BODY_BYTES))) == (200, str(MAX_BODY_BYTES).encode()), (
        "every byte of it"
    )


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param("X-Big: " + "x" * 10_000_000 + "\r\nContent-Length: 6\r\n", id="10 MB header"),
        pytest.param("Content-Length: 6\r\nContent-Length: 7\r\n", id="two lengths"),
        pytest.param("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", id="length and chunked"),
        pytest.param("Content-Length: -1\r\n", id="negative length"),
    ],
)
async def test_a_head_that_can_be_read_two_ways_is_refused(host: Host, extra: str) -> None:
    answer = await raw(host, f"POST /inference HTTP/1.1\r\nHost: x\r\n{HEAD}{extra}\r\nsealed".encode())
    # A peer that is still sending 10 MB may be cut off before it reads the answer.
    assert answer == b"" or b" 400 " in answer.split(b"\r\n", 1)[0], "as malformed"
    assert host.enclave.openings("infer") == [], "and reaches no enclave"
    assert (await host.infer())[0] == 200, "and the next request is served"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("Content-Type", "application/json", "malformed-envelope"),
        ("X-Tenant-ID", "", "header-mismatch"),
        ("X-Tenant-ID", "t" * 129, "header-mismatch"),
        ("X-Model-Pool", "m" * 129, "header-mismatch"),
        ("X-KMS-Key-ARN", "a" * 2049, "header-mismatch"),
        ("X-Deadline-Ms", "soon", "malformed-envelope"),
    ],
)
async def test_headers_that_no_envelope_can_match_are_refused(host: Host, name: str, value: str, expected: str) -> None:
    status, problem, _ = await post(host, headers=HEADERS | {name: value})
    assert (status, code(problem)) == (400, expected), "before anything else is done"
    assert name in str(problem["detail"]), "and the sentence names the header"
    assert host.enclave.openings("infer") == [], "the enclave is not troubled"


async def test_no_time_left_is_said_at_once(host: Host) -> None:
    status, problem, _ = await post(host, headers=HEADERS | {"X-Deadline-Ms": "0"})
    assert (status, code(problem)) == (504, "deadline-exceeded"), "too late is not malformed"


# Draining.


async def test_a_drain_finishes_what_is_in_flight_and_takes_nothing_new(host: Host) -> None:
    latch = Latch()

    async def wait(peer: Peer) -> None:
        await peer.until(LinkType.END)
        await peer.send(LinkType.DATA, b"first,")
        await latch.hold()
        await peer.send(LinkType.DATA, b"last")
        await peer.send(LinkType.END)

    host.enclave.scripts["infer"] = wait
    before = asyncio.create_task(host.infer())
    await latch.reached.wait()
    host.stop.request()
    await eventually(
        lambda: host.registry._hosts["us-east-1", "i-test"].state is HostState.DRAINING, "a report of draining"
    )
    status, problem, headers = await post(host)
    assert (status, code(problem), headers["Retry-After"]) == (503, "no-capacity", "1"), "new ones go elsewhere"
    status, page = await host.health()
    assert (status, page["status"], page["ready"]) == (503, "draining", False), "readiness is withdrawn"
    latch.go_on.set()
    assert await before == (200, b"first,last"), "what was in flight is finished"
    await asyncio.wait_for(host.task, PATIENCE_S)
    assert await host.registry.hosts("us-east-1") == (), "and the record is gone"


def refused(host: Host) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", host.port)) != 0


async def test_an_idle_host_stops_at_once(host: Host) -> None:
    started = time.monotonic()
    host.stop.request()
    await asyncio.wait_for(host.task, PATIENCE_S)
    assert time.monotonic() - started < 3, "nothing was in flight, so nothing was waited for"
    assert refused(host), "and nobody listens any more"


# Faults that need other settings.


async def test_a_drain_is_bounded_and_aborts_what_is_left(quick_host: Host) -> None:
    host, latch = quick_host, Latch()

    async def never_end(peer: Peer) -> None:
        await peer.until(LinkType.END)
        await peer.send(LinkType.DATA, b"the beginning")
        await latch.watch(peer)

    host.enclave.scripts["infer"] = never_end
    task = asyncio.create_task(host.infer())
    await latch.reached.wait()
    started = time.monotonic()
    host.stop.request()
    with pytest.raises(aiohttp.ClientError):
        await task
    await asyncio.wait_for(host.task, PATIENCE_S)
    assert time.monotonic() - started < 6, "the drain time is a bound"
    await asyncio.wait_for(latch.left.wait(), PATIENCE_S)


async def test_a_full_host_refuses_with_a_time_to_come_back(quick_host: Host) -> None:
    host, latch = quick_host, Latch()

    async def wait(peer: Peer) -> None:
        await peer.until(LinkType.END)
        await latch.hold()
        await peer.send(LinkType.DATA, b"done")
        await peer.send(LinkType.END)

    host.enclave.scripts["infer"] = wait
    first = asyncio.create_task(host.infer())
    await latch.reached.wait()
    status, problem, headers = await post(host)
    assert (status, code(problem), headers["Retry-After"]) == (429, "overloaded", "1"), "one slot, and it is taken"
    latch.go_on.set()
    assert await first == (200, b"done"), "the one inside is not disturbed"


async def test_a_body_that_stops_midway_is_not_waited_for_for_ever(quick_host: Host) -> None:
    host, latch = quick_host, Latch()
    host.enclave.scripts["infer"] = latch.watch

    async def stop_midway() -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.sleep(30)

    status, problem, _ = await post(host, data=stop_midway())
    assert (status, code(problem)) == (504, "deadline-exceeded"), "long before the deadline"
    assert "stopped" in str(problem["detail"]), "and the sentence says what stopped"
    await asyncio.wait_for(latch.left.wait(), PATIENCE_S)
    assert latch.last_word is LinkType.ABORT, "the enclave is told"


async def test_a_body_that_breaks_the_chunked_coding_is_never_taken_for_whole(quick_host: Host) -> None:
    host, latch = quick_host, Latch()
    host.enclave.scripts["infer"] = latch.watch
    reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
    try:
        chunk = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc"
        writer.write(f"POST /inference HTTP/1.1\r\nHost: x\r\n{HEAD}{chunk}".encode())
        await latch.reached.wait()
        writer.write(b"\r\nzz\r\n")
        # aiohttp's parser stops there and tells the handler nothing, so the idle limit is what ends it.
        answer = await asyncio.wait_for(reader.readline(), PATIENCE_S)
        assert b" 504 " in answer, "the body stopped, as far as anyone can tell"
        await asyncio.wait_for(latch.left.wait(), PATIENCE_S)
        assert latch.last_word is LinkType.ABORT, "END would have said that the body is complete"
    finally:
        writer.close()
    await no_request_is_left(host)


async def test_a_slow_reader_holds_little_and_not_for_ever(quick_host: Host) -> None:
    host, latch, sent = quick_host, Latch(), 0

    async def flood(peer: Peer) -> None:
        nonlocal sent
        await peer.until(LinkType.END)
        try:
            for _ in range(2_000):
                await peer.send(LinkType.DATA, bytes(65_536))
                sent += 65_536
        finally:
            latch.left.set()

    host.enclave.scripts["infer"] = flood
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.connect(("127.0.0.1", host.port))
        client.sendall(f"POST /inference HTTP/1.1\r\nHost: x\r\n{HEAD}Content-Length: 6\r\n\r\nsealed".encode())
        await asyncio.wait_for(latch.left.wait(), PATIENCE_S)
    assert sent < 16 * 1_048_576, "the kernel's socket buffers filled (a few MiB), and the enclave was held back"
    await no_request_is_left(host)


async def test_a_port_in_use_is_one_sentence(host: Host) -> None:
    with pytest.raises(AddressError, match=r"Could not listen at 127\.0\.0\.1:\d+ .*in use.*HTTP_PORT"):
        await asyncio.wait_for(host.serving(), PATIENCE_S)  # a second parent on the first one's port
    assert (await host.health())[0] == 200, "the first one is not disturbed"


async def test_those_who_ask_for_documents_together_share_one_and_each_can_check_it(host: Host) -> None:
    async def ask(nonce: bytes) -> tuple[bytes, str | None]:
        async with host.session.get(f"{host.url}/attestation", params={"nonce": nonce.hex()}) as response:
            assert response.status == 200, await response.text()
            return await response.read(), response.headers.get("X-MRGC-Nonces")

    alone = bytes(range(16))
    assert await ask(alone) == (b"document over " + alone, None), "a single nonce stays as it is"
    nonces = [bytes([number]) * 32 for number in range(10)]
    for nonce, (document, listed) in zip(nonces, await asyncio.gather(*map(ask, nonces)), strict=True):
        assert document == b"document over " + expected_nonce(nonce, listed), "each finds its nonce in the list"
    assert len(host.enclave.openings("attest")) == 2, "one document for ten"


async def test_more_than_one_document_serves_are_told_to_come_back(host: Host) -> None:
    async def ask(nonce: bytes) -> tuple[int, str | None]:
        async with host.session.get(f"{host.url}/attestation", params={"nonce": nonce.hex()}) as response:
            return response.status, response.headers.get("Retry-After")

    answers = await asyncio.gather(*(ask(bytes([number]) * 16) for number in range(120)))
    assert set(answers) == {(200, None), (429, "1")}, "served, or told when there is room again"
    assert len(host.enclave.openings("attest")) <= 3, "and the enclave made a few documents for all"
    assert (await host.infer())[0] == 200, "while requests are served"

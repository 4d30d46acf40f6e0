"""A marked prompt in every broken framing, sent to the tenant's proxy as a process: no log, span or output has it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from dataplane.protocol.errors import ProblemError
from tests.integration.test_tenant_cli import stack, start
from tests.unit.tenant.fake_cluster import Answer, Drop, FakeCluster, Refuse, Step, chat_events

MARK = "SECRETPROMPT"
PAGE = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": MARK}]})
CHUNKED = f"{PAGE}Transfer-Encoding: chunked\r\n\r\n"
AT_ONCE_S = 5.0
"""Far below the 60 s that a body may take: a fault that is seen is answered."""


def chunk(data: str) -> str:
    return f"{len(data):x}\r\n{data}\r\n"


def sized(length: int | str, *more: str, body: str = BODY) -> str:
    return f"{PAGE}Content-Length: {length}\r\n{''.join(f'{line}{chr(13)}{chr(10)}' for line in more)}\r\n{body}"


@dataclass(frozen=True)
class Sent:
    """Bytes in packets, and the statuses that may answer them (0: none does; the sender has left)."""

    packets: tuple[str, ...]
    statuses: tuple[int, ...] = (400,)


SENT = {
    "a chunk size that is none": Sent((f'{CHUNKED}zz{{"{MARK}"}}\r\n',)),
    "a chunk size that is none, later": Sent((f"{CHUNKED}{chunk(BODY[:20])}", f'zz{{"{MARK}"}}\r\n')),
    "a chunk without its size": Sent((CHUNKED, BODY)),
    "a chunk longer than its size": Sent((f"{CHUNKED}5\r\n{BODY}\r\n0\r\n\r\n",)),
    "a chunk longer than its size, later": Sent((CHUNKED, f"5\r\n{BODY}\r\n0\r\n\r\n")),
    "a chunk size past all numbers": Sent((f"{CHUNKED}{'f' * 40}\r\n{BODY}",)),
    "a chunk extension with a bare line feed": Sent((f"{CHUNKED}5;{MARK}\n{BODY}",)),
    "a trailer that is none": Sent((f"{CHUNKED}{chunk(BODY)}0\r\n{MARK} {MARK}\r\n\r\n",)),
    "chunks that just stop": Sent((f"{CHUNKED}{chunk(BODY)}",), (0,)),
    "a length too short, then close": Sent((sized(len(BODY) - 5, "Connection: close"),)),
    "a length too short, then close, later": Sent(
        (sized(len(BODY) - 40, "Connection: close", body=BODY[:-40]), BODY[-40:]),
    ),
    "a length too short, kept alive": Sent((sized(len(BODY) - 40),)),
    "a length of nothing": Sent((sized(0),)),
    "a length too long": Sent((sized(len(BODY) + 50),), (0,)),
    "a length that is none": Sent((sized(MARK),)),
    "a negative length": Sent((sized(-5),)),
    "two lengths": Sent((sized(len(BODY), f"Content-Length: {len(BODY) + 1}"),)),
    "a length and chunks": Sent((sized(len(BODY), "Transfer-Encoding: chunked"),)),
    "another transfer coding": Sent((sized(len(BODY), f"Transfer-Encoding: {MARK}"),)),
    "no head at all": Sent((f"{BODY}\r\n\r\n",)),
    "no blank line before the body": Sent((f"{PAGE}{BODY}\r\n\r\n",)),
    "a control character in a header": Sent((f"{PAGE}X-Prompt: {MARK}\x00\r\n\r\n",)),
    "a folded header": Sent((f"{PAGE}X-Prompt: a\r\n {MARK}: b\r\n\r\n",), (400, 0)),
    "a header over the limit": Sent((f"{PAGE}X-Prompt: {MARK * 1_000}\r\n\r\n",)),
    "too many headers": Sent((PAGE + "".join(f"X-{n}: {MARK}\r\n" for n in range(200)) + "\r\n",)),
    "a version that is none": Sent((f"POST /v1/{MARK} HTTP/9.9\r\n\r\n",)),
    "a method that is none": Sent((f"{MARK} / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",)),
    "a URL that is none": Sent((f"POST http://[{MARK} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",)),
    "HTTP/2 unasked": Sent((f"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{BODY}",)),
    "a path with the prompt": Sent(
        (f"POST /v1/{MARK} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n",), (404,)
    ),
    "a host that is none": Sent((f"POST /v1/models HTTP/1.1\r\nHost: [{MARK}\r\nContent-Length: 0\r\n\r\n",)),
    "an origin that is none": Sent((sized(len(BODY), f"Origin: http://[{MARK}"),)),
    "an upgrade": Sent((sized(len(BODY), "Connection: upgrade", f"Upgrade: {MARK}"),), (200, 400, 503)),
    "gzip that is none": Sent((sized(len(BODY), "Content-Encoding: gzip"),)),
    "deflate that is none": Sent((sized(len(BODY), "Content-Encoding: deflate"),)),
    "a coding that is not known": Sent((sized(len(BODY), f"Content-Encoding: {MARK}"),), (415,)),
    "brotli": Sent((sized(len(BODY), "Content-Encoding: br"),), (415,)),
    "JSON that is none": Sent((sized(len(BODY) - 1, body=BODY[:-1]),)),
    "JSON of another form": Sent((sized(len(MARK) + 2, body=f'"{MARK}"'),)),
    "a body over the limit": Sent((f"{PAGE}Content-Length: 2000000\r\n\r\n{MARK * 100_000}",), (413,)),
    "a deadline that is none": Sent((sized(len(BODY), f"X-Deadline-Ms: {MARK}"),)),
    "a content type that is none": Sent((sized(len(BODY), f"Content-Type: a;charset={MARK}"),), (200, 400)),
}
"""Every way that a client, or whoever stands between, may break a request that carries a prompt."""

SERVED: dict[str, tuple[Step, int]] = {
    "a good request": (Answer((b'{"choices": []}',)), 200),
    "a request that the cluster refuses": (Refuse(ProblemError("kms-denied", "Because.")), 403),
    "a request whose stream breaks": (
        Answer(chat_events("o", "p"), content_type="text/event-stream", cut_after=1),
        200,
    ),
    "a request that is dropped": (Drop(), 502),
}


async def say(port: int, sent: Sent) -> tuple[int, bytes]:
    """Send the packets; the status that came (0 for none) and everything that was said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    try:
        # What is not answered in time counts as not answered.
        with contextlib.suppress(ConnectionError, TimeoutError):
            for number, packet in enumerate(sent.packets):
                if number:
                    await asyncio.sleep(0.05)  # so that it is a packet of its own
                writer.write(packet.encode("latin-1"))
                await writer.drain()
            if 0 in sent.statuses:
                writer.write_eof()
            async with asyncio.timeout(AT_ONCE_S):
                while b"\r\n\r\n" not in said and (piece := await reader.read(65_536)):
                    said += piece
                match = re.search(rb"content-length: (\d+)", said, re.IGNORECASE)
                while match and len(said.split(b"\r\n\r\n", 1)[1]) < int(match[1]):
                    said += await reader.read(65_536)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return (int(said.split(b" ", 2)[1]) if said.startswith(b"HTTP/") else 0), said


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, bytearray]]:
    """Where spans go: everything that was exported, as it came."""
    received = bytearray()

    async def take(request: web.BaseRequest) -> web.Response:
        received.extend(await request.read())
        return web.Response()

    runner = web.ServerRunner(web.Server(take))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", received
    finally:
        await runner.cleanup()


async def test_a_prompt_is_in_no_log_and_no_span_however_the_request_is_broken(tmp_path: Path) -> None:
    steps: list[Step] = []
    cluster = FakeCluster(otherwise=lambda _: steps[-1])
    steps.append(Answer((b'{"choices": []}',)))
    wrong = []
    home = tmp_path / "home"
    home.mkdir()
    async with collector() as (spans_at, spans), stack(tmp_path, cluster) as path:
        process = await start(
            "proxy", "--cluster", str(path), "--port", "0", "--json",
            OTEL_EXPORTER_OTLP_ENDPOINT=spans_at, OTEL_EXPORTER_OTLP_COMPRESSION="none", HOME=str(home),
            TMPDIR=str(home), PYTHONASYNCIODEBUG="1", PYTHONDEVMODE="1",
        )  # fmt: skip
        try:
            assert process.stdout is not None, "a pipe"
            async with asyncio.timeout(60):
                line = await process.stdout.readline()
            port = int(json.loads(line)["url"].split(":")[2].split("/")[0])
            for what, sent in SENT.items():
                status, said = await say(port, sent)
                if status not in sent.statuses:
                    wrong.append(f"{what}: {said[:200]!r}")
                if status in {400, 404, 415} and b"content-type: application/json" in said.lower():
                    error = json.loads(said.split(b"\r\n\r\n", 1)[1])["error"]
                    assert set(error) == {"message", "type", "param", "code"}, f"{what}: OpenAI's shape"
                    assert b"x-should-retry: false" in said.lower(), f"{what}: the same again would be as wrong"
                elif status >= 400 and status != 413:
                    wrong.append(f"{what}: not in OpenAI's shape: {said[:200]!r}")
            for what, (step, expected) in SERVED.items():
                steps.append(step)
                body = BODY[:-1] + (', "stream": true}' if "stream" in what else "}")
                status, said = await say(port, Sent((sized(len(body), "X-Deadline-Ms: 1500", body=body),)))
                assert status == expected, f"{what}: {said[:200]!r}"
            assert process.returncode is None, "it serves to the end"
        finally:
            process.terminate()
            async with asyncio.timeout(60):
                out, err = await process.communicate()
    assert b"refused a malformed request" in err, "control: kinds of errors are logged"
    assert b"tenant.request" in spans, "control: spans were exported"
    assert any(MARK in seen.message.body.decode() for seen in cluster.seen), "control: good prompts were sent"
    written = {str(file): file.read_bytes() for file in home.rglob("*") if file.is_file()}
    for where, text in {"stdout": line + out, "stderr": err, "spans": bytes(spans), **written}.items():
        at = text.find(MARK.encode())
        assert at < 0, f"the prompt is in {where}: {text[max(0, at - 300) : at + 100]!r}"
    assert not wrong, "\n".join(wrong)
